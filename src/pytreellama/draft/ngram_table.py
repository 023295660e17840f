"""A table of n-grams: what followed the same few tokens, and how often."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from pytreellama.draft.files import load_arrays, save_arrays
from pytreellama.draft.protocol import Tokens, checked_tokens
from pytreellama.errors import DraftError

Context: TypeAlias = tuple[int, ...]
"""Neighbouring tokens of a text, the latest last."""

_KIND = "a table of n-grams"
_NO_TOKEN = -1  # in files: stands before contexts that are shorter than the longest


class NGramTable:
    """Counts of the tokens that followed contexts of `min_n` to `max_n` tokens.

    An entry is one token after one context; it takes about 400 bytes where the context has no
    other. Beyond `max_entries` the oldest context has its turn: counts are halved, and what still
    has a count goes to the end of the queue. So what came once goes first, what comes again and
    again stays, and an old count weighs less than a new one. That is page replacement by second
    chance (Corbató 1968), with counts for reference bits. A turn forgets at least one of what was
    counted before, so turns cost amortised O(1) a token, as everything else here does.

    Args:
        min_n: tokens of the shortest context; at least 1.
        max_n: tokens of the longest context; at least `min_n`.
        max_entries: entries that are kept; at least 1.

    Raises:
        DraftError: sizes out of range.
    """

    __slots__ = ("_counts", "_n_entries", "_n_seen", "_queue", "max_entries", "max_n", "min_n")

    def __init__(self, min_n: int = 1, max_n: int = 4, max_entries: int = 1 << 17) -> None:
        if not 1 <= min_n <= max_n:
            raise DraftError(f"invalid min_n={min_n}, max_n={max_n}: expected 1 <= min_n <= max_n")
        if max_entries < 1:
            raise DraftError(f"invalid max_entries={max_entries}: expected at least 1")
        self.min_n = min_n
        self.max_n = max_n
        self.max_entries = max_entries
        # Two plain dicts, not one of objects: the garbage collector has nothing to walk through.
        self._counts: dict[Context, dict[int, int]] = {}
        self._n_seen: dict[Context, int] = {}
        self._queue: deque[Context] = deque()  # every context once, the next to be halved first
        self._n_entries = 0

    @classmethod
    def from_text(
        cls, tokens: Tokens, min_n: int = 1, max_n: int = 4, max_entries: int = 1 << 17
    ) -> NGramTable:
        """A table of one text, shape (n,). Raises DraftError for sizes or tokens out of range."""
        table = cls(min_n, max_n, max_entries)
        table.add_text(tokens)
        return table

    # -- what it knows

    def __len__(self) -> int:
        """Entries: tokens after contexts, each counted once or more."""
        return self._n_entries

    def contexts(self) -> Iterator[Context]:
        """Every context that something followed, the oldest first."""
        return iter(self._queue)

    def following(self, context: Context) -> dict[int, int] | None:
        """Counts of what came after exactly these tokens, the latest last. Do not change it."""
        return self._counts.get(context)

    def n_seen(self, context: Context) -> int:
        """How often anything came after `context`: the sum of its counts."""
        return self._n_seen.get(context, 0)

    # -- how it learns

    def add_text(self, tokens: Tokens) -> None:
        """Count all n-grams of one text, shape (n,). Raises DraftError if not token ids."""
        context: Context = ()
        for token in checked_tokens(tokens):
            self.learn(context, token)
            context = (*context, token)[-self.max_n :]

    def learn(self, context: Context, token: int) -> None:
        """Count `token` after the last tokens of `context`, once for each length it has."""
        for n in range(self.min_n, min(self.max_n, len(context)) + 1):
            self._add(context[-n:], token, 1)
        self._make_room()

    def merge(self, other: NGramTable) -> None:
        """Add the counts of another table; contexts of lengths that this one lacks are left out."""
        for context in list(other.contexts()):
            if self.min_n <= len(context) <= self.max_n:
                for token, count in list(other._counts[context].items()):
                    self._add(context, token, count)
        self._make_room()

    def _add(self, context: Context, token: int, count: int) -> None:
        counts = self._counts.get(context)
        if counts is None:
            self._counts[context] = {token: count}
            self._n_seen[context] = count
            self._queue.append(context)
            self._n_entries += 1
            return
        if token not in counts:
            self._n_entries += 1
        counts[token] = counts.pop(token, 0) + count
        self._n_seen[context] += count

    def _make_room(self) -> None:
        while self._n_entries > self.max_entries:
            context = self._queue.popleft()
            counts = self._counts.pop(context)
            self._n_entries -= len(counts)
            del self._n_seen[context]
            halved = {token: count >> 1 for token, count in counts.items() if count > 1}
            if halved:
                self._counts[context] = halved
                self._n_seen[context] = sum(halved.values())
                self._n_entries += len(halved)
                self._queue.append(context)

    # -- files

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the table to a file, which is replaced only when all is written.

        Raises FileError if it cannot be written.
        """
        counts = [self._counts[context] for context in self._queue]
        longest = self.max_n
        padded = [(_NO_TOKEN,) * (longest - len(context)) + context for context in self._queue]
        arrays: dict[str, NDArray[np.generic]] = {
            "sizes": np.array([self.min_n, self.max_n, self.max_entries], np.int64),
            "contexts": np.array(padded, np.int32).reshape(-1, longest),
            "n_followers": np.array([len(of_context) for of_context in counts], np.int32),
            "tokens": np.array([token for of_context in counts for token in of_context], np.int32),
            "counts": np.array([n for of_context in counts for n in of_context.values()], np.int64),
        }
        save_arrays(path, _KIND, arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> NGramTable:
        """The table that `save` wrote, its sizes included.

        Raises DraftError if there is no such file, or it is damaged or something else.
        """
        arrays = load_arrays(path, _KIND)
        try:
            return cls._from_arrays(arrays)
        except (KeyError, ValueError, TypeError, OverflowError, MemoryError, DraftError) as error:
            raise DraftError(
                f"{path} does not hold {_KIND} of this version, or is damaged: {error}"
            ) from error

    @classmethod
    def _from_arrays(cls, arrays: dict[str, NDArray[np.generic]]) -> NGramTable:
        sizes, contexts, n_followers, tokens, counts = (
            _integers(arrays[name])
            for name in ("sizes", "contexts", "n_followers", "tokens", "counts")
        )
        min_n, max_n, max_entries = sizes.tolist()
        table = cls(min_n, max_n, max_entries)
        n_padded = table._padding(contexts)
        if not n_followers.sum() == len(tokens) == len(counts) or not (n_followers > 0).all():
            raise ValueError("its contexts and tokens do not fit together")
        if not ((tokens >= 0).all() and (counts > 0).all()):
            raise ValueError("it has negative tokens, or counts of nothing")
        entries = zip(tokens.tolist(), counts.tolist(), strict=True)
        rows = zip(contexts.tolist(), n_padded.tolist(), n_followers.tolist(), strict=True)
        for row, n, n_entries in rows:
            for token, count in islice(entries, n_entries):
                table._add(tuple(row[n:]), token, count)
        table._make_room()
        return table

    def _padding(self, contexts: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many columns stand empty before each context; ValueError if they cannot be such."""
        if contexts.ndim != 2 or contexts.shape[1] != self.max_n:
            raise ValueError(f"its contexts have shape {contexts.shape}, not (n, {self.max_n})")
        is_token = contexts >= 0
        n_padded: NDArray[np.int64] = (~is_token).sum(axis=1)
        begins = np.arange(self.max_n) >= n_padded[:, None]
        if (is_token != begins).any() or (n_padded > self.max_n - self.min_n).any():
            raise ValueError(f"its contexts are not of {self.min_n} to {self.max_n} tokens")
        return n_padded


def _integers(array: NDArray[np.generic]) -> NDArray[np.int64]:
    if array.dtype.kind != "i":
        raise ValueError(f"it holds {array.dtype} where integers belong")
    return array.astype(np.int64)
