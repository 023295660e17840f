"""Files of ours: read within bounds, and replaced only when all is written."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

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
        raise FileError(f"cannot read {path}: {_reason(error)}") from error
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
            raise FileError(f"cannot read {path}: {_reason(error)}") from error


def sha256_of(path: Path) -> str:
    """SHA-256 of a regular file, as hexadecimal digits. Raises FileError: it cannot be read."""
    digest = hashlib.sha256()
    with regular_file(path) as file:
        try:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
        except OSError as error:
            raise FileError(f"cannot read {path}: {_reason(error)}") from error
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


class ArraysFile:
    """The arrays of an npz file that is open, by name; each is read when it is asked for."""

    def __init__(self, arrays: Any, path: str | os.PathLike[str]) -> None:
        self._arrays = arrays
        self._path = path
        self.names: tuple[str, ...] = tuple(arrays.files)

    def __getitem__(self, name: str) -> NDArray[Any]:
        """Raises FileError: there is no such array, or it is damaged."""
        try:
            array: NDArray[Any] = self._arrays[name]
        except Exception as error:  # over damaged bytes zipfile and NumPy raise all kinds
            raise _damaged(self._path, error) from error
        return array


@contextmanager
def arrays_file(path: str | os.PathLike[str], *, max_bytes: int) -> Iterator[ArraysFile]:
    """The arrays of an npz file without pickles.

    Args:
        max_bytes: of all arrays together, unpacked.

    Raises:
        FileError: it is missing, no regular file, no npz file, damaged or too large.
    """
    with regular_file(path) as file:
        try:
            n_bytes = sum(part.file_size for part in zipfile.ZipFile(file).infolist())
            file.seek(0)
            arrays = np.load(file, allow_pickle=False)
        except Exception as error:  # as above
            raise _damaged(path, error) from error
        if n_bytes > max_bytes:
            raise FileError(f"{path} unpacks to {n_bytes} bytes; at most {max_bytes} are read")
        with arrays:
            yield ArraysFile(arrays, path)


def _damaged(path: str | os.PathLike[str], error: Exception) -> FileError:
    return FileError(f"{path} is damaged, or is no file of arrays: {_reason(error)}")


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
    target = Path(path)
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
            f"cannot write {target}: {_reason(error)}; give a path in a folder that you may write"
        ) from error


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a whole file of UTF-8. Raises FileError where it cannot be written."""
    with replaced_file(path) as file:
        file.write(text.encode())


def make_folder(path: Path) -> None:
    """Make a folder and those above it. Raises FileError where that cannot be done."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"cannot make the folder {path}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
