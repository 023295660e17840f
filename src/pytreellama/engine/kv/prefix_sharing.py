"""Prefixes: text that several sequences begin with is computed once and shared in the cache."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from pytreellama.context.context import Context
from pytreellama.engine.kv.prefix_cache import KeptText, KeptTexts, n_common
from pytreellama.engine.sequence import Sequence

Int32 = NDArray[np.int32]


class Prefixes:
    """Lets sequences see the cells of others whose text begins as theirs.

    The others are sequences that run, and texts that have ended and are kept for that.

    Args:
        context: the cache.
        n_chunk: where keys and values may depend on how a text was cut into passes, only whole
            chunks of so many tokens are shared; 1 where they do not.
        n_kept: most texts that are kept.
    """

    def __init__(self, context: Context, n_chunk: int, n_kept: int = 0) -> None:
        self._context = context
        self._n_chunk = n_chunk
        params = context.params
        keeps_all = context.model.n_swa == 0 or params.swa_full
        self._can_share = context.model.can_branch and context.kv_unified and keeps_all
        self.kept = KeptTexts(context, n_kept if self._can_share else 0)

    def adopt(self, sequence: Sequence, running: Iterable[Sequence]) -> int:
        """Share the longest beginning that another text has in the cache.

        Returns:
            Tokens that need no computing any more.
        """
        if not self._can_share or sequence.n_missing == 0:
            return 0
        text = sequence.ids
        donors: list[tuple[int, Sequence | KeptText]] = [
            (self._n_shareable(text, one), one) for one in (*running, *self.kept)
        ]
        n_shared, donor = max(donors, key=lambda pair: pair[0], default=(0, None))
        if donor is None or n_shared <= sequence.n_past:
            return 0
        assert donor.seq_id is not None
        if isinstance(donor, KeptText):
            self.kept.use(donor)
        n_gained = n_shared - sequence.n_past
        self._context.memory.cp(donor.seq_id, sequence.require_id(), sequence.n_past, n_shared)
        sequence.n_past = n_shared
        sequence.stats.n_shared += n_gained
        return n_gained

    def n_shareable(self, sequence: Sequence, running: Iterable[Sequence]) -> int:
        """Most tokens at the beginning of a sequence that one other text has in the cache."""
        if not self._can_share:
            return 0
        text = sequence.ids
        return max((self._n_shareable(text, one) for one in (*running, *self.kept)), default=0)

    def _n_shareable(self, text: Int32, other: Sequence | KeptText) -> int:
        if other.seq_id is None:
            return 0
        return self._n_whole(n_common(text[:-1], other.shareable))

    def is_coming(self, sequence: Sequence, others: Iterable[Sequence]) -> bool:
        """Will one of these, which are read before it, compute what the sequence lacks next?"""
        if not self._can_share:
            return False
        text = sequence.ids[:-1]
        return any(
            self._n_whole(n_common(text, other.ids[:-1])) > sequence.n_past for other in others
        )

    def _n_whole(self, n_tokens: int) -> int:
        return n_tokens - n_tokens % self._n_chunk
