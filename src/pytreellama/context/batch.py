"""Batch: the tokens of one pass, with their positions, sequence sets and logits flags."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pytreellama.errors import BatchError
from pytreellama.native.batch import BatchStruct
from pytreellama.native.decode import TEXT

Int32 = NDArray[np.int32]


class SequenceSets:
    """The sequences that each token of a batch belongs to, in compressed rows.

    Attributes:
        flat: int32, the sets one after another.
        counts: int32, shape (n_tokens,), the size of each set.
    """

    __slots__ = ("counts", "flat")

    def __init__(self, flat: ArrayLike, counts: ArrayLike) -> None:
        self.flat: Int32 = _as_int32(flat, "sequence id")
        self.counts: Int32 = _as_int32(counts, "size of a sequence set")

    @classmethod
    def of(
        cls, seq_ids: int | Sequence[int] | Sequence[Sequence[int]], n_tokens: int
    ) -> SequenceSets:
        """From one id for all tokens, one id a token, or one set of ids a token."""
        if isinstance(seq_ids, (int, np.integer)):
            return cls(np.full(n_tokens, seq_ids), np.ones(n_tokens, dtype=np.int32))
        if len(seq_ids) != n_tokens:
            raise BatchError(
                f"{len(seq_ids)} sequence sets were given for {n_tokens} tokens; give one id for "
                "all tokens, or one id or set of ids a token"
            )
        sets = [np.atleast_1d(_as_int32(ids, "sequence id")) for ids in seq_ids]
        flat = np.concatenate(sets) if sets else np.empty(0, dtype=np.int32)
        return cls(flat, [len(ids) for ids in sets])


class Batch:
    """Up to ``capacity`` tokens for one ``Context.decode``.

    The arrays are NumPy views over the memory that llama.cpp reads; filling them is vectorised.

    Attributes:
        tokens, positions: int32 views, shape (n_tokens,).
        logits: bool view, shape (n_tokens,); whose logits are wanted.
        parents: int32 view, shape (n_tokens,): the parent of a token that is a tree's node, counted
            among the pending nodes of its sequence (-1: the end of its text), or ``TEXT``.
        tree_sequences: the sequences whose trees ``Context.place`` has put here.

    Args:
        capacity: most tokens that the batch can hold.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise BatchError(f"a batch of capacity {capacity} was asked for; it must be at least 1")
        self.capacity = capacity
        self.n_tokens = 0
        self.tree_sequences: tuple[int, ...] = ()
        self._n_flat = 0
        self._tokens = np.zeros(capacity, dtype=np.int32)
        self._positions = np.zeros(capacity, dtype=np.int32)
        self._counts = np.zeros(capacity, dtype=np.int32)
        self._logits = np.zeros(capacity, dtype=np.int8)
        self._parents = np.full(capacity, TEXT, dtype=np.int32)
        self._flat = np.zeros(capacity, dtype=np.int32)
        self._flat_address = int(self._flat.ctypes.data)
        self._pointers = np.zeros(capacity, dtype=np.uintp)
        self._struct = BatchStruct(
            self._tokens, self._positions, self._counts, self._logits, self._pointers
        )

    @property
    def tokens(self) -> Int32:
        return self._tokens[: self.n_tokens]

    @property
    def positions(self) -> Int32:
        return self._positions[: self.n_tokens]

    @property
    def logits(self) -> NDArray[np.bool_]:
        return self._logits[: self.n_tokens].view(np.bool_)

    @property
    def parents(self) -> Int32:
        return self._parents[: self.n_tokens]

    @property
    def sequences(self) -> SequenceSets:
        """The sequence sets of all tokens."""
        return SequenceSets(self._flat[: self._n_flat], self._counts[: self.n_tokens])

    @property
    def n_outputs(self) -> int:
        """Number of tokens whose logits are wanted."""
        return int(np.count_nonzero(self._logits[: self.n_tokens]))

    def __len__(self) -> int:
        return self.n_tokens

    def clear(self) -> None:
        """Make the batch empty."""
        self.n_tokens = 0
        self._n_flat = 0
        self.tree_sequences = ()

    def fill_text(self, tokens: Int32, start: int, seq: int, *, wants_last: bool) -> None:
        """Hold one sequence's text and nothing else; the caller has checked it.

        Args:
            tokens: int32, shape (n,), n at most ``capacity``.
            start: position of the first token.
            wants_last: want the logits of the last token.
        """
        n_tokens = len(tokens)
        self.clear()
        self._tokens[:n_tokens] = tokens
        self._positions[:n_tokens] = np.arange(start, start + n_tokens, dtype=np.int32)
        self._counts[:n_tokens] = 1
        self._flat[:n_tokens] = seq
        self._parents[:n_tokens] = TEXT
        self._logits[:n_tokens] = False
        self._logits[n_tokens - 1] = wants_last
        self.n_tokens = self._n_flat = n_tokens

    def add_nodes(self, tokens: Int32, positions: Int32, parents: Int32, seq: int) -> slice:
        """Append checked nodes of a sequence's tree, for which there is room, with logits."""
        where = slice(self.n_tokens, self.n_tokens + len(tokens))
        at = slice(self._n_flat, self._n_flat + len(tokens))
        self._reserve(at.stop)
        self._tokens[where] = tokens
        self._positions[where] = positions
        self._counts[where] = 1
        self._flat[at] = seq
        self._parents[where] = parents
        self._logits[where] = True
        self.n_tokens, self._n_flat = where.stop, at.stop
        return where

    def add(
        self,
        tokens: ArrayLike,
        positions: ArrayLike,
        sequences: SequenceSets | int | Sequence[int] | Sequence[Sequence[int]] = 0,
        logits: ArrayLike = False,
        parents: ArrayLike = TEXT,
    ) -> slice:
        """Append tokens and return where they stand.

        Args:
            tokens: ids, shape (n,).
            positions: shape (n,), or one position for all.
            sequences: the sets of sequences that see each token; one id may stand for all.
            logits: which tokens' logits are wanted, shape (n,) or one flag for all.
            parents: of a tree's nodes, shape (n,); by default the tokens are text. For the encoder
                behind ``Context.place``.

        Raises:
            BatchError: no room for n tokens, or shapes that do not fit.
        """
        ids = np.atleast_1d(np.asarray(tokens))
        n_new = len(ids)
        if self.n_tokens + n_new > self.capacity:
            raise BatchError(
                f"{n_new} tokens do not fit: the batch holds {self.n_tokens} of at most "
                f"{self.capacity}; decode it first, or make it larger"
            )
        sets = (
            sequences if isinstance(sequences, SequenceSets) else SequenceSets.of(sequences, n_new)
        )
        if len(sets.counts) != n_new or int(sets.counts.sum()) != len(sets.flat):
            raise BatchError(f"the sequence sets do not describe {n_new} tokens")
        where = slice(self.n_tokens, self.n_tokens + n_new)
        self._assign(self._tokens, where, _as_int32(ids, "token id"), "token id")
        self._assign(self._positions, where, _as_int32(positions, "position"), "position")
        self._assign(self._logits, where, np.asarray(logits, dtype=np.bool_), "logits flag")
        self._assign(self._parents, where, _as_int32(parents, "parent"), "parent")
        self._counts[where] = sets.counts
        self._append_flat(sets.flat)
        self.n_tokens += n_new
        return where

    def _assign(self, target: NDArray[Any], where: slice, values: NDArray[Any], what: str) -> None:
        try:
            target[where] = values
        except ValueError as error:
            raise BatchError(
                f"{what}s of shape {values.shape} do not fit the tokens: {error}"
            ) from None

    def _append_flat(self, flat: Int32) -> None:
        needed = self._n_flat + len(flat)
        self._reserve(needed)
        self._flat[self._n_flat : needed] = flat
        self._n_flat = needed

    def _reserve(self, n_flat: int) -> None:
        """Make room for so many sequence ids."""
        if n_flat > len(self._flat):
            self._flat = np.resize(self._flat, max(n_flat, 2 * len(self._flat)))
            self._flat_address = int(self._flat.ctypes.data)

    def as_struct(self) -> BatchStruct:
        """A ``llama_batch`` over these arrays, valid until the batch is changed."""
        self._struct.n_tokens = self.n_tokens
        counts = self._counts[: self.n_tokens]
        starts = np.cumsum(counts, dtype=np.int64) - counts
        self._pointers[: self.n_tokens] = self._flat_address + starts * self._flat.itemsize
        return self._struct


def _as_int32(values: ArrayLike, what: str) -> Int32:
    """As int32, refusing what NumPy would cut to it: floats and numbers of more than 32 bits."""
    array = np.asarray(values)
    if array.dtype != np.int32 and array.size:
        if array.dtype.kind not in "iu":
            raise BatchError(f"a {what} must be an integer of 32 bits, not {array.dtype}")
        limits = np.iinfo(np.int32)
        if array.min() < limits.min or array.max() > limits.max:
            raise BatchError(f"a {what} does not fit into 32 bits")
    return np.asarray(array, dtype=np.int32, order="C")
