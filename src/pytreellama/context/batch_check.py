"""What a batch must satisfy before llama.cpp may see it, checked with whole arrays.

llama.cpp refuses some of this itself with a log line and aborts the process on the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pytreellama.context.batch import Batch
from pytreellama.context.token_ids import check_tokens
from pytreellama.errors import BatchError
from pytreellama.native.decode import TEXT

Int32 = NDArray[np.int32]


POSITION_MAX = 2**30 - 1
"""Largest position: from every one there is room to count on in 32 bits."""


class Limits(Protocol):
    """The sizes of a context, and the positions that its cache holds."""

    @property
    def n_batch(self) -> int: ...
    @property
    def n_vocab(self) -> int: ...
    def position_ranges(self, seq_ids: Int32, /) -> tuple[Int32, Int32]:
        """Smallest and largest position in the cache of each sequence, -1 where empty."""
        ...


@dataclass(frozen=True, slots=True)
class ContextLimits:
    """The ``Limits`` of a context."""

    n_batch: int
    n_vocab: int
    position_ranges: Callable[[Int32], tuple[Int32, Int32]]


def check_batch(batch: Batch, limits: Limits, n_seq_ids: int) -> None:
    """Raise ``BatchError`` unless llama.cpp will take this batch.

    Args:
        n_seq_ids: sequence ids that may occur: those of trees are beyond the user's own.
    """
    _check_size(batch, limits)
    check_tokens(batch.tokens, limits.n_vocab)
    _check_sequences(batch, limits, n_seq_ids)


def _check_size(batch: Batch, limits: Limits) -> None:
    if batch.n_tokens == 0:
        raise BatchError("the batch is empty; add at least one token before decoding")
    if batch.n_tokens > limits.n_batch:
        raise BatchError(
            f"the batch has {batch.n_tokens} tokens, this context takes at most n_batch = "
            f"{limits.n_batch}; decode it in pieces or make the context with a larger n_batch"
        )


def _check_sequences(batch: Batch, limits: Limits, n_seq_ids: int) -> None:
    sets = batch.sequences
    if (sets.counts < 1).any():
        raise BatchError(
            f"token {int((sets.counts < 1).argmax())} of the batch belongs to no sequence"
        )
    wrong = (sets.flat < 0) | (sets.flat >= n_seq_ids)
    if wrong.any():
        raise BatchError(
            f"sequence id {sets.flat[wrong][0]} is out of range; this context has ids from 0 to "
            f"{n_seq_ids - 1} (n_seq_max and kv_unified decide)"
        )
    owners = np.repeat(np.arange(batch.n_tokens, dtype=np.int32), sets.counts)
    is_text = batch.parents[owners] == TEXT  # a tree's positions fork; its encoder made them
    if is_text.any():
        _check_positions(sets.flat[is_text], batch.positions[owners][is_text], limits)
    if len(sets.flat) > batch.n_tokens:
        _check_coupled(sets.flat, sets.counts, owners, limits)


def _check_positions(seq_ids: Int32, positions: Int32, limits: Limits) -> None:
    """Each sequence goes on where its cache ends, never falls back and leaves nothing out."""
    order = np.argsort(seq_ids, kind="stable")
    seqs, pos = seq_ids[order], positions[order]
    starts = np.flatnonzero(np.r_[True, seqs[1:] != seqs[:-1]])
    unique = seqs[starts]
    _, last = limits.position_ranges(unique)

    first = pos[starts]
    wrong = np.where(last >= 0, first != last + 1, first < 0)
    if wrong.any():
        i = int(wrong.argmax())
        expected = f"it must go on at {last[i] + 1}" if last[i] >= 0 else "it must not be negative"
        raise BatchError(
            f"sequence {unique[i]} starts at position {first[i]} in the batch, but {expected}"
        )

    step = np.diff(pos)
    step[starts[1:] - 1] = 0
    if ((step < 0) | (step > 1)).any():
        i = int(((step < 0) | (step > 1)).argmax())
        verb = "falls" if step[i] < 0 else "jumps"
        raise BatchError(
            f"the position of sequence {seqs[i]} {verb} from {pos[i]} to {pos[i + 1]} in the "
            "batch; positions must be given in order and without gaps"
        )
    if pos.max() > POSITION_MAX:
        raise BatchError(f"position {pos.max()} is beyond {POSITION_MAX}, the largest there is")


def _check_coupled(seq_ids: Int32, counts: Int32, owners: Int32, limits: Limits) -> None:
    """Sequences that share a token of the batch must hold the same positions so far."""
    unique, inverse = np.unique(seq_ids, return_inverse=True)
    smallest, largest = limits.position_ranges(unique.astype(np.int32))
    firsts = inverse[np.cumsum(counts) - counts][owners]
    differs = (smallest[inverse] != smallest[firsts]) | (largest[inverse] != largest[firsts])
    if differs.any():
        i = int(differs.argmax())
        raise BatchError(
            f"token {owners[i]} of the batch belongs to sequences {unique[firsts[i]]} and "
            f"{seq_ids[i]}, which hold different positions; copy the one to the other first"
        )
