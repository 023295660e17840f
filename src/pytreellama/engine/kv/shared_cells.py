"""Cells of the KV cache that running sequences have in common."""

from __future__ import annotations

from collections.abc import Sequence as Sequence_
from itertools import pairwise

from pytreellama.engine.kv.prefix_cache import n_common
from pytreellama.engine.sequence import Sequence


class SharedCells:
    """Counts the cells that attention reads once for several sequences.

    Sequences share the cells of a beginning that one took from another, or both from a third. That
    stays as it is while they run, so it is counted anew only when others run.
    """

    def __init__(self) -> None:
        self._sequences: tuple[Sequence, ...] = ()
        self._n_shared = 0

    def count(self, sequences: Sequence_[Sequence]) -> int:
        """Cells of all these, each sequence's by itself, less the cells that they are in all."""
        if self._sequences != tuple(sequences):
            self._sequences = tuple(sequences)
            self._n_shared = _n_shared(sequences)
        return self._n_shared


def _n_shared(sequences: Sequence_[Sequence]) -> int:
    """Neighbours among sorted texts have the longest beginnings in common."""
    takers = [sequence for sequence in sequences if sequence.n_past > 0]
    if not any(sequence.stats.n_shared for sequence in takers):
        return 0
    # big-endian bytes sort as the tokens do
    takers.sort(key=lambda sequence: sequence.shareable.astype(">i4").tobytes())
    return sum(
        min(n_common(a.shareable, b.shareable), max(a.stats.n_shared, b.stats.n_shared))
        for a, b in pairwise(takers)
    )
