"""Unknown arguments by name get a suggestion, as an engine's options do."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pytreellama.errors import did_you_mean

_Type = TypeVar("_Type", bound=type)


def suggests_names(
    error: type[Exception], elsewhere: Mapping[str, str] | None = None
) -> Callable[[_Type], _Type]:
    """Decorate a class whose constructor takes keywords: an unknown one raises ``error``.

    Args:
        error: what an invalid value of the class raises too.
        elsewhere: names that are not of this class, and what to do with them.
    """

    def decorate(decorated: _Type) -> _Type:
        construct = decorated.__init__  # type: ignore[misc]
        known = [name for name in inspect.signature(construct).parameters if name != "self"]

        @functools.wraps(construct)
        def checked(self: object, *given: Any, **named: Any) -> None:
            for name in named:
                if name not in known:
                    advice = (elsewhere or {}).get(name)
                    meant = f"; {advice}" if advice else did_you_mean(name, known)
                    raise error(
                        f"{decorated.__name__} has no parameter {name}; it has "
                        f"{', '.join(known)}{meant}"
                    )
            construct(self, *given, **named)

        decorated.__init__ = checked  # type: ignore[misc]
        return decorated

    return decorate
