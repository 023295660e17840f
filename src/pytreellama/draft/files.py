"""Files of what drafters learned: arrays by name, replaced only when all is written."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytreellama.array_files import arrays_file
from pytreellama.errors import DraftError, FileError
from pytreellama.files import replaced_file

_MAX_BYTES = 2**32


def save_arrays(
    path: str | os.PathLike[str], kind: str, arrays: Mapping[str, NDArray[np.generic]]
) -> None:
    """Write arrays, and what kind of thing they are. Raises FileError."""
    parts: dict[str, Any] = {"kind": np.array(kind), **arrays}
    with replaced_file(path) as file:
        np.savez_compressed(file, **parts)


def load_arrays(path: str | os.PathLike[str], kind: str) -> dict[str, NDArray[np.generic]]:
    """Read what `save_arrays` wrote.

    Raises DraftError if there is no such file, or it is damaged or of another kind.
    """
    if not os.path.lexists(path):
        raise DraftError(f"there is no file {path} to read {kind} from")
    try:
        with arrays_file(path, max_bytes=_MAX_BYTES) as file:
            arrays = {name: file[name] for name in file.names}
    except FileError as error:
        raise DraftError(f"{path} does not hold {kind}: {error}") from error
    if str(arrays.pop("kind", "")) != kind:
        raise DraftError(f"{path} does not hold {kind}; give a file that was saved as such")
    return arrays
