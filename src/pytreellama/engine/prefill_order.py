"""PrefillOrder: which prompts are prefilled first, where several wait for it."""

from __future__ import annotations

from collections.abc import Sequence

from pytreellama.engine.jobs import Job

OLDEST_EVERY = 4
"""Of so many steps in which several prompts wait, the last one begins with the oldest."""


class PrefillOrder:
    """Shortest remaining prompt first, which gives the lowest mean time to first token.

    Every fourth step begins with the oldest prompt instead, so that a long one always advances:
    it has at least a quarter of the steps once those before it are done.
    """

    def __init__(self) -> None:
        self._n_contended = 0

    def of(self, jobs: Sequence[Job]) -> list[Job]:
        """The jobs in the order of one step; to be called once a step."""
        ordered = sorted(jobs, key=lambda job: (job.n_missing, job.arrival))
        if len(ordered) < 2:
            return ordered
        self._n_contended += 1
        if self._n_contended % OLDEST_EVERY == 0:
            oldest = min(ordered, key=lambda job: job.arrival)
            ordered.remove(oldest)
            ordered.insert(0, oldest)
        return ordered
