"""Files of arrays (npz) that may be damaged, read within bounds and without pickles."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytreellama.errors import FileError
from pytreellama.files import reason_of, regular_file


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
    return FileError(f"{path} is damaged, or is no file of arrays: {reason_of(error)}")
