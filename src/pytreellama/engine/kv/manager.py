"""KVCacheManager: which sequences are in the KV cache, and which leave it for others."""

from __future__ import annotations

from collections.abc import Iterable

from pytreellama.context.context import Context
from pytreellama.engine.jobs import Job
from pytreellama.engine.kv.checkpointing import Checkpointing
from pytreellama.engine.kv.checkpoints import Checkpoints
from pytreellama.engine.kv.prefix_cache import PrefixCache
from pytreellama.engine.kv.prefix_sharing import PrefixSharing
from pytreellama.engine.kv.swap_space import SwapSpace
from pytreellama.errors import MemoryStateError


class KVCacheManager:
    """Allocates sequences for jobs, shares prefixes among them, and preempts jobs.

    Args:
        context: its sequences belong to the manager.
        n_chunk, n_cached_prefixes: as ``PrefixSharing``.
        max_swap_bytes: as ``SwapSpace``.
        max_checkpoint_bytes: as ``Checkpoints``.

    Attributes:
        prefix_cache: sequences of ended jobs.
        checkpoints: of prefixes; none where the model's memory is a full KV cache.
    """

    def __init__(
        self,
        context: Context,
        *,
        n_chunk: int,
        n_cached_prefixes: int,
        max_swap_bytes: int,
        max_checkpoint_bytes: int,
    ) -> None:
        self._context = context
        self.checkpoints = Checkpoints(max_checkpoint_bytes)
        self._checkpointing = Checkpointing(
            context, self.checkpoints, n_chunk=n_chunk, is_for_later=n_cached_prefixes > 0
        )
        self._sharing = PrefixSharing(context, n_chunk, self.checkpoints, n_cached_prefixes)
        self._swap_space = SwapSpace(max_swap_bytes)
        self.prefix_cache: PrefixCache = self._sharing.cache

    @property
    def n_used(self) -> int:
        """Number of cells in use; cells that sequences share count once."""
        return self._context.memory.n_cells_used or 0

    @property
    def n_free(self) -> int:
        """Number of free cells.

        All, where each sequence has its own (DeepSeek V4), or none needs any (Mamba).
        """
        return self._context.n_ctx - self.n_used

    # -- sequences of jobs

    def allocate(self, job: Job, running: Iterable[Job]) -> None:
        """Give a job a sequence, and fill it with what is known: swap in, then share a prefix."""
        job.seq_id = self._context.sequences.new()
        state = self._swap_space.swap_in(job)
        if state is not None:
            self._load(job, state)
        self._sharing.share(job, running)
        self._sharing.mark_branches(job, running)
        self._checkpointing.take(job)

    def preempt(self, job: Job) -> None:
        """Take a job's sequence away; its keys and values are swapped out if possible."""
        if job.can_swap_out:
            self._swap_space.swap_out(job, self._context.memory.save(job.require_id()))
        self._free(job)
        job.state.n_past = 0
        job.stats.n_preempted += 1

    def release(self, job: Job) -> None:
        """Free all that an ended job holds; its sequence may become a cached prefix."""
        self._swap_space.swap_in(job)
        caches = job.error is None and job.seq_id is not None and not self._context.closed
        if caches and self.prefix_cache.insert(job):
            job.seq_id = None
        self._free(job)

    def _free(self, job: Job) -> None:
        if job.seq_id is not None and not self._context.closed:
            self._context.sequences.free(job.seq_id)
        job.seq_id = None

    def _load(self, job: Job, state: bytes) -> None:
        try:
            self._context.memory.load(state, job.require_id())
        except MemoryStateError:
            return  # it takes contiguous cells, and there are none: prefill computes it again
        job.state.n_past = len(job.state) - 1

    # -- prefixes

    def n_until_checkpoint(self, job: Job) -> int:
        """See ``Checkpointing.n_until_next``."""
        return self._checkpointing.n_until_next(job)

    def take_checkpoint(self, job: Job) -> None:
        """See ``Checkpointing.take``."""
        self._checkpointing.take(job)

    def share(self, job: Job, running: Iterable[Job]) -> None:
        """See ``PrefixSharing.share``."""
        self._sharing.share(job, running)

    def will_share(self, job: Job, earlier: Iterable[Job]) -> bool:
        """See ``PrefixSharing.will_share``."""
        return self._sharing.will_share(job, earlier)

    def n_shareable(self, job: Job, running: Iterable[Job]) -> int:
        """See ``PrefixSharing.n_shareable``."""
        return self._sharing.n_shareable(job, running)

    def evict_for(self, n_cells: int) -> None:
        """Evict cached prefixes until so many cells are free, or none is left."""
        while self.n_free < n_cells and self.prefix_cache.evict_oldest():
            pass
