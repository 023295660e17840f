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

    Views of the buffer stay valid and unchanged for whoever holds them: it grows behind them, and
    what is dropped is dropped from a copy.

    Args:
        prompt: token ids, int32, shape (n,), n >= 1; not copied, and must not change.

    Attributes:
        ids: all tokens that the model sees, int32, shape (n,), as a read-only view. A context
            shift drops some of them.
        n_past: how many of ``ids`` are in the KV cache.
        n_unshifted: how many of those were computed before a context shift dropped anything.
    """

    __slots__ = ("_buffer", "ids", "n_past", "n_unshifted")

    def __init__(self, prompt: Int32) -> None:
        self._buffer = prompt
        self.ids = _read_only(prompt[:])
        self.n_past = 0
        self.n_unshifted = _NEVER_SHIFTED

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def last(self) -> int:
        """The last token: it is not in the KV cache yet, and is the root of the next tree."""
        return int(self.ids[-1])

    @property
    def n_missing(self) -> int:
        """Number of tokens before the last that are not in the KV cache yet."""
        return len(self.ids) - 1 - self.n_past

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
        begin = len(self.ids)
        end = begin + len(tokens)
        if end > len(self._buffer):
            self._grow(end)
        self._buffer[begin:end] = tokens
        self.ids = _read_only(self._buffer[:end])

    def drop(self, first: int, last: int) -> None:
        """Remove tokens [first, last), which are in the KV cache, as a context shift does."""
        self._buffer = np.concatenate((self.ids[:first], self.ids[last:]))
        self.ids = _read_only(self._buffer[:])
        self.n_past -= last - first
        self.n_unshifted = min(self.n_unshifted, first)

    def _grow(self, n_tokens: int) -> None:
        buffer = np.empty(n_tokens + max(len(self.ids) // 2, _N_SPARE), np.int32)
        buffer[: len(self.ids)] = self.ids
        self._buffer = buffer


def _read_only(view: Int32) -> Int32:
    view.flags.writeable = False
    return view
