"""Loop: the thread that drives a scheduler while there is work."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from pytreellama.draft import DrafterFactory, make_drafter
from pytreellama.engine.generation import Generation
from pytreellama.engine.request import sampling_params
from pytreellama.engine.scheduler import Scheduler
from pytreellama.engine.sequence import Sequence
from pytreellama.engine.waits import EngineThread
from pytreellama.errors import ContextError, QueueFullError
from pytreellama.model.vocab import Vocab
from pytreellama.process import ProcessWatch
from pytreellama.sampling.params import SamplingParams

_log = logging.getLogger(__name__)

_T = TypeVar("_T")

_LINGER_S = 0.5  # a thread that has nothing to do waits so long for more before it ends
_EXIT_S = 10.0  # at exit, a thread that is in a callback may take so long to come back
_ABORT_EVERY_S = 0.01

_INHERITED = (
    "this engine was made before the process forked, and works in the parent alone; make an engine "
    "in the child"
)


@dataclass(frozen=True, slots=True)
class _Command:
    """Something to do between two steps; if it fails, it ends its own request alone."""

    act: Callable[[], None]
    sequence: Sequence


class Loop:
    """Takes requests from any thread and runs them on one of its own.

    The thread is a daemon, begins with the first request, and ends when there was none for a while,
    so that an engine that is forgotten is not kept alive by it. It stops when the interpreter ends.
    A copy in a forked child has no thread, and refuses all requests.

    Requests are checked in the caller's thread, before they are queued; nothing that a request or
    its callbacks do ends the loop.

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
        self._commands: deque[_Command | Callable[[], None]] = deque()
        self._calls: set[Future[Any]] = set()
        self._generations: dict[Sequence, Generation] = {}
        self._n_open = 0
        self._thread: threading.Thread | None = None
        self.thread = EngineThread()
        self._is_closed = False
        self._why_closed = "the engine is closed; make another one"
        _loops.add(self)

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
            ContextError: the engine is closed; or a callback would have to wait for room.
        """
        self.require_open()
        self._scheduler.check(sequence)
        generation = Generation(self, sequence, streams)
        with self._changed:
            while self.is_full and not self._is_closed:
                self._require_room(wait)
                with self.thread.waited_for():
                    self._changed.wait()
            self._enter(generation)
        return generation

    def cancel(self, generation: Generation) -> None:
        """End a request at the next step."""
        sequence = generation.sequence
        with self._changed:
            if self._thread is not None and not self._is_closed:
                self._commands.append(_Command(lambda: self._scheduler.cancel(sequence), sequence))
                self._changed.notify_all()

    def fork(self, generation: Generation, changes: dict[str, Any]) -> Generation:
        """Fork between two steps, where a text is whole.

        Raises:
            RequestError, SamplerError, GrammarError: it is finished, or could not run.
            QueueFullError: there is no room in the queue.
            ContextError: as ``call``.
        """
        parent, forks = generation.sequence, list[Generation]()
        sampling = sampling_params(changes, parent.request.sampling) if changes else None
        try:
            return self.call(lambda: self._fork(parent, sampling, forks))
        except BaseException:
            for fork in forks:  # an interrupted caller never gets it
                fork.cancel()
            raise

    def require_open(self) -> None:
        """Raise ContextError if the engine takes no requests any more."""
        if self._is_closed:
            raise ContextError(self._why_closed)

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
        """Cancel everything, and wait for the thread to end.

        Raises:
            ContextError: a callback asks, which the loop waits for itself.
        """
        with self.thread.waited_for():
            thread = self._close()
            if thread is not None:
                thread.join()

    def stop_at_exit(self) -> None:
        """See ProcessBound: as ``close``, but without the rest of the pass that runs."""
        thread = self._close()
        deadline = time.monotonic() + _EXIT_S
        while thread is not None and thread.is_alive() and time.monotonic() < deadline:
            self._scheduler.abort()  # a pass that just begins forgets an abort before it
            thread.join(_ABORT_EVERY_S)
        if thread is None or not thread.is_alive():
            self._scheduler.close()

    def disown_after_fork(self) -> None:
        """See ProcessBound: requests that were open go on in the parent, and fail here."""
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
        """Raise unless there is room, or the caller waits for it."""
        if self.is_full and not wait:
            raise QueueFullError(
                f"{self._n_open} requests are under way or wait, which is the most that this "
                "engine takes; try again later, or make it with a larger n_queue_max"
            )

    def _enter(self, generation: Generation) -> None:
        """Queue what has been checked; the lock is held."""
        self.require_open()
        self._wake()
        sequence = generation.sequence
        self._n_open += 1
        self._generations[sequence] = generation
        self._commands.append(_Command(lambda: self._scheduler.add(sequence), sequence))

    def _wake(self) -> None:
        """See that a thread looks at what is queued next; the lock is held.

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
            if self._is_closed:
                return False  # every `close` still has the thread to wait for
            if self._scheduler.is_idle and not self._commands:
                self._thread = None
                return False
            return True

    def _obey(self) -> None:
        """Do what was asked for since the last step."""
        with self._changed:
            commands = list(self._commands)
            self._commands.clear()
        for command in commands:
            if not isinstance(command, _Command):
                command()  # its caller hears of what goes wrong
                continue
            try:
                command.act()
            except BaseException as error:
                command.sequence.fail(error)
                self._publish([command.sequence])

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
        self._obey()
        self._scheduler.cancel_all()
        self._publish(list(self._generations))

    def _fork(
        self, parent: Sequence, sampling: SamplingParams | None, forks: list[Generation]
    ) -> Generation:
        self._require_room(wait=False)
        child = parent.fork(self._vocab, make_drafter(self._new_drafter), sampling)
        self._scheduler.check(child)
        forks.append(Generation(self, child))
        with self._changed:
            self._enter(forks[0])
        return forks[0]


_loops: ProcessWatch[Loop] = ProcessWatch()
