"""Fork and exit handling for objects that have native work or threads."""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, Protocol, TypeVar

from pytreellama.errors import ContextError

_EXIT_S = 30.0  # what the end of the interpreter waits for calls that others are in


class ProcessBound(Protocol):
    """Something that works in the process that made it, and must stop before that ends."""

    def stop_at_exit(self) -> None:
        """Called when the interpreter exits: leave native code, and do not enter it again."""
        ...

    def disown_after_fork(self) -> None:
        """Called in a forked child, which lacks the parent's threads: refuse all use."""
        ...


_T = TypeVar("_T", bound=ProcessBound)


class ProcessWatch(Generic[_T]):
    """Tells living objects when the process ends, and their copies when it has forked.

    Watches that are made later are told of the end sooner. Objects are held weakly.
    """

    def __init__(self) -> None:
        self._alive: weakref.WeakSet[_T] = weakref.WeakSet()
        self._is_ending = False
        atexit.register(self._stop)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._disown)

    def add(self, one: _T) -> None:
        """Register an object; notify it at once if the process is already exiting."""
        self._alive.add(one)
        if self._is_ending:
            one.stop_at_exit()

    def _stop(self) -> None:
        self._is_ending = True
        self._each(lambda one: one.stop_at_exit())

    def _disown(self) -> None:
        self._each(lambda one: one.disown_after_fork())
        self._alive = weakref.WeakSet()

    def _each(self, act: Callable[[_T], None]) -> None:
        for one in list(self._alive):
            with suppress(Exception):  # the others come next
                act(one)


class AwaitedCalls:
    """Long native calls outside a context's lock; the end of the interpreter waits for them.

    A daemon thread goes on while the process ends. If it is in C++ then, it meets static tables
    that are gone; if it comes back to an interpreter that has ended, it is ended in the middle of
    C++ or Rust. Both end the process by a signal.

        with awaited_calls:
            lib.something_that_takes_long()
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._is_ending = False
        self._n_calls = 0
        atexit.register(self._end)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)

    @property
    def is_ending(self) -> bool:
        """The interpreter ends beside this thread: a callback had better end its call."""
        return self._is_ending and threading.current_thread() is not threading.main_thread()

    def __enter__(self) -> None:
        with self._changed:
            if self.is_ending:
                raise ContextError("the program ends")
            self._n_calls += 1

    def __exit__(self, *failure: object) -> None:
        with self._changed:
            self._n_calls -= 1
            self._changed.notify_all()

    def _end(self) -> None:
        with self._changed:
            self._is_ending = True
            self._changed.wait_for(lambda: self._n_calls == 0, _EXIT_S)

    def _forget(self) -> None:
        """In a forked child: the other threads, and what they hold, are the parent's."""
        self._changed = threading.Condition()
        self._n_calls = 0


awaited_calls = AwaitedCalls()
