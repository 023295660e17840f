"""Store: what a model wrote and from which hidden states, on disk, in parts that stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytreellama.errors import MedusaError
from pytreellama.training.parts import Parts
from pytreellama.training.text import Text

_HELD_OUT_ONE_IN = 20


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


class Store(Parts):
    """``Parts`` of texts and their states."""

    def add_texts(self, texts: Sequence[Text], seconds: float) -> None:
        """Put a part on disk that took so long to write."""
        lengths = [len(text.tokens) for text in texts]
        arrays: dict[str, NDArray[Any]] = {
            "tokens": np.concatenate([text.tokens for text in texts]),
            "states": np.concatenate([text.states for text in texts]),
            "lengths": np.array(lengths, np.int64),
        }
        self.add(arrays, sum(lengths), seconds)

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
            self.array(part, name) for name in ("tokens", "states", "lengths")
        )
        if not len(tokens) == len(states) == lengths.sum():
            raise MedusaError(
                f"part {part:05} of {self.folder} is damaged: {len(tokens)} tokens, {len(states)} "
                f"states and texts of {lengths.sum()} tokens; remove the folder"
            )
        return tokens, states, lengths
