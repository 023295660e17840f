"""Store: what a model wrote and from which hidden states, on disk, in parts that stay."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytreellama.errors import FileError, MedusaError
from pytreellama.files import make_folder, read_json, regular_file, replaced_file

_FACTS = "facts.json"
_HELD_OUT_ONE_IN = 20
_MAX_JSON_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Text:
    """One text.

    tokens: int32, shape (n,). states: float16, shape (n, n_embd): state i is what token i was drawn
    from, so it has seen the prompt and the tokens before i.
    """

    tokens: NDArray[np.int32]
    states: NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class Texts:
    """Many texts, one after another.

    tokens: int32, shape (n,). states: float16, shape (n, n_embd). ends: int64, shape (n_texts,):
    where each text ends.
    """

    tokens: NDArray[np.int32]
    states: NDArray[np.float16]
    ends: NDArray[np.int64]

    def positions(self, n_ahead: int, held_out: bool) -> NDArray[np.int64]:
        """Places i so that i to i + n_ahead lie in one text; of one text in 20 if held out."""
        starts = np.concatenate([[0], self.ends[:-1]])
        is_held_out = np.arange(len(self.ends)) % _HELD_OUT_ONE_IN == 0
        found = [
            np.arange(start, max(end - n_ahead, start))
            for start, end, other in zip(starts, self.ends, is_held_out, strict=True)
            if other == held_out
        ]
        return np.concatenate(found) if found else np.empty(0, np.int64)


class Store:
    """A folder of parts; each is whole or not there, so an interruption loses one at most.

    Args:
        folder: made if it is not there.
        facts: what all parts must have in common, such as the model's fingerprint.

    Raises:
        MedusaError: it holds texts of another model, or written with other options.
    """

    def __init__(self, folder: Path, facts: dict[str, Any]) -> None:
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

    def add(self, texts: Sequence[Text], seconds: float) -> None:
        """Put a part on disk that took so long to write."""
        n = self.n_parts
        lengths = [len(text.tokens) for text in texts]
        arrays: dict[str, NDArray[Any]] = {
            "tokens": np.concatenate([text.tokens for text in texts]),
            "states": np.concatenate([text.states for text in texts]),
            "lengths": np.array(lengths, np.int64),
        }
        for name, array in arrays.items():
            with replaced_file(self._path(n, name)) as file:
                np.save(file, array)
        _write_json(self._facts_path(n), {"n_tokens": sum(lengths), "seconds": seconds})

    def load(self) -> Texts:
        """All parts; states are gathered in memory.

        Raises:
            MedusaError: there is nothing, or a part is damaged.
        """
        n = self.n_parts
        if n == 0:
            raise MedusaError(f"{self.folder} holds no texts yet")
        parts = [self._part(i) for i in range(n)]
        tokens, states, lengths = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return Texts(tokens, states, np.cumsum(lengths))

    def _part(self, part: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        tokens, states, lengths = (
            self._array(part, name) for name in ("tokens", "states", "lengths")
        )
        if not len(tokens) == len(states) == lengths.sum():
            raise MedusaError(
                f"part {part:05} of {self.folder} is damaged: {len(tokens)} tokens, {len(states)} "
                f"states and texts of {lengths.sum()} tokens; remove the folder"
            )
        return tokens, states, lengths

    def _array(self, part: int, name: str) -> NDArray[Any]:
        path = self._path(part, name)
        try:
            with regular_file(path) as file:
                array: NDArray[Any] = np.load(file, allow_pickle=False)
        except Exception as error:  # over damaged bytes NumPy raises what it likes
            raise _damaged(path, error) from error
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
                raise _damaged(path, f"it has no number {key}")
            found.append(facts[key])
        return found


def _write_json(path: Path, facts: dict[str, Any]) -> None:
    with replaced_file(path) as file:
        file.write(json.dumps(facts).encode())


def _read_json(path: Path) -> Any:
    try:
        return read_json(path, max_bytes=_MAX_JSON_BYTES)
    except FileError as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, reason: object) -> MedusaError:
    return MedusaError(f"{path} is missing or damaged: {reason}; remove the folder")
