"""Deprecated names: each works for one release, warns, and names its replacement."""

from __future__ import annotations

import warnings
from typing import Any, TypeVar

from pytreellama.errors import ContextError

_T = TypeVar("_T")


class Renamed:
    """A class attribute under its old name; reading it warns and returns the new one.

    Args:
        name: the new name.

    Example:
        class Engine:
            save_kept = Renamed("save_prefix_cache")
    """

    def __init__(self, name: str) -> None:
        self._new = name
        self._old = name

    def __set_name__(self, owner: type, name: str) -> None:
        self._old = name

    def __get__(self, instance: object, owner: type) -> Any:
        if instance is None:
            return self
        warn_renamed(f"{owner.__name__}.{self._old}", self._new, stacklevel=3)
        return getattr(instance, self._new)


def renamed_option(options: dict[str, Any], old: str, new: str, value: _T, default: _T) -> _T:
    """The value of a keyword argument, or of its old name, which is removed from ``options``.

    Args:
        options: keyword arguments that the called function does not know.
        value: of the new name.
        default: of the new name.

    Raises:
        ContextError: both are given.
    """
    if old not in options:
        return value
    warn_renamed(old, new, stacklevel=4)
    given: _T = options.pop(old)
    if value != default:
        raise ContextError(f"give {new} or {old}, its old name, not both")
    return given


def warn_renamed(old: str, new: str, stacklevel: int = 2) -> None:
    """Warn that ``old`` is going to be removed."""
    warnings.warn(
        f"{old} is deprecated and will be removed in the next release; use {new}",
        DeprecationWarning,
        stacklevel=stacklevel,
    )
