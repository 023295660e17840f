"""SharedCells: cells of the KV cache that running jobs have in common."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from pytreellama.engine.jobs import Job
from pytreellama.engine.kv.prefix_cache import n_common


class SharedCells:
    """Counts the cells that attention reads once for several jobs.

    Jobs share the cells of a prefix that one got from another, or both from a third sequence. The
    number is constant while they run, so it is counted only when the set of jobs changes.
    """

    def __init__(self) -> None:
        self._jobs: tuple[Job, ...] = ()
        self._n_shared = 0

    def count(self, jobs: Sequence[Job]) -> int:
        """Cells of each job, summed, less the cells that the jobs occupy together."""
        if self._jobs != tuple(jobs):
            self._jobs = tuple(jobs)
            self._n_shared = _n_shared(jobs)
        return self._n_shared


def _n_shared(jobs: Sequence[Job]) -> int:
    """In sorted order, neighbours have the longest common prefixes."""
    cached = [job for job in jobs if job.state.n_past > 0]
    if not any(job.stats.n_shared for job in cached):
        return 0
    # big-endian bytes sort as the tokens do
    cached.sort(key=lambda job: job.state.shareable.astype(">i4").tobytes())
    return sum(
        min(n_common(a.state.shareable, b.state.shareable), max(a.stats.n_shared, b.stats.n_shared))
        for a, b in pairwise(cached)
    )
