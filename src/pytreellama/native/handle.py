"""A native object that is freed once, when its last owner lets go, and never used after."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pytreellama.errors import PyTreeLlamaError
from pytreellama.native.library import ffi

# What living objects need, by a key of each. The garbage collector ends the objects of a cycle in
# any order; what is held here stays until the object that needs it has been freed.
_needed: dict[object, Any] = {}


class Handle:
    """One owner's hold on a native object.

    ``share`` makes further owners; the object is freed when the last of them closes or is
    collected. So a context can outlive the ``Model`` that it was made from.

    Args:
        pointer: cdata pointer, not NULL.
        free: the C function that frees it; None if ``pointer`` owns itself already.
        name: what the object is called in errors.
        error: exception type raised when it is used after ``close``.
        needs: objects that must be freed after this one, as a model after its contexts.
    """

    __slots__ = ("_error", "_name", "_owned")

    def __init__(
        self,
        pointer: Any,
        free: Any,
        name: str,
        error: type[PyTreeLlamaError],
        *,
        needs: Sequence[Handle] = (),
    ) -> None:
        if needs:
            free = _hold_until_freed([handle.pointer for handle in needs], free)
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

    def disown(self) -> None:
        """Let go of the object without freeing it: in a forked child it is the parent's."""
        if self._owned is not None:
            ffi.gc(self._owned, None)
            self._owned = None


def _hold_until_freed(needed: Any, free: Callable[[Any], None]) -> Callable[[Any], None]:
    key = object()
    _needed[key] = needed

    def free_and_let_go(pointer: Any) -> None:
        free(pointer)
        del _needed[key]

    return free_and_let_go
