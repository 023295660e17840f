"""Files of ours: read within bounds, and replaced only when all is written."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from pytreellama.errors import FileError

_CHUNK = 2**20

# reading, where the platform would wait for a pipe's writer
_OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


# -- reading


@contextmanager
def regular_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file that is open for reading. A pipe or a device, which may never end, is refused.

    Raises:
        FileError: it is missing, cannot be read, or is no regular file.
    """
    try:
        descriptor = os.open(path, _OPEN_FLAGS)
    except (OSError, ValueError) as error:
        raise FileError(f"cannot read {path}: {reason_of(error)}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileError(f"cannot read {path}: it is not a regular file")
    with os.fdopen(descriptor, "rb") as file:
        yield file


def read_bytes(path: str | os.PathLike[str], *, max_bytes: int) -> bytes:
    """What a regular file holds. Raises FileError, also if it is larger than ``max_bytes``."""
    with regular_file(path) as file:
        n_bytes = os.fstat(file.fileno()).st_size
        if n_bytes > max_bytes:
            raise FileError(f"{path} has {n_bytes} bytes; such a file may have {max_bytes}")
        try:
            return file.read(n_bytes)
        except OSError as error:
            raise FileError(f"cannot read {path}: {reason_of(error)}") from error


def sha256_of(path: Path) -> str:
    """SHA-256 of a regular file, as hexadecimal digits. Raises FileError: it cannot be read."""
    digest = hashlib.sha256()
    with regular_file(path) as file:
        try:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
        except OSError as error:
            raise FileError(f"cannot read {path}: {reason_of(error)}") from error
    return digest.hexdigest()


def read_json(path: str | os.PathLike[str], *, max_bytes: int) -> Any:
    """What a file of JSON says. Raises FileError: as ``read_bytes``, or it is not JSON."""
    return parse_json(read_bytes(path, max_bytes=max_bytes), str(path))


def parse_json(text: str | bytes, name: str) -> Any:
    """What a text in JSON says.

    Args:
        name: what the text is, for the message.

    Raises:
        FileError: it is not JSON, nested too deeply, or has NaN or infinity for a number.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise FileError(f"{name} is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise FileError(f"{name} is not JSON ({error.msg} at character {error.pos + 1})") from None
    except ValueError as error:  # no UTF-8, or an integer of thousands of digits
        raise FileError(f"{name} is not JSON: {error}") from error


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number of JSON")


# -- writing


@contextmanager
def replaced_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A new file beside `path`, which takes its place at the end of the block.

    If the block raises, nothing has changed. Raises FileError where it cannot be written.
    """
    with replaced_path(path) as part, part.open("wb") as file:
        yield file


@contextmanager
def replaced_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """The path of a new file, for those who open it themselves; otherwise as `replaced_file`."""
    target = output_path(path)
    try:
        # not tempfile's, which nobody else may read
        part = target.with_name(f"{target.name}{secrets.token_hex(4)}")
        part.touch(exist_ok=False)
        try:
            yield part
            os.replace(part, target)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    except FileError:
        raise
    except OSError as error:
        raise FileError(
            f"cannot write {target}: {reason_of(error)}; give a path in a folder that you may write"
        ) from error


def output_path(path: str | os.PathLike[str]) -> Path:
    """Where a file is to be written, symbolic links followed.

    Raises:
        FileError: there is something that is not a regular file, such as a device or a folder.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        what = "a directory" if target.is_dir() else "not a regular file"
        raise FileError(f"cannot write {path}: it is {what}; give the path of a file")
    return target


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a whole file of UTF-8. Raises FileError where it cannot be written."""
    with replaced_file(path) as file:
        file.write(text.encode())


def make_folder(path: Path) -> None:
    """Make a folder and those above it. Raises FileError where that cannot be done."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"cannot make the folder {path}: {reason_of(error)}") from error


def reason_of(error: Exception) -> str:
    """What an error of the system says, without the path that our messages name."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
