"""Loop: the thread that drives a scheduler while there is work."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, TypeVar

from pytreellama.core.sampling import SamplingParams
from pytreellama.core.vocab import Vocab
from pytreellama.draft import DrafterFactory, make_drafter
from pytreellama.engine.generation import Generation
from pytreellama.engine.scheduler import Scheduler
from pytreellama.engine.sequence import Sequence
from pytreellama.errors import ContextError, QueueFullError

_T = TypeVar("_T")

_LINGER_S = 0.5  # a thread that has nothing to do waits so long for more before it ends


class Loop:
    """Takes requests from any thread and runs them on one of its own.

    The thread is a daemon, begins with the first request, and ends when there was none for a while,
    so that an engine that is forgotten is not kept alive by it.

    Args:
        scheduler: touched by the loop's thread alone.
        n_open_max: requests that may be under way or waiting at once.
    """

    def __init__(
        self, scheduler: Scheduler, vocab: Vocab, new_drafter: DrafterFactory, n_open_max: int
    ) -> None:
        self._scheduler = scheduler
        self._vocab = vocab
        self._new_drafter = new_drafter
        self._n_open_max = n_open_max
        self._changed = threading.Condition()
        self._commands: deque[Callable[[], None]] = deque()
        self._calls: set[Future[Any]] = set()
        self._generations: dict[Sequence, Generation] = {}
        self._n_open = 0
        self._thread: threading.Thread | None = None
        self._is_closed = False

    # -- called from any thread

    @property
    def is_closed(self) -> bool:
        """True once nothing goes on any more: closed, or broken down."""
        return self._is_closed

    @property
    def n_open(self) -> int:
        """Requests that are under way or wait."""
        return self._n_open

    @property
    def is_full(self) -> bool:
        """No room in the queue at present."""
        return self._n_open >= self._n_open_max

    def submit(self, sequence: Sequence, wait: bool, streams: bool = True) -> Generation:
        """Queue a sequence; without ``streams`` nobody hears of it before its end.

        Raises:
            RequestError: it could never run.
            QueueFullError: there is no room in the queue, and ``wait`` is False.
            ContextError: the engine is closed.
        """
        self._scheduler.check(sequence)
        generation = Generation(self, sequence, streams)
        with self._changed:
            while self.is_full and not self._is_closed:
                if not wait:
                    raise QueueFullError(
                        f"{self._n_open} requests are under way or wait, which is the most that "
                        "this engine takes; try again later, or make it with a larger n_queue_max"
                    )
                self._changed.wait()
            self._enter(generation)
        return generation

    def cancel(self, generation: Generation) -> None:
        self._command(lambda: self._scheduler.cancel(generation.sequence))

    def fork(self, generation: Generation, changes: dict[str, Any]) -> Generation:
        """Fork between two steps, where a text is whole."""
        return self.call(lambda: self._fork(generation.sequence, changes))

    def call(self, act: Callable[[], _T]) -> _T:
        """Do something with the scheduler or its sequences between two steps, and wait for it.

        Raises:
            ContextError: the engine is closed, or breaks down meanwhile; or a callback asks, which
                the loop waits for itself.
            Exception: whatever ``act`` raises.
        """
        future: Future[_T] = Future()

        def run() -> None:
            try:
                result = act()
                self._scheduler.count_load()
            except Exception as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        with self._changed:
            self._require_open()
            if self._thread is threading.current_thread():
                raise ContextError("a callback cannot wait for the engine; ask from another thread")
            self._calls.add(future)
            self._commands.append(run)
            self._wake()
        try:
            return future.result()
        finally:
            self._calls.discard(future)

    def close(self) -> None:
        """Cancel everything, and wait for the thread to end."""
        with self._changed:
            self._is_closed = True
            thread = self._thread
            self._changed.notify_all()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _command(self, act: Callable[[], None]) -> None:
        with self._changed:
            if self._thread is not None and not self._is_closed:
                self._commands.append(act)
                self._changed.notify_all()

    def _enter(self, generation: Generation) -> None:
        self._require_open()
        self._n_open += 1
        self._generations[generation.sequence] = generation
        self._commands.append(lambda: self._scheduler.add(generation.sequence))
        self._wake()

    def _require_open(self) -> None:
        if self._is_closed:
            raise ContextError("the engine is closed; make another one")

    def _wake(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="pytreellama", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    # -- on the loop's thread

    def _run(self) -> None:
        try:
            while self._has_work():
                for act in self._take_commands():
                    act()
                # whoever asked of an idle engine may use its context as soon as there is an answer
                if not self._scheduler.is_idle:
                    self._publish(self._scheduler.step())
            self._end()
        except BaseException as error:
            self._break(error)
            raise

    def _break(self, error: BaseException) -> None:
        """A fault of this package's own: nobody may wait for ever, and nothing goes on."""
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
            generation.sequence.fail(fault)
            generation.publish(is_done=True)

    def _has_work(self) -> bool:
        """Wait for work; False when the thread should end."""
        with self._changed:
            if self._scheduler.is_idle and not self._commands and not self._is_closed:
                self._changed.wait(_LINGER_S)
            if self._is_closed or (self._scheduler.is_idle and not self._commands):
                self._thread = None
                return False
            return True

    def _take_commands(self) -> list[Callable[[], None]]:
        with self._changed:
            commands = list(self._commands)
            self._commands.clear()
        return commands

    def _publish(self, stepped: list[Sequence]) -> None:
        for sequence in stepped:
            generation = self._generations.get(sequence)
            if generation is None:
                continue
            if not sequence.is_finished and not generation.streams:
                continue
            if sequence.is_finished:
                with self._changed:
                    del self._generations[sequence]
                    self._n_open -= 1
                    self._changed.notify_all()
            generation.publish(is_done=sequence.is_finished)

    def _end(self) -> None:
        """Without requests there is nothing to do; a closed engine cancels those that there are."""
        if not self._is_closed:
            return
        for act in self._take_commands():
            act()
        self._scheduler.cancel_all()
        self._publish(list(self._generations))

    def _fork(self, parent: Sequence, changes: dict[str, Any]) -> Generation:
        sampling: SamplingParams | None = None
        if changes:
            sampling = replace(parent.request.sampling, **changes)
        child = parent.fork(self._vocab, make_drafter(self._new_drafter), sampling)
        generation = Generation(self, child)
        with self._changed:
            self._enter(generation)
        return generation
