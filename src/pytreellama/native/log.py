"""llama.cpp's log, handed to ``logging`` under ``pytreellama.native``; quiet by default."""

from __future__ import annotations

import logging

from pytreellama.native.library import ffi, lib

logger = logging.getLogger("pytreellama.native")
logger.addHandler(logging.NullHandler())

_LINE_BYTES = 4096

# ggml_log_level: NONE, DEBUG, INFO, WARN, ERROR. llama.cpp's INFO is what others call debug.
_LEVELS = (logging.DEBUG, logging.DEBUG, logging.DEBUG, logging.INFO, logging.ERROR)


def start_log() -> None:
    """Collect llama.cpp's log from now on instead of letting it print to stderr."""
    lib.treellama_log_collect()


def drain_log(errors_only: bool = False) -> list[str]:
    """Forward the waiting lines to ``logging`` and return them, oldest first.

    Args:
        errors_only: return errors alone, or warnings where there are no errors. It is for an
            exception that contains them; they are then logged at DEBUG, since the caller may
            handle the exception.
    """
    if lib.treellama_log_pending() == 0:
        return []
    of_error = logging.DEBUG if errors_only else logging.WARNING
    level, buffer = ffi.new("int32_t *"), ffi.new("char[]", _LINE_BYTES)
    lines: list[tuple[int, str]] = []
    while (n_bytes := lib.treellama_log_next(level, buffer, _LINE_BYTES)) >= 0:
        text = bytes(ffi.buffer(buffer, n_bytes)).decode("utf-8", "replace").rstrip()
        severity = _LEVELS[level[0]] if 0 <= level[0] < len(_LEVELS) else logging.DEBUG
        logger.log(of_error if severity == logging.ERROR else severity, "%s", text)
        if text:
            lines.append((severity, text))
    worst = max((severity for severity, _ in lines), default=logging.DEBUG)
    least = max(worst, logging.INFO) if errors_only else logging.DEBUG
    return [text for severity, text in lines if severity >= least]


def last_error() -> str:
    """The message of this thread's last failed call into the bridge; empty if there is none."""
    text: bytes = ffi.string(lib.treellama_last_error())
    return text.decode("utf-8", "replace")
