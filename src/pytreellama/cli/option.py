"""How options are declared: a dataclass of them, unpacked into a command's parameters."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any, TypeVar, get_type_hints

import typer

_Options = TypeVar("_Options")


def unpacked(options: type[_Options]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate a command whose first parameter is a dataclass: each field becomes an option."""
    hints = get_type_hints(options, include_extras=True)
    names = [field.name for field in fields(options)]  # type: ignore[arg-type]
    shared = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in fields(options)  # type: ignore[arg-type]
    ]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
        parameters = [*shared, *(p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own)]

        def run(**values: Any) -> None:
            packed = options(**{name: values.pop(name) for name in names})
            command(packed, **values)

        functools.update_wrapper(run, command)
        del run.__wrapped__  # type: ignore[attr-defined]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorate


def option(*names: str, help: str, panel: str | None = None, **settings: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel, **settings)
