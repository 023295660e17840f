"""Loop: the request queue, and the thread that runs the scheduler while there is work."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from pytreellama.draft import Drafter, DrafterFactory, make_drafter
from pytreellama.engine.completion import Chunk, Completion
from pytreellama.engine.generation import Generation
from pytreellama.engine.job_scheduler import JobScheduler
from pytreellama.engine.jobs import GenerateJob, Job
from pytreellama.engine.waits import EngineThread, is_engine_thread
from pytreellama.errors import ContextError, QueueFullError
from pytreellama.process import ProcessWatch

_log = logging.getLogger(__name__)

_T = TypeVar("_T")

_LINGER_S = 0.5  # an idle thread waits so long for requests before it ends
_EXIT_S = 10.0  # at exit, a callback may take so long to return
_ABORT_EVERY_S = 0.01

_INHERITED = (
    "this engine was made before the process forked, and works in the parent alone; make an engine "
    "in the child"
)


@dataclass(frozen=True, slots=True)
class _Command:
    """Work between two steps for one job; an error fails that job only."""

    act: Callable[[], None]
    job: Job


class Loop:
    """Accepts jobs on any thread, and runs them on a thread of its own.

    The thread is a daemon. It starts with the first job and ends after some idle time, so that it
    does not keep an unused engine alive. It stops when the interpreter exits. In a forked child
    process there is no thread, and all requests are refused.

    Jobs are checked on the caller's thread before they are queued. No error of a request or of its
    callbacks ends the loop.

    Args:
        scheduler: used by the loop's thread only.
        new_drafter: makes the drafters of forks.
        n_open_max: maximum number of jobs that run or wait.
    """

    def __init__(
        self, scheduler: JobScheduler, new_drafter: DrafterFactory, n_open_max: int
    ) -> None:
        self._scheduler = scheduler
        self._new_drafter = new_drafter
        self._n_open_max = n_open_max
        self._changed = threading.Condition()
        self._commands: deque[_Command | Callable[[], None]] = deque()
        self._calls: set[Future[Any]] = set()
        self._generations: dict[Job, Generation] = {}
        self._n_open = 0
        self._thread: threading.Thread | None = None
        self.thread = EngineThread()
        self._is_closed = False
        self._why_closed = "the engine is closed; make another one"
        _loops.add(self)

    # -- called from any thread

    @property
    def is_closed(self) -> bool:
        """True once no request is accepted any more: closed, or broken down."""
        return self._is_closed

    @property
    def n_open(self) -> int:
        """Number of jobs that run or wait."""
        return self._n_open

    @property
    def is_full(self) -> bool:
        """True if the request queue is full."""
        return self._n_open >= self._n_open_max

    def submit(self, job: Job, wait: bool, streams: bool = True) -> Generation:
        """Check and queue a job.

        Args:
            wait: if the queue is full, wait for room in it.
            streams: deliver chunks after each step; otherwise one at the end.

        Raises:
            RequestError: the job could never run.
            QueueFullError: the queue is full, and ``wait`` is False.
            ContextError: the engine is closed, or a callback would have to wait for room.
        """
        self.require_open()
        self._scheduler.check(job)
        generation = Generation(self, job, streams)
        with self._changed:
            while self.is_full and not self._is_closed:
                self._require_room(wait)
                with self.thread.waited_for():
                    self._changed.wait()
            self._enter(generation)
        return generation

    def run(self, jobs: Sequence[Job]) -> list[Completion]:
        """Submit all jobs and wait for them; none is still running when it returns or raises."""
        self.thread.require_elsewhere()
        generations: list[Generation] = []
        try:
            for job in jobs:
                generations.append(self.submit(job, wait=True, streams=False))
            return [generation.result() for generation in generations]
        finally:
            _end(generations)

    def stream(self, job: Job) -> Generator[Chunk, None, None]:
        """Submit a job when the first chunk is asked for; a stream that is closed cancels it."""
        generation = self.submit(job, wait=True)
        try:
            yield from generation
        finally:
            _end([generation])

    def cancel(self, generation: Generation) -> None:
        """End a job at the next step."""
        job = generation.job
        with self._changed:
            if self._thread is not None and not self._is_closed:
                self._commands.append(_Command(lambda: self._scheduler.cancel(job), job))
                self._changed.notify_all()

    def fork(self, generation: Generation, changes: dict[str, Any]) -> Generation:
        """Fork a generation between two steps.

        Raises:
            RequestError, SamplerError, GrammarError: it is finished, or the fork could never run.
            QueueFullError: the queue is full.
            ContextError: as ``call``.
        """
        make_fork, forks = generation.job.prepare_fork(changes), list[Generation]()
        try:
            return self.call(lambda: self._fork(make_fork, forks))
        except BaseException:
            for fork in forks:  # an interrupted caller never receives it
                fork.cancel()
            raise

    def require_open(self) -> None:
        """Raise ContextError if the engine accepts no requests any more."""
        if self._is_closed:
            raise ContextError(self._why_closed)

    def call(self, act: Callable[[], _T]) -> _T:
        """Run a function on the loop's thread between two steps, and wait for its result.

        Raises:
            ContextError: the engine is closed or breaks down; or called in a callback, which
                would wait for its own thread.
            Exception: whatever ``act`` raises.
        """
        future: Future[_T] = Future()

        def run() -> None:
            try:
                result = act()
                self._scheduler.update_load()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        self.thread.require_elsewhere()
        with self._changed:
            self.require_open()
            self._wake()
            self._calls.add(future)
            self._commands.append(run)
        try:
            with self.thread.waited_for():
                return future.result()
        finally:
            self._calls.discard(future)

    def close(self) -> None:
        """Cancel all jobs, and wait for the thread to end.

        Raises:
            ContextError: called in a callback, which would wait for its own thread.
        """
        with self.thread.waited_for():
            thread = self._close()
            if thread is not None:
                thread.join()

    def stop_at_exit(self) -> None:
        """See ProcessBound: as ``close``, but the running pass is aborted."""
        thread = self._close()
        deadline = time.monotonic() + _EXIT_S
        while thread is not None and thread.is_alive() and time.monotonic() < deadline:
            self._scheduler.abort()  # a pass that begins now clears an earlier abort
            thread.join(_ABORT_EVERY_S)
        if thread is None or not thread.is_alive():
            self._scheduler.close()

    def disown_after_fork(self) -> None:
        """See ProcessBound: open requests continue in the parent process, and fail here."""
        self._is_closed = True
        self._why_closed = _INHERITED
        self._thread = None
        self._changed = threading.Condition()  # the parent's may be held by its loop
        for generation in self._generations.values():
            generation.disown(ContextError(_INHERITED))

    def _close(self) -> threading.Thread | None:
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
            return self._thread

    def _require_room(self, wait: bool) -> None:
        """Raise QueueFullError if the queue is full and the caller does not wait."""
        if self.is_full and not wait:
            raise QueueFullError(
                f"{self._n_open} requests are under way or wait, which is the most that this "
                "engine takes; try again later, or make it with a larger n_queue_max"
            )

    def _enter(self, generation: Generation) -> None:
        """Queue a checked job; the caller holds the lock."""
        self.require_open()
        self._wake()
        job = generation.job
        self._n_open += 1
        self._generations[job] = generation
        self._commands.append(_Command(lambda: self._scheduler.add(job), job))

    def _wake(self) -> None:
        """Start the thread or notify it of new commands; the caller holds the lock.

        Raises:
            ContextError: no thread can be started.
        """
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="pytreellama", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                raise ContextError(
                    f"the engine's thread cannot be started ({error}); let this process have more "
                    "threads or memory, and try again"
                ) from error
            self._thread = thread
        self._changed.notify_all()

    # -- on the loop's thread

    def _run(self) -> None:
        self.thread.run_here()
        try:
            while self._has_work():
                self._obey()
                # after ``call`` on an idle engine the caller may use the context at once
                if not self._scheduler.is_idle:
                    self._publish(self._scheduler.step())
            self._end()
        except BaseException as error:
            self._break(error)
            raise

    def _break(self, error: BaseException) -> None:
        """After an error of this package itself: fail all waiting callers, and stop."""
        with self._changed:
            self._is_closed = True
            self._thread = None
            generations = list(self._generations.values())
            self._generations.clear()
            calls = list(self._calls)
            self._changed.notify_all()
        for call in calls:
            if not call.done():
                call.set_exception(ContextError(f"the engine broke down: {error!r}"))
        for generation in generations:
            fault = ContextError(f"the engine broke down: {error!r}; make another one")
            generation.job.fail(fault)
            generation.publish(is_done=True)

    def _has_work(self) -> bool:
        """Wait for work; False if the thread must end."""
        with self._changed:
            if self._scheduler.is_idle and not self._commands and not self._is_closed:
                self._changed.wait(_LINGER_S)
            if self._is_closed:
                return False  # ``close`` joins this thread
            if self._scheduler.is_idle and not self._commands:
                self._thread = None
                return False
            return True

    def _obey(self) -> None:
        """Run the commands queued since the last step."""
        with self._changed:
            commands = list(self._commands)
            self._commands.clear()
        for command in commands:
            if not isinstance(command, _Command):
                command()  # errors go to its caller
                continue
            try:
                command.act()
            except BaseException as error:
                command.job.fail(error)
                self._publish([command.job])

    def _publish(self, stepped: list[Job]) -> None:
        for job in stepped:
            generation = self._generations.get(job)
            if generation is None:
                continue
            if not job.is_finished and not generation.streams:
                continue
            if job.is_finished:
                with self._changed:
                    del self._generations[job]
                    self._n_open -= 1
                    self._changed.notify_all()
            generation.publish(is_done=job.is_finished)

    def _end(self) -> None:
        """Cancel the jobs of a closed engine."""
        if not self._is_closed:
            return
        self._obey()
        self._scheduler.cancel_all()
        self._publish(list(self._generations))

    def _fork(
        self, make_fork: Callable[[Drafter], GenerateJob], forks: list[Generation]
    ) -> Generation:
        self._require_room(wait=False)
        job = make_fork(make_drafter(self._new_drafter))
        self._scheduler.check(job)
        forks.append(Generation(self, job))
        with self._changed:
            self._enter(forks[0])
        return forks[0]


def _end(generations: Sequence[Generation]) -> None:
    """Cancel generations, and wait until they have left the KV cache."""
    for generation in generations:
        generation.cancel()
    if is_engine_thread():
        return  # the garbage collector may close a stream during a callback
    for generation in generations:
        generation.wait()


_loops: ProcessWatch[Loop] = ProcessWatch()
