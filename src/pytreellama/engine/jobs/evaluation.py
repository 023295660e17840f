"""EvaluationJob: a job that generates nothing, and runs passes of its own."""

from __future__ import annotations

from abc import abstractmethod

from pytreellama.context.context import Context
from pytreellama.engine.jobs.job import Job, ReadyJobs


class EvaluationJob(Job):
    """The result is what the model computes for given tokens. It runs among generations."""

    @property
    @abstractmethod
    def n_cells(self) -> int:
        """Number of KV-cache cells that the next pass needs."""

    @abstractmethod
    def run(self, context: Context) -> None:
        """Run one pass, and ``finish`` once the result is complete.

        Raises:
            CacheFullError: no room in the KV cache; the job is as it was.
        """

    def join(self, ready: ReadyJobs) -> None:
        """See Job."""
        ready.for_own_pass.append(self)
