"""Workers: the threads that prepare requests, so that the event loop never waits for one of them.

Reading a large body, rendering a template, tokenizing, and compiling a grammar or schema take from
a millisecond to seconds. They run here as jobs. A request has one job at a time in a queue, so that
the jobs of many requests take turns.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from pytreellama.engine.async_engine import call_in
from pytreellama.errors import QueueFullError
from pytreellama.serve.errors import APIError

_T = TypeVar("_T")

N_WAITING_MAX = 256


class Workers:
    """Two lanes of threads: one for jobs that are short for certain, one for all others.

    Neither takes a thread from the other, so a request of a few words never waits for the schema
    or the long text of somebody else. In the slow lane one client has at most two of the three
    threads.
    """

    def __init__(self) -> None:
        self._quick = Lane("quick", n_threads=2, n_each=2)
        self._slow = Lane("slow", n_threads=3, n_each=2)

    async def run(
        self,
        act: Callable[[], _T],
        *,
        client: str,
        is_slow: bool,
        drop: Callable[[_T], object] | None = None,
    ) -> _T:
        """As ``Lane.run``, in the lane for such a job."""
        lane = self._slow if is_slow else self._quick
        return await lane.run(act, client=client, drop=drop)

    def close(self) -> None:
        """End all jobs for those who wait for them, and take no more."""
        for lane in (self._quick, self._slow):
            lane.close()

    def join(self, timeout_s: float) -> bool:
        """Wait for the threads of a closed one; False if some still run after ``timeout_s``."""
        until_s = time.monotonic() + timeout_s
        return all([lane.join(until_s - time.monotonic()) for lane in (self._quick, self._slow)])


@dataclass(eq=False, slots=True)
class _Job(Generic[_T]):
    """What a request waits for.

    Attributes:
        future: of the loop that the request runs in.
        drop: takes the result of a job that nobody waits for any more.
    """

    act: Callable[[], _T]
    client: str
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[_T]
    drop: Callable[[_T], object] | None

    def fail(self, error: Exception) -> None:
        """Runs in the loop."""
        if not self.future.done():
            self.future.set_exception(error)

    def succeed(self, result: _T) -> None:
        """Runs in the loop."""
        if not self.future.done():
            self.future.set_result(result)
        elif self.drop is not None:
            self.drop(result)


class Lane:
    """Daemon threads and a queue for each client; clients take turns.

    Args:
        name: of its threads.
        n_threads: jobs that run at once; threads begin with the jobs.
        n_each: of these, jobs of one client.
        n_waiting_max: jobs that may wait.
    """

    def __init__(
        self, name: str, *, n_threads: int, n_each: int, n_waiting_max: int = N_WAITING_MAX
    ) -> None:
        self._name = name
        self._n_threads = n_threads
        self._n_each = n_each
        self._n_waiting_max = n_waiting_max
        self._changed = threading.Condition()
        self._waiting: dict[str, deque[_Job[Any]]] = {}  # in the order of turns
        self._running: list[_Job[Any]] = []
        self._threads: list[threading.Thread] = []
        self._is_closed = False

    async def run(
        self, act: Callable[[], _T], *, client: str, drop: Callable[[_T], object] | None = None
    ) -> _T:
        """Call a function on one of the threads, and wait for what it returns.

        A task that is cancelled meanwhile leaves the queue; a job that runs already goes on to its
        end, and ``drop`` gets its result.

        Args:
            client: whose turn it takes.

        Raises:
            QueueFullError: too many jobs wait.
            APIError: the server is stopped meanwhile.
            Exception: whatever ``act`` raises.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_T] = loop.create_future()
        job = _Job(act, client, loop, future, drop)
        self._enter(job)
        try:
            return await future
        finally:
            self._leave(job)

    def close(self) -> None:
        """End all jobs for those who wait for them, and take no more."""
        with self._changed:
            self._is_closed = True
            jobs = [*self._running, *(job for queue in self._waiting.values() for job in queue)]
            self._waiting.clear()
            self._changed.notify_all()
        for job in jobs:
            _tell(job, _stopping())

    def join(self, timeout_s: float) -> bool:
        """Wait for the threads of a closed one; False if some still run after ``timeout_s``."""
        until_s = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(until_s - time.monotonic(), 0.0))
        return not any(thread.is_alive() for thread in self._threads)

    def _enter(self, job: _Job[Any]) -> None:
        with self._changed:
            if self._is_closed:
                raise _stopping()
            if sum(map(len, self._waiting.values())) >= self._n_waiting_max:
                raise QueueFullError
            self._waiting.setdefault(job.client, deque()).append(job)
            if len(self._threads) < self._n_threads:
                name = f"pytreellama-{self._name}-{len(self._threads)}"
                # a daemon: native code cannot be interrupted, and must not hold up the end
                thread = threading.Thread(target=self._work, name=name, daemon=True)
                thread.start()
                self._threads.append(thread)
            self._changed.notify()

    def _leave(self, job: _Job[Any]) -> None:
        with self._changed:
            queue = self._waiting.get(job.client)
            if queue is not None and job in queue:
                queue.remove(job)
                if not queue:
                    del self._waiting[job.client]

    # -- on the threads

    def _work(self) -> None:
        while (job := self._take()) is not None:
            try:
                result = job.act()
            except BaseException as error:  # a panic of Rust's is no Exception
                _tell(job, error if isinstance(error, Exception) else RuntimeError(repr(error)))
            else:
                call_in(job.loop, partial(job.succeed, result))
                del result
            with self._changed:
                self._running.remove(job)
            del job  # with all that it holds, while the thread waits for the next one

    def _take(self) -> _Job[Any] | None:
        """Wait for a job; None once there will be no more."""
        with self._changed:
            while not self._is_closed:
                if (job := self._next()) is not None:
                    self._running.append(job)
                    return job
                self._changed.wait()
            return None

    def _next(self) -> _Job[Any] | None:
        """The first job of the next client that may have one more thread."""
        for client, queue in self._waiting.items():
            if sum(job.client == client for job in self._running) < self._n_each:
                job = queue.popleft()
                del self._waiting[client]
                if queue:
                    self._waiting[client] = queue  # behind the other clients
                return job
        return None


def _tell(job: _Job[Any], error: Exception) -> None:
    call_in(job.loop, partial(job.fail, error))


def _stopping() -> APIError:
    return APIError(503, "the server is being stopped")
