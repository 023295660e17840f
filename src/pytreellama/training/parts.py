"""Parts: a folder of arrays that grows part by part, so that an interruption loses one at most."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytreellama.errors import FileError, MedusaError
from pytreellama.files import make_folder, read_json, regular_file, replaced_file

_FACTS = "facts.json"
_MAX_JSON_BYTES = 2**20


class Parts:
    """A folder of parts; each is whole or not there.

    Args:
        folder: made if it is not there.
        facts: what all parts must have in common, such as the model's fingerprint.

    Raises:
        MedusaError: it holds texts of another model, or written with other options.
    """

    def __init__(self, folder: Path, facts: Mapping[str, Any]) -> None:
        self.folder = folder
        make_folder(folder)
        path = folder / _FACTS
        if not path.exists():
            _write_json(path, facts)
        if _read_json(path) != facts:
            raise MedusaError(
                f"{folder} holds texts of another model, or written with other options; give "
                "another --work folder, or remove this one"
            )

    @property
    def n_parts(self) -> int:
        """Parts that are whole."""
        n = 0
        while self._facts_path(n).exists():
            n += 1
        return n

    @property
    def n_tokens(self) -> int:
        """Tokens in all parts."""
        return sum(int(count) for count in self._part_facts("n_tokens"))

    @property
    def seconds(self) -> float:
        """What writing all of it took."""
        return sum(float(seconds) for seconds in self._part_facts("seconds"))

    def add(self, arrays: Mapping[str, NDArray[Any]], n_tokens: int, seconds: float) -> None:
        """Put a part on disk that took so long to write."""
        n = self.n_parts
        for name, array in arrays.items():
            with replaced_file(self._path(n, name)) as file:
                np.save(file, array)
        _write_json(self._facts_path(n), {"n_tokens": n_tokens, "seconds": seconds})

    def array(self, part: int, name: str, *, mapped: bool = False) -> NDArray[Any]:
        """One array of a part.

        Args:
            mapped: leave it on disk, and read what is asked for.

        Raises:
            MedusaError: it is missing or damaged.
        """
        path = self._path(part, name)
        try:
            with regular_file(path) as file:
                array: NDArray[Any]
                if mapped:
                    array = np.load(path, mmap_mode="r", allow_pickle=False)
                else:
                    array = np.load(file, allow_pickle=False)
        except Exception as error:  # over damaged bytes NumPy raises what it likes
            raise damaged(path, error) from error
        return array

    def _path(self, part: int, name: str) -> Path:
        return self.folder / f"{part:05}-{name}.npy"

    def _facts_path(self, part: int) -> Path:
        return self.folder / f"{part:05}.json"

    def _part_facts(self, key: str) -> list[Any]:
        paths = [self._facts_path(i) for i in range(self.n_parts)]
        found = []
        for path in paths:
            facts = _read_json(path)
            if not isinstance(facts, dict) or not isinstance(facts.get(key), int | float):
                raise damaged(path, f"it has no number {key}")
            found.append(facts[key])
        return found


def damaged(path: Path, reason: object) -> MedusaError:
    """The error for a file of a part that cannot be read."""
    return MedusaError(f"{path} is missing or damaged: {reason}; remove the folder")


def _write_json(path: Path, facts: Mapping[str, Any]) -> None:
    with replaced_file(path) as file:
        file.write(json.dumps(facts).encode())


def _read_json(path: Path) -> Any:
    try:
        return read_json(path, max_bytes=_MAX_JSON_BYTES)
    except FileError as error:
        raise damaged(path, error) from error
