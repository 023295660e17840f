"""Which engines' threads wait for which engines: a circle of them would wait for ever."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pytreellama.errors import ContextError


class EngineThread:
    """Stands for the thread of one engine, on which its callbacks and drafters are called."""

    __slots__ = ()

    def run_here(self) -> None:
        """The current thread is the engine's from now on."""
        _here.thread = self

    @property
    def is_here(self) -> bool:
        """True on the engine's own thread."""
        return _current() is self

    def require_elsewhere(self) -> None:
        """Raise ContextError in a callback of this engine, or of one that waits for it.

        No wait is begun: a call may do so before it begins anything else.
        """
        with self.waited_for():
            pass

    @contextmanager
    def waited_for(self) -> Iterator[None]:
        """While the current thread waits for this engine.

        Raises:
            ContextError: it is a callback's, and this engine waits for that callback, itself or
                through callbacks of other engines.
        """
        waiter = _current()
        if waiter is None:
            yield
            return
        with _lock:
            other: EngineThread | None = self
            while other is not None:
                if other is waiter:
                    raise ContextError(
                        "a callback cannot wait for the engine; ask from another thread"
                    )
                other = _waits_for.get(other)
            _waits_for[waiter] = self
        try:
            yield
        finally:
            with _lock:
                del _waits_for[waiter]


def is_engine_thread() -> bool:
    """True in callbacks and drafters of any engine."""
    return _current() is not None


def _current() -> EngineThread | None:
    return getattr(_here, "thread", None)


_here = threading.local()
_lock = threading.Lock()
_waits_for: dict[EngineThread, EngineThread] = {}
