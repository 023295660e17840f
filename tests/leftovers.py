"""What a test module leaves behind: open engines, threads of the package, child processes."""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_GRACE_S = 5.0  # an idle engine's thread lingers for 0.5 s
_PAUSE_S = 0.05
_HELPERS = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")


@dataclass
class Leftovers:
    """What lives now; ``since`` tells what has come and stays.

    Objects are compared by identity, so they are held: engines only while a module runs.
    """

    engines: list[Any] = field(default_factory=lambda: open_engines())
    threads: list[threading.Thread] = field(default_factory=lambda: package_threads())
    processes: list[int] = field(default_factory=lambda: child_processes())

    def since(self, grace_s: float = _GRACE_S) -> list[str]:
        """Describe what has come since; all of it gets a while to end."""
        engines = _lasting(open_engines, self.engines, grace_s)
        told = [f"an open engine of {engine.model.path}" for engine in engines]
        threads = _lasting(package_threads, self.threads, grace_s)
        told += [f"a live thread {thread.name!r}" for thread in threads]
        processes = _lasting(child_processes, self.processes, grace_s)
        return told + [f"a child process {pid}: {command_of(pid)}" for pid in processes]


def open_engines() -> list[Any]:
    """Engines that are not closed and that something refers to.

    While another thread collects garbage, ``gc.collect`` returns at once: ask again.
    """
    module = sys.modules.get("pytreellama.engine.engine")
    if module is None:
        return []
    gc.collect()
    living = [one for one in gc.get_objects() if isinstance(one, module.Engine)]
    return [engine for engine in living if not engine.is_closed]


def package_threads() -> list[threading.Thread]:
    """Live threads of engines; those of a server end with the process."""
    return [one for one in threading.enumerate() if one.name == "pytreellama"]


def child_processes() -> list[int]:
    """Running children of this process; without ``/proc`` none are seen."""
    pids = [
        int(pid)
        for path in Path("/proc/self/task").glob("*/children")
        for pid in _text(path).split()
    ]
    return [pid for pid in pids if command_of(pid) and not _is_helper(command_of(pid))]


def command_of(pid: int) -> str:
    """A process's command line; empty once it has ended."""
    return _text(Path(f"/proc/{pid}/cmdline")).replace("\0", " ").strip()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""  # it ended meanwhile


def _is_helper(command: str) -> bool:
    return any(helper in command for helper in _HELPERS)


def _lasting(living: Callable[[], list[Any]], before: list[Any], grace_s: float) -> list[Any]:
    until_s = time.monotonic() + grace_s
    while True:
        new = [one for one in living() if one not in before]
        if not new or time.monotonic() > until_s:
            return new
        time.sleep(_PAUSE_S)
