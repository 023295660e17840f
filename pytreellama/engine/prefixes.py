"""Prefixes: text that several sequences begin with is computed once and shared in the cache."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from pytreellama.core.context import Context
from pytreellama.engine.sequence import Sequence


class Prefixes:
    """Lets sequences see the cells of others whose text begins as theirs.

    Args:
        context: the cache.
        n_chunk: where keys and values may depend on how a text was cut into passes, only whole
            chunks of so many tokens are shared; 1 where they do not.
    """

    def __init__(self, context: Context, n_chunk: int) -> None:
        self._context = context
        self._n_chunk = n_chunk
        params = context.params
        keeps_all = context.model.n_swa == 0 or params.swa_full
        self._can_share = context.model.can_branch and context.kv_unified and keeps_all

    def adopt(self, sequence: Sequence, others: Iterable[Sequence]) -> int:
        """Share the longest beginning that another sequence has in the cache.

        Returns:
            Tokens that need no computing any more.
        """
        donors = [(self.n_shareable(sequence, other), other) for other in others]
        n_shared, donor = max(donors, key=lambda pair: pair[0], default=(0, None))
        if donor is None or n_shared <= sequence.n_past:
            return 0
        n_gained = n_shared - sequence.n_past
        self._context.memory.cp(
            donor.require_id(), sequence.require_id(), sequence.n_past, n_shared
        )
        sequence.n_past = n_shared
        sequence.stats.n_shared += n_gained
        return n_gained

    def n_shareable(self, sequence: Sequence, other: Sequence) -> int:
        """Tokens at the beginning of a sequence that another has in the cache."""
        if not self._can_share or other is sequence or other.seq_id is None:
            return 0
        n_most = min(other.n_past, other.n_unshifted, len(sequence.context) - 1)
        return self._n_whole(n_common(sequence.context, other.context, n_most))

    def is_coming(self, sequence: Sequence, others: Iterable[Sequence]) -> bool:
        """Will one of these, which are read before it, compute what the sequence lacks next?"""
        return self._can_share and any(
            self._n_coming(sequence, o) > sequence.n_past for o in others
        )

    def _n_coming(self, sequence: Sequence, other: Sequence) -> int:
        n_most = min(len(other.context) - 1, len(sequence.context) - 1)
        return self._n_whole(n_common(sequence.context, other.context, n_most))

    def _n_whole(self, n_tokens: int) -> int:
        return n_tokens - n_tokens % self._n_chunk


def n_common(a: list[int], b: list[int], n_most: int) -> int:
    """Tokens that both begin with, up to ``n_most``."""
    if n_most <= 0:
        return 0
    differs = np.array(a[:n_most]) != np.array(b[:n_most])
    return int(differs.argmax()) if differs.any() else n_most
