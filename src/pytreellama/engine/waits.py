"""EngineThread: which engine threads wait for which engines; a cycle would be a deadlock."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pytreellama.errors import ContextError


class EngineThread:
    """The thread of one engine, on which its callbacks and drafters are called."""

    __slots__ = ()

    def run_here(self) -> None:
        """Mark the current thread as the engine's."""
        _here.thread = self

    @property
    def is_here(self) -> bool:
        """True on the engine's own thread."""
        return _current() is self

    def require_elsewhere(self) -> None:
        """Raise ContextError if waiting for this engine here would be a deadlock.

        Nothing is waited for: callers check with it before they change anything.
        """
        with self.waited_for():
            pass

    @contextmanager
    def waited_for(self) -> Iterator[None]:
        """Context manager around a wait of the current thread for this engine.

        Raises:
            ContextError: on the thread of a callback that this engine waits for, directly or
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
