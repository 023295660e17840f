"""What must be done once, before anything else of llama.cpp is used."""

from __future__ import annotations

from pytreellama.native.library import lib
from pytreellama.native.log import start_log


def start() -> None:
    """Collect the log, prepare for forks and the end of the process, and start the backends."""
    start_log()
    lib.treellama_process_start()
    lib.llama_backend_init()
