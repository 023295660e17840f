"""PrefixSharing: jobs with a common prefix compute it once, and share its KV-cache cells."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from pytreellama.context.context import Context
from pytreellama.engine.jobs import Job
from pytreellama.engine.kv.prefix_cache import PrefixCache, n_common

Int32 = NDArray[np.int32]


class PrefixSharing:
    """Gives a job the cells of another sequence that begins with the same tokens.

    The other sequence belongs to a running job or to the prefix cache.

    Args:
        context: its KV cache.
        n_chunk: where keys and values may depend on how a prompt was split into passes, only whole
            chunks of so many tokens are shared; 1 where they do not.
        n_cached_prefixes: maximum size of the prefix cache.

    Attributes:
        cache: the prefix cache; disabled where this model's KV cache cannot share cells.
    """

    def __init__(self, context: Context, n_chunk: int, n_cached_prefixes: int = 0) -> None:
        self._context = context
        self._n_chunk = n_chunk
        params = context.params
        keeps_all = context.model.n_swa == 0 or params.swa_full
        self._can_share = context.model.can_branch and context.kv_unified and keeps_all
        self.cache = PrefixCache(context, n_cached_prefixes if self._can_share else 0)

    def share(self, job: Job, running: Iterable[Job]) -> None:
        """Share the longest prefix that another sequence has in the KV cache, if that helps."""
        if not self._can_share or job.n_missing == 0:
            return
        ids, n_shared, seq_id, hit = job.state.ids, job.state.n_past, None, None
        for other in running:
            n_cells = 0 if other is job else self._n_shareable(ids, other)
            if n_cells > n_shared:
                n_shared, seq_id = n_cells, other.seq_id
        for prefix in self.cache:
            n_cells = self._n_whole(n_common(ids[:-1], prefix.ids))
            if n_cells > n_shared:
                n_shared, seq_id, hit = n_cells, prefix.seq_id, prefix
        if seq_id is None:
            return
        if hit is not None:
            self.cache.touch(hit)
        self._context.memory.cp(seq_id, job.require_id(), job.state.n_past, n_shared)
        job.stats.n_shared += n_shared - job.state.n_past
        job.state.n_past = n_shared

    def n_shareable(self, job: Job, running: Iterable[Job]) -> int:
        """Length of the longest prefix of a job that another sequence has in the KV cache."""
        if not self._can_share:
            return 0
        ids = job.state.ids
        by_running = [self._n_shareable(ids, other) for other in running]
        by_cached = [self._n_whole(n_common(ids[:-1], prefix.ids)) for prefix in self.cache]
        return max(by_running + by_cached, default=0)

    def will_share(self, job: Job, earlier: Iterable[Job]) -> bool:
        """True if a job that is prefilled earlier will compute the next missing tokens of this."""
        if not self._can_share:
            return False
        ids = job.state.ids[:-1]
        return any(
            self._n_whole(n_common(ids, other.state.ids[:-1])) > job.state.n_past
            for other in earlier
        )

    def _n_shareable(self, ids: Int32, other: Job) -> int:
        if other.seq_id is None:
            return 0
        return self._n_whole(n_common(ids[:-1], other.state.shareable))

    def _n_whole(self, n_tokens: int) -> int:
        return n_tokens - n_tokens % self._n_chunk
