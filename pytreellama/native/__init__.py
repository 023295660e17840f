"""The native edge: the compiled module, its log, and statuses turned into exceptions.

Nothing outside this package imports ``_native``; everything that can fail in C++ comes
back as a status, and leaves here as one of the exceptions in ``pytreellama.errors``.
"""

from __future__ import annotations

from pytreellama.native.library import build_info, ffi, lib
from pytreellama.native.log import drain_log, last_error, start_log

start_log()
lib.treellama_process_start()
lib.llama_backend_init()

__all__ = [
    "build_info",
    "drain_log",
    "ffi",
    "last_error",
    "lib",
]
