"""Generation: the handle of one submitted request."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from pytreellama.engine.completion import Chunk, Completion
from pytreellama.engine.jobs import Job

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from pytreellama.engine.loop import Loop
    from pytreellama.engine.options import SamplingOptions


class Generation(Iterator[Chunk]):
    """Yields chunks of text as they become final; ``result`` waits for the whole output.

    The request runs whether anyone waits for it or not. All methods may be called from any thread;
    each chunk is delivered once, to the first that takes it.

    Attributes:
        streams: chunks arrive after each step, not all in one at the end.

    Example:
        >>> generation = engine.submit("Once upon a time", max_tokens=32)
        >>> for chunk in generation:
        ...     print(chunk.text, end="")
    """

    def __init__(self, loop: Loop, job: Job, streams: bool = True) -> None:
        self.streams = streams
        self._loop = loop
        self._job = job
        self._changed = threading.Condition()
        self._chunks: deque[Chunk] = deque()
        self._is_done = False
        self._listeners: list[Callable[[], None]] = []

    def __repr__(self) -> str:
        state = "failed" if self._job.error else "done" if self._is_done else "not done"
        return f"<Generation: {state}>"

    @property
    def is_done(self) -> bool:
        """True once no more chunks will arrive and the request has left the KV cache."""
        return self._is_done

    def __next__(self) -> Chunk:
        """Wait for the next chunk; the last has ``finish_reason``.

        Raises:
            StopIteration: after the last.
            PyTreeLlamaError: whatever ended the request.
            ContextError: called in a callback, which would wait for its own thread.
        """
        with self._changed:
            while not self._chunks and not self._is_done:
                with self._loop.thread.waited_for():
                    self._changed.wait()
        chunk = self.take()
        if chunk is None:
            raise StopIteration
        return chunk

    def take(self) -> Chunk | None:
        """The next chunk, or None if there is none now; otherwise as ``next``."""
        with self._changed:
            if self._chunks:
                return self._chunks.popleft()
            if self._is_done and self._job.error is not None:
                raise self._job.error
            return None

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the request is done; False if that takes more than ``timeout_s`` seconds.

        Raises:
            ContextError: called in a callback, which would wait for its own thread.
        """
        if timeout_s is not None:
            timeout_s = min(timeout_s, threading.TIMEOUT_MAX)
        with self._changed:
            if self._is_done:
                return True
            with self._loop.thread.waited_for():
                return self._changed.wait_for(lambda: self._is_done, timeout_s)

    def result(self, timeout_s: float | None = None) -> Completion:
        """Wait for the whole output.

        Raises:
            TimeoutError: the request is not done in ``timeout_s`` seconds; it continues.
            PyTreeLlamaError: whatever ended the request.
        """
        if not self.wait(timeout_s):
            raise TimeoutError(f"the generation is not done after {timeout_s} seconds")
        if self._job.error is not None:
            raise self._job.error
        return self._job.completion()

    def cancel(self) -> None:
        """End the request at the next step, with ``finish_reason`` "cancelled"."""
        self._loop.cancel(self)

    def fork(self, **sampling: Unpack[SamplingOptions]) -> Generation:
        """Start another generation that continues the present output; it shares the KV cache.

        Args:
            sampling: fields of ``SamplingParams`` to change, such as ``seed``. Without any, the
                fork has a copy of this generation's sampler, and generates the same tokens.

        Raises:
            RequestError, SamplerError: the generation is finished, its text fills the context, or
                the options are invalid.
            QueueFullError: the request queue is full.
        """
        return self._loop.fork(self, dict(sampling))

    # -- for the loop

    @property
    def job(self) -> Job:
        """The state of the request; the engine's thread owns it."""
        return self._job

    def publish(self, is_done: bool) -> None:
        """Deliver what a step brought; called on the engine's thread."""
        chunk = self._job.take_chunk() if self._job.error is None else None
        with self._changed:
            if chunk is not None and (chunk.text or chunk.tokens or chunk.finish_reason):
                self._chunks.append(chunk)
            self._is_done = is_done
            self._changed.notify_all()
            listeners = list(self._listeners)
        for listener in listeners:
            listener()

    def disown(self, error: Exception) -> None:
        """Fail the request in a forked child process, which has no thread to run it."""
        self._changed = threading.Condition()  # the parent's may be held
        self._listeners.clear()
        self._job.fail(error)
        self._is_done = True

    def listen(self, listener: Callable[[], None]) -> None:
        """Call a function now and after every step; it must be fast and must not raise."""
        with self._changed:
            self._listeners.append(listener)
        listener()
