"""Statuses and NULL pointers of the C ABI, turned into exceptions: here and nowhere else."""

from __future__ import annotations

from typing import Any

from pytreellama.errors import PyTreeLlamaError
from pytreellama.native.library import ffi
from pytreellama.native.log import drain_log, last_error

ErrorClass = type[PyTreeLlamaError]


def check(
    status: int, error: ErrorClass, what: str, *, with_log: bool = False, hint: str = ""
) -> None:
    """Raise ``error`` unless a call succeeded.

    Args:
        status: what the call returned; 0 is success.
        error: the exception class.
        what: what failed; the reason follows it.
        with_log: the reason includes the errors that llama.cpp logged.
        hint: what to do.
    """
    if status != 0:
        raise error("; ".join(filter(None, [f"{what}: {reason(with_log=with_log)}", hint])))


def check_count(count: int, error: ErrorClass, what: str) -> int:
    """A count that a call returned; raise ``error`` where it is negative, hence a status."""
    if count < 0:
        raise error(f"{what}: {reason()}")
    return count


def check_pointer(pointer: Any, error: ErrorClass, what: str, *, with_log: bool = False) -> Any:
    """A pointer that a call returned; raise ``error`` where it is NULL. Arguments as ``check``."""
    if pointer == ffi.NULL:
        raise error(f"{what}: {reason(with_log=with_log)}")
    return pointer


def reason(*, with_log: bool = False) -> str:
    """Why this thread's last call failed: the text of the C++ exception, then the log's errors."""
    logged = drain_log(errors_only=True) if with_log else []
    return "; ".join(filter(None, [last_error(), *logged])) or "llama.cpp gives no reason"
