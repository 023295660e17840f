"""PrefixSharing: jobs with a common prefix compute it once, and share its KV-cache cells."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pytreellama.context.context import Context
from pytreellama.engine.jobs import Job
from pytreellama.engine.kv.checkpoints import Checkpoint, Checkpoints
from pytreellama.engine.kv.prefix_cache import CachedPrefix, PrefixCache, n_common
from pytreellama.errors import CacheFullError, MemoryStateError

_N_BRANCH_MIN = 64  # tokens that a checkpoint has to save, where two prompts part


@dataclass(frozen=True, slots=True)
class _Source:
    """What begins as a job does: a sequence, or None for checkpoints alone.

    Attributes:
        n: number of tokens that it has in common with the job, in whole chunks.
        prefix: the cached prefix that the sequence belongs to, if it does.
    """

    seq_id: int | None
    n: int
    prefix: CachedPrefix | None = None


@dataclass(frozen=True, slots=True)
class _Hit:
    """A prefix that can be shared: the first n tokens of a source."""

    source: _Source
    n: int
    checkpoint: Checkpoint | None


class PrefixSharing:
    """Gives a job the cells of another sequence that begins with the same tokens.

    The other sequence belongs to a running job or to the prefix cache. Where a model has a
    recurrent state or a small sliding window, a prefix is shared if the other sequence ends with
    it, still holds its window, or if there is a checkpoint.

    Args:
        context: its KV cache.
        n_chunk: where keys and values may depend on how a prompt was split into passes, only whole
            chunks of so many tokens are shared; 1 where they do not.
        checkpoints: of prefixes of any sequence.
        n_cached_prefixes: maximum size of the prefix cache.

    Attributes:
        cache: the prefix cache; disabled where this model's memory cannot share anything.
    """

    def __init__(
        self, context: Context, n_chunk: int, checkpoints: Checkpoints, n_cached_prefixes: int = 0
    ) -> None:
        self._context = context
        self._n_chunk = n_chunk
        self._checkpoints = checkpoints
        self._can_share = context.memory.sharing != "none"
        self._takes_checkpoints = context.memory.sharing == "checkpoints"
        self._is_for_later = n_cached_prefixes > 0
        self._has_cells = context.memory.n_cells_used is not None
        self.cache = PrefixCache(context, n_cached_prefixes if self._can_share else 0)

    def share(self, job: Job, running: Iterable[Job]) -> None:
        """Share the longest prefix that another sequence has in the KV cache, if that helps."""
        if job.n_missing == 0 or not job.can_share:
            return
        hit = self._longest(job, running)
        if hit is not None and self._take(job, hit):
            job.stats.n_shared += hit.n - job.state.n_past
            job.state.n_past = hit.n

    def n_shareable(self, job: Job, running: Iterable[Job]) -> int:
        """Length of the longest prefix of a job that another sequence has in the KV cache."""
        hit = self._longest(job, running)
        return 0 if hit is None else hit.n

    def will_share(self, job: Job, earlier: Iterable[Job]) -> bool:
        """True if a job that is prefilled earlier will compute the next missing tokens of this."""
        if not self._can_share:
            return False
        lengths = ((other, self._n_ahead(job, other)) for other in earlier)
        return any(max(job.state.n_past, other.state.n_past) < n for other, n in lengths)

    def mark_branches(self, job: Job, running: Iterable[Job]) -> None:
        """Say where checkpoints are to be taken: where the prompt parts from others.

        Here, after what was just shared; where another sequence went on without leaving one; and
        where a running job has not come yet.
        """
        if not self._takes_checkpoints:
            return
        n_past = job.state.n_past
        if self._is_for_later and job.n_missing > 0:
            job.branches.add(n_past)
        n_known = max((source.n for source in self._sequences(job, running)), default=0)
        if n_known - n_past >= _N_BRANCH_MIN:
            job.branches.add(n_known)
        for other in running:
            n = self._n_ahead(job, other) if other is not job and other.n_missing > 0 else 0
            if n - max(n_past, other.state.n_past) >= _N_BRANCH_MIN:
                other.branches.add(n)

    # -- what can be shared

    def _longest(self, job: Job, running: Iterable[Job]) -> _Hit | None:
        best = None
        checkpoints = self._checkpoints.of(job.state.ids[:-1], job.adapters)
        for source in self._sources(job, running):
            n_best = job.state.n_past if best is None else best.n
            hit = self._hit(source, checkpoints) if source.n > n_best else None
            if hit is not None and hit.n > n_best:
                best = hit
        return best

    def _sources(self, job: Job, running: Iterable[Job]) -> Iterator[_Source]:
        if self._can_share:
            yield from self._sequences(job, running)
        if not self._has_cells:
            yield _Source(None, self._n_whole(len(job.state) - 1))

    def _sequences(self, job: Job, running: Iterable[Job]) -> Iterator[_Source]:
        ids = job.state.ids[:-1]
        for other in running:
            is_alike = other is not job and other.adapters == job.adapters
            if is_alike and other.seq_id is not None:
                yield _Source(other.seq_id, self._n_whole(n_common(ids, other.state.shareable)))
        for prefix in self.cache.of(job.adapters):
            yield _Source(prefix.seq_id, self._n_whole(n_common(ids, prefix.ids)), prefix)

    def _hit(self, source: _Source, checkpoints: Sequence[Checkpoint]) -> _Hit | None:
        memory = self._context.memory
        if source.seq_id is not None and memory.holds_prefix(source.seq_id, source.n):
            return _Hit(source, source.n, None)
        fitting = [checkpoint for checkpoint in checkpoints if len(checkpoint) <= source.n]
        return _Hit(source, len(fitting[-1]), fitting[-1]) if fitting else None

    def _take(self, job: Job, hit: _Hit) -> bool:
        """Share a prefix; False if it cannot be loaded, and the job has lost its own."""
        if hit.source.prefix is not None:
            self.cache.touch(hit.source.prefix)
        if hit.checkpoint is not None:
            self._checkpoints.touch(hit.checkpoint)
        data = None if hit.checkpoint is None else hit.checkpoint.data
        try:
            self._context.memory.share(hit.source.seq_id, job.require_id(), hit.n, data)
        except (MemoryStateError, CacheFullError):
            job.state.n_past, job.can_share = 0, False
            if hit.checkpoint is not None:
                self._checkpoints.remove(hit.checkpoint)
            return False
        return True

    def _n_ahead(self, job: Job, other: Job) -> int:
        """Tokens that both jobs will have prefilled, in whole chunks."""
        if job.adapters != other.adapters:
            return 0
        return self._n_whole(n_common(job.state.ids[:-1], other.state.ids[:-1]))

    def _n_whole(self, n_tokens: int) -> int:
        return n_tokens - n_tokens % self._n_chunk
