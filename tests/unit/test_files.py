"""Files of ours: regular, of bounded size and depth, and replaced whole."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from pytreellama.array_files import arrays_file
from pytreellama.errors import FileError, PyTreeLlamaError
from pytreellama.files import (
    make_folder,
    parse_json,
    read_bytes,
    read_json,
    replaced_file,
    sha256_of,
    write_text,
)


def test_a_file_error_is_ours_and_an_os_error() -> None:
    assert issubclass(FileError, PyTreeLlamaError) and issubclass(FileError, OSError)


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    if hasattr(os, "mkfifo"):
        os.mkfifo(pipe)
    link.symlink_to("/dev/zero")
    for path in (pipe, link, tmp_path, tmp_path / "none"):
        with pytest.raises(FileError, match="cannot read"):
            read_bytes(path, max_bytes=10)


def test_a_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert read_bytes(path, max_bytes=5) == b"12345"
    with pytest.raises(FileError, match="has 5 bytes"):
        read_bytes(path, max_bytes=4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ("9" * 6000, "is not JSON"),
        ("[NaN]", "NaN is not a number"),
        ("[-Infinity]", "-Infinity is not a number"),
        ("{", "at character 2"),
        (b"\xff\xfe\xfd", "is not JSON"),
        ("", "is not JSON"),
    ],
)
def test_what_is_not_json_is_one_kind_of_error(text: str | bytes, message: str) -> None:
    with pytest.raises(FileError, match=message):
        parse_json(text, "it")


def test_json_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text(path, '{"a": [1, 2.5, null]}')
    assert read_json(path, max_bytes=100) == {"a": [1, 2.5, None]}


def test_arrays_are_read_one_by_one_and_within_bounds(tmp_path: Path) -> None:
    path = tmp_path / "arrays.npz"
    np.savez_compressed(path, a=np.arange(5), b=np.zeros(100_000))
    with arrays_file(path, max_bytes=10**6) as arrays:
        assert set(arrays.names) == {"a", "b"}
        assert arrays["a"].tolist() == [0, 1, 2, 3, 4]
        with pytest.raises(FileError, match="damaged"):
            arrays["c"]
    with (
        pytest.raises(FileError, match="at most 1000 are read"),
        arrays_file(path, max_bytes=1000),
    ):
        pass


def test_where_nothing_can_be_written_the_path_is_named(tmp_path: Path) -> None:
    path = tmp_path / "none" / "file"
    with pytest.raises(FileError, match=f"cannot write {path}"), replaced_file(path):
        pass
    write_text(tmp_path / "file", "x")
    with pytest.raises(FileError, match="cannot make the folder"):
        make_folder(tmp_path / "file" / "folder")


def test_the_old_file_stays_when_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text(path, "old")
    with pytest.raises(ZeroDivisionError), replaced_file(path) as file:
        file.write(b"new")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_hash_is_of_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"")
    assert sha256_of(path).startswith("e3b0c442")


class TestTargets:
    def test_a_pipe_is_not_replaced(self, tmp_path: Path) -> None:
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        with pytest.raises(FileError, match="not a regular file"), replaced_file(pipe):
            pass
        assert pipe.is_fifo()

    @pytest.mark.parametrize("name", [".", "", "folder"])
    def test_a_folder_is_not_replaced(
        self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "folder").mkdir()
        with pytest.raises(FileError, match="it is a directory"), replaced_file(name):
            pass

    def test_a_symbolic_link_is_followed(self, tmp_path: Path) -> None:
        target, link = tmp_path / "target", tmp_path / "link"
        target.write_bytes(b"old")
        link.symlink_to(target)
        with replaced_file(link) as file:
            file.write(b"new")
        assert link.is_symlink() and target.read_bytes() == b"new"
