"""EvaluationJob: a job that generates nothing, and runs passes of its own."""

from __future__ import annotations

from abc import abstractmethod

from pytreellama.context.context import Context
from pytreellama.engine.jobs.job import Job, ReadyJobs
from pytreellama.engine.token_state import Int32


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


class ChunkedEvaluationJob(EvaluationJob):
    """Reads its tokens in chunks, a pass each, and keeps what it reads of them.

    Args:
        tokens: as ``Job``.
        n_chunk: tokens of a pass.
    """

    def __init__(self, tokens: Int32, n_chunk: int) -> None:
        super().__init__(tokens)
        self._n_chunk = n_chunk

    @property
    def n_missing(self) -> int:
        """Nothing is prefilled: the outputs of all tokens are needed, and ``run`` computes them."""
        return 0

    @property
    def can_swap_out(self) -> bool:
        """What was read is not in the KV cache: after preemption the job starts over."""
        return False

    @property
    def n_cells(self) -> int:
        """See EvaluationJob."""
        return min(self._n_chunk, len(self.state) - self.state.n_past)
