"""TokenState: the tokens of one job, and how many of them are in the KV cache."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Int32 = NDArray[np.int32]

_N_SPARE = 256  # tokens that a buffer can grow by before it is copied, at least
_NEVER_SHIFTED = 2**31 - 1


class TokenState:
    """Prompt and output tokens in one growing buffer, with the position of the KV cache in them.

    Views of the buffer never change: it grows after them, and a context shift makes a new one.

    Args:
        prompt: token ids, int32, shape (n,), n >= 1; not copied, and must not change.

    Attributes:
        last: the last token: it is not in the KV cache yet, and is the root of the next tree.
        n_past: how many of ``ids`` are in the KV cache.
        n_unshifted: how many of those were computed before a context shift dropped anything.
    """

    __slots__ = ("_buffer", "_n", "last", "n_past", "n_unshifted")

    def __init__(self, prompt: Int32) -> None:
        self._buffer = prompt
        self._n = len(prompt)
        self.last = int(prompt[-1])
        self.n_past = 0
        self.n_unshifted = _NEVER_SHIFTED

    def __len__(self) -> int:
        return self._n

    @property
    def ids(self) -> Int32:
        """All tokens that the model sees, int32, shape (n,): a read-only view.

        A context shift drops some of them.
        """
        view = self._buffer[: self._n]
        view.flags.writeable = False
        return view

    @property
    def n_missing(self) -> int:
        """Number of tokens before the last that are not in the KV cache yet."""
        return self._n - 1 - self.n_past

    @property
    def is_shifted(self) -> bool:
        """True if a context shift has dropped some of the tokens."""
        return self.n_unshifted != _NEVER_SHIFTED

    @property
    def shareable(self) -> Int32:
        """The prefix whose keys and values other sequences may use: ids, shape (n,)."""
        return self.ids[: min(self.n_past, self.n_unshifted)]

    def extend(self, tokens: Sequence[int]) -> None:
        """Append verified tokens; they are not in the KV cache."""
        if not tokens:
            return
        end = self._n + len(tokens)
        if end > len(self._buffer):
            self._grow(end)
        self._buffer[self._n : end] = tokens
        self._n, self.last = end, tokens[-1]

    def drop(self, first: int, last: int) -> None:
        """Remove tokens [first, last), which are in the KV cache, as a context shift does."""
        self._buffer = np.concatenate((self.ids[:first], self.ids[last:]))
        self._n = len(self._buffer)
        self.n_past -= last - first
        self.n_unshifted = min(self.n_unshifted, first)

    def _grow(self, n_tokens: int) -> None:
        buffer = np.empty(n_tokens + max(self._n // 2, _N_SPARE), np.int32)
        buffer[: self._n] = self.ids
        self._buffer = buffer
