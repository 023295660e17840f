"""What a fork and the end of the process mean for objects with native work or threads."""

from __future__ import annotations

import atexit
import os
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, Protocol, TypeVar


class ProcessBound(Protocol):
    """Something that works in the process that made it, and must stop before that ends."""

    def stop_at_exit(self) -> None:
        """The interpreter ends: leave native code, and do not enter it again."""
        ...

    def disown_after_fork(self) -> None:
        """This is a copy in a forked child, without the parent's threads: refuse all use."""
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
        """Tell an object from now on; at once if the process ends already."""
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
