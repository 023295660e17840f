"""EncoderScheduler: the queue of an encoder, whose texts share passes."""

from __future__ import annotations

import time
from collections.abc import Sequence

from pytreellama.context.encoder_context import EncoderContext
from pytreellama.engine.jobs import EncoderJob, Job, JobLimits, ReadyJobs
from pytreellama.engine.load import Load


class EncoderScheduler:
    """Runs jobs of an encoder in the order of arrival; a step is a pass over the first of them.

    It has the methods that ``Loop`` calls, as ``Scheduler``.

    Args:
        context: belongs to the scheduler.
    """

    def __init__(self, context: EncoderContext) -> None:
        self._context = context
        self._waiting: list[Job] = []
        self._load_now = Load()
        self._limits = JobLimits(n_text_max=context.n_text_max, n_nodes_max=0)

    @property
    def is_idle(self) -> bool:
        """True if there are no jobs."""
        return not self._waiting

    @property
    def load(self) -> Load:
        """Load as of the last step; may be read from any thread."""
        return self._load_now

    def check(self, job: Job) -> None:
        """Raise RequestError for a job that could never run here; may be called on any thread."""
        job.check(self._limits)

    def add(self, job: Job) -> None:
        """Queue a job that passed ``check``."""
        self._waiting.append(job)

    def cancel(self, job: Job) -> None:
        """Finish a job without a result."""
        if not job.is_finished:
            job.finish("cancelled")

    def cancel_all(self) -> None:
        """Finish all jobs."""
        for job in self._waiting:
            self.cancel(job)
        self._waiting = []
        self.update_load()

    def abort(self) -> None:
        """Abort the pass that is running; may be called on any thread."""
        self._context.abort()

    def close(self) -> None:
        """See Scheduler: an encoder learns nothing that is to be saved."""

    def update_load(self) -> None:
        """Refresh the ``load`` snapshot."""
        self._load_now = Load(n_waiting=len(self._waiting))

    def step(self) -> list[Job]:
        """Run one pass; returns the jobs that ended, cancelled ones included."""
        ready = ReadyJobs()
        for job in self._waiting:
            if not job.is_finished:
                job.join(ready)
        self._run(self._first(ready.for_encoder))
        ended = [job for job in self._waiting if job.is_finished]
        self._waiting = [job for job in self._waiting if not job.is_finished]
        self.update_load()
        return ended

    def _first(self, jobs: Sequence[EncoderJob]) -> list[EncoderJob]:
        """The oldest job and those after it that fit into its pass and want the same of it."""
        first: list[EncoderJob] = []
        n_tokens = 0
        for job in jobs:
            n_tokens += len(job.state)
            is_full = n_tokens > self._context.n_ctx or len(first) == self._context.n_texts_max
            if first and (is_full or job.wants_scores != first[0].wants_scores):
                break
            first.append(job)
        return first

    def _run(self, jobs: Sequence[EncoderJob]) -> None:
        if not jobs:
            return
        for job in jobs:
            job.start(drafts=False)
        texts = [job.state.ids for job in jobs]
        started_s = time.perf_counter()
        try:
            run = self._context.class_scores if jobs[0].wants_scores else self._context.encode
            values = run(texts)
        except BaseException as error:
            for job in jobs:
                job.fail(error)
            return
        spent_s = time.perf_counter() - started_s
        for job, taken in zip(jobs, values, strict=True):
            job.stats.prefill_s = spent_s
            job.take(taken)
