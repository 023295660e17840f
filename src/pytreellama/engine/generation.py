"""Generation: one request on its way, for whoever waits for it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from pytreellama.engine.completion import Chunk, Completion
from pytreellama.engine.sequence import Sequence

if TYPE_CHECKING:
    from pytreellama.engine.loop import Loop


class Generation(Iterator[Chunk]):
    """Iterate over it for the text as it becomes certain, or ask for the whole.

    It runs whether anyone waits for it or not. All methods may be called from any thread; chunks
    go to whoever takes them first.

    Attributes:
        streams: chunks come step by step, not all in one at the end.
    """

    def __init__(self, loop: Loop, sequence: Sequence, streams: bool = True) -> None:
        self.streams = streams
        self._loop = loop
        self._sequence = sequence
        self._changed = threading.Condition()
        self._chunks: deque[Chunk] = deque()
        self._is_done = False
        self._listeners: list[Callable[[], None]] = []

    @property
    def is_done(self) -> bool:
        """True once nothing more will come and nothing is left in the cache."""
        return self._is_done

    def __next__(self) -> Chunk:
        """Wait for the next chunk; the last has ``finish_reason``.

        Raises:
            StopIteration: after the last.
            PyTreeLlamaError: whatever ended the request.
            ContextError: a callback asks, and would have to wait for the thread that it is on.
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
        """The next chunk, None if there is none now; otherwise as ``next``."""
        with self._changed:
            if self._chunks:
                return self._chunks.popleft()
            if self._is_done and self._sequence.error is not None:
                raise self._sequence.error
            return None

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until it is done; False if that takes longer than ``timeout_s`` seconds.

        Raises:
            ContextError: a callback asks, and would have to wait for the thread that it is on.
        """
        if timeout_s is not None:
            timeout_s = min(timeout_s, threading.TIMEOUT_MAX)
        with self._changed:
            if self._is_done:
                return True
            with self._loop.thread.waited_for():
                return self._changed.wait_for(lambda: self._is_done, timeout_s)

    def result(self, timeout_s: float | None = None) -> Completion:
        """Wait for the whole.

        Raises:
            TimeoutError: it is not done in ``timeout_s`` seconds; it goes on.
            PyTreeLlamaError: whatever ended the request.
        """
        if not self.wait(timeout_s):
            raise TimeoutError(f"the generation is not done after {timeout_s} seconds")
        if self._sequence.error is not None:
            raise self._sequence.error
        return self._sequence.completion()

    def cancel(self) -> None:
        """End it at the next step, with ``finish_reason`` "cancelled", unless it is done."""
        self._loop.cancel(self)

    def fork(self, **sampling: Any) -> Generation:
        """Another generation that goes on from this one's present text, which is not read again.

        Args:
            sampling: fields of ``SamplingParams`` to change, such as ``seed``; without any the
                fork has a copy of this one's sampler, and writes the same.

        Raises:
            RequestError, SamplerError: it is finished, its text fills the context, or the options
                cannot be used.
            QueueFullError: the engine has as many requests as it may hold.
        """
        return self._loop.fork(self, sampling)

    # -- for the loop

    @property
    def sequence(self) -> Sequence:
        return self._sequence

    def publish(self, is_done: bool) -> None:
        """Tell of a step; called by the thread that made it."""
        chunk = self._sequence.take_chunk() if self._sequence.error is None else None
        with self._changed:
            if chunk is not None and (chunk.text or chunk.tokens or chunk.finish_reason):
                self._chunks.append(chunk)
            self._is_done = is_done
            self._changed.notify_all()
            listeners = list(self._listeners)
        for listener in listeners:
            listener()

    def disown(self, error: Exception) -> None:
        """End it in a forked child, where no thread goes on with it."""
        self._changed = threading.Condition()  # the parent's may be held
        self._listeners.clear()
        self._sequence.fail(error)
        self._is_done = True

    def listen(self, listener: Callable[[], None]) -> None:
        """Call a function after every step, and at once; it must be quick and not fail."""
        with self._changed:
            self._listeners.append(listener)
        listener()
