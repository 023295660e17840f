"""Files of what drafters learned: arrays by name, replaced only when all is written."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytreellama.errors import DraftError
from pytreellama.files import replaced_file


def save_arrays(
    path: str | os.PathLike[str], kind: str, arrays: Mapping[str, NDArray[np.generic]]
) -> None:
    """Write arrays, and what kind of thing they are. Raises OSError."""
    parts: dict[str, Any] = {"kind": np.array(kind), **arrays}
    with replaced_file(path) as file:
        np.savez_compressed(file, **parts)


def load_arrays(path: str | os.PathLike[str], kind: str) -> dict[str, NDArray[np.generic]]:
    """Read what `save_arrays` wrote.

    Raises DraftError if there is no such file, or it is damaged or of another kind.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except FileNotFoundError as error:
        raise DraftError(f"there is no file {path} to read {kind} from") from error
    except Exception as error:  # over damaged bytes zipfile, zlib and NumPy raise what they like
        raise DraftError(f"{path} does not hold {kind}, or is damaged: {error}") from error
    if str(arrays.pop("kind", "")) != kind:
        raise DraftError(f"{path} does not hold {kind}; give a file that was saved as such")
    return arrays
