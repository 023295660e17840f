"""Integrity: files that differ from their hashes are found, and those that do not are not."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from pytreellama import integrity
from pytreellama.model import default_model


@pytest.fixture
def native(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "lib").write_bytes(b"library")
    files = {"lib": hashlib.sha256(b"library").hexdigest()}
    (tmp_path / "build_info.json").write_text(json.dumps({"files": files}))
    monkeypatch.setattr(integrity, "_NATIVE", tmp_path)
    return tmp_path


def test_libraries_as_they_were_built_are_right(native: Path) -> None:
    (check,) = integrity.check_native()
    assert check.problem is None and check.path == native / "lib"


def test_a_library_that_was_changed_differs(native: Path) -> None:
    (native / "lib").write_bytes(b"Library")
    (check,) = integrity.check_native()
    assert check.problem is not None and "expected" in check.problem


@pytest.mark.parametrize("content", ["", "[]", "{}", "[" * 100_000, '{"files": 3}'])
def test_hashes_that_are_not_known_are_a_problem(native: Path, content: str) -> None:
    (native / "build_info.json").write_text(content)
    (check,) = integrity.check_native()
    assert check.problem is not None and "not known" in check.problem


def test_a_default_model_with_size_and_time_kept_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.gguf"
    monkeypatch.setattr(default_model, "cached_path", lambda: path)
    assert integrity.check_default_model() is None
    path.write_bytes(b"not it")
    check = integrity.check_default_model()
    assert check is not None and check.problem is not None
    monkeypatch.setattr(default_model, "SHA256", hashlib.sha256(b"not it").hexdigest())
    check = integrity.check_default_model()
    assert check is not None and check.problem is None
