"""Calls into llguidance: converts its panics and errors, provides stack for deep recursion."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from pytreellama.errors import GrammarError
from pytreellama.process import awaited_calls

P = ParamSpec("P")
T = TypeVar("T")

# Bytes of stack per level of llguidance's recursion: three times the measured value. What needs
# more than the smallest stack of a thread (512 kB, macOS) is built in a thread with a larger one.
_LEVEL_BYTES = 16 * 1024
_MAX_LEVELS_HERE = 32
_stack_size_lock = threading.Lock()

_MAX_REASON = 400  # characters


def call(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function of llguidance and return its result; a panic becomes a ``GrammarError``.

    Panics come as a ``BaseException`` of a type that cannot be imported.

    Raises:
        GrammarError: llguidance panicked.
    """
    try:
        with awaited_calls:
            return function(*args, **kwargs)
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise GrammarError(f"llguidance failed: {on_one_line(str(error))}") from error


def call_deep(n_levels: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """As ``call``, with enough stack for a recursion ``n_levels`` deep."""
    if n_levels <= _MAX_LEVELS_HERE:
        return call(function, *args, **kwargs)
    results: list[T] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            results.append(call(function, *args, **kwargs))
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="pytreellama-constraint", daemon=True)
    try:
        with _stack_size_lock:
            size = threading.stack_size(max(n_levels * _LEVEL_BYTES, 2**20))
            try:
                thread.start()
            finally:
                threading.stack_size(size)
    except (RuntimeError, ValueError) as error:
        raise GrammarError(
            f"no thread could be started for a grammar or schema that nests deep: {error}"
        ) from error
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def on_one_line(text: str) -> str:
    """llguidance's error message, truncated."""
    return " ".join(text.split())[:_MAX_REASON]
