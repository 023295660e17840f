"""ChunkedPrefill: computes the prompts of running jobs, a limited number of tokens a step."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from pytreellama.context.context import Context
from pytreellama.engine.jobs import Job
from pytreellama.engine.kv.manager import KVCacheManager
from pytreellama.engine.prefill_order import PrefillOrder
from pytreellama.engine.prefill_share import N_SHORT, PrefillShare
from pytreellama.errors import PyTreeLlamaError


class ChunkedPrefill:
    """Prefills in chunks that begin at multiples of ``n_prefill``, whatever else is running.

    Each chunk is one pass, and shared prefixes are not computed again. Where logits depend on the
    tokens of a pass (``Context.is_batch_invariant`` is False), results are then still reproducible.

    Args:
        context: the target.
        kv: its KV cache.
        n_prefill: maximum number of tokens of a chunk, and of all chunks of a step.

    Attributes:
        share: of the time, what long prompts may take; the scheduler tells it of decode passes.
    """

    def __init__(self, context: Context, kv: KVCacheManager, n_prefill: int) -> None:
        self._context = context
        self._kv = kv
        self._n_prefill = n_prefill
        self._order = PrefillOrder()
        self.share = PrefillShare()

    def run(self, running: Sequence[Job]) -> Iterator[Job]:
        """Prefill the next chunks, the shortest prompt first, and yield each job after its turn.

        Raises:
            CacheFullError: no room for a chunk; the rest of the jobs had no turn.
        """
        n_left = self._n_prefill
        missing = [job for job in running if job.n_missing > 0 and not job.is_finished]
        jobs = self._order.of(missing)
        n_long = sum(job.n_missing > N_SHORT for job in jobs)
        n_decoding = sum(job.n_missing == 0 for job in running)
        for i, job in enumerate(jobs):
            self._kv.share(job, running)
            if not self.share.lets(job.n_missing):
                continue
            n_chunk = self._n_prefill - job.state.n_past % self._n_prefill
            n_chunk = min(n_chunk, job.n_missing, self._kv.n_until_checkpoint(job))
            if n_chunk and not self._kv.will_share(job, jobs[:i]):
                if n_chunk > n_left:
                    continue  # a shorter one may fit
                if not use_adapters(self._context, [job]):
                    continue
                n_left -= n_chunk
                is_long = job.n_missing > N_SHORT
                spent_s = self._run_chunk(job, n_chunk)
                if is_long:
                    self.share.spend(spent_s, n_long, n_decoding)
            yield job

    def _run_chunk(self, job: Job, n_chunk: int) -> float:
        """Prefill the next tokens of a job; returns the seconds that it took."""
        started_s = time.perf_counter()
        begin = job.state.n_past
        self._kv.evict_for(n_chunk)
        self._context.prefill(job.state.ids[begin : begin + n_chunk], job.require_id())
        job.state.n_past = begin + n_chunk
        job.observe_prefill(begin, n_chunk)
        self._kv.take_checkpoint(job)
        spent_s = time.perf_counter() - started_s
        job.stats.prefill_s += spent_s
        return spent_s


def use_adapters(context: Context, jobs: Sequence[Job]) -> bool:
    """Use the LoRA adapters that these jobs share; where that fails, so do they, and no others."""
    try:
        context.use_adapters(jobs[0].adapters)
    except PyTreeLlamaError as error:
        for job in jobs:
            job.fail(error)
        return False
    return True
