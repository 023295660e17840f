"""A native object that is freed once, when its last owner lets go, and never used after."""

from __future__ import annotations

from typing import Any

from pytreellama.errors import PyTreeLlamaError
from pytreellama.native import ffi


class Handle:
    """One owner's hold on a native object.

    ``share`` makes further owners; the object is freed when the last of them closes or is
    collected. So a context can outlive the ``Model`` that it was made from.

    Args:
        pointer: cdata pointer, not NULL.
        free: the C function that frees it; None if ``pointer`` owns itself already.
        name: what the object is called in errors.
        error: exception type raised when it is used after ``close``.
    """

    __slots__ = ("_error", "_name", "_owned")

    def __init__(self, pointer: Any, free: Any, name: str, error: type[PyTreeLlamaError]) -> None:
        self._owned = pointer if free is None else ffi.gc(pointer, free)
        self._name = name
        self._error = error

    @property
    def pointer(self) -> Any:
        """The cdata pointer; raises after ``close``."""
        if self._owned is None:
            raise self._error(f"this {self._name} is closed; make a new one")
        return self._owned

    @property
    def closed(self) -> bool:
        return self._owned is None

    def share(self) -> Handle:
        """Another owner of the same object."""
        return Handle(self.pointer, None, self._name, self._error)

    def close(self) -> None:
        """Let go of the object; a second call does nothing."""
        self._owned = None
