"""Processes of their own for tests: default signals, limits, and an end with the test."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

LIMIT_S = 60.0
MEMORY_MB = 12_288  # address space: the libraries and a model's file are mapped into it


@dataclass(frozen=True)
class Outcome:
    """How a process ended.

    Attributes:
        code: exit status, negative for a signal; None if it ran past its limit and was killed.
        out, err: what it wrote.
        seconds: how long it ran.
    """

    code: int | None
    out: str
    err: str
    seconds: float

    @property
    def has_survived(self) -> bool:
        """It ended by itself, and no signal ended it."""
        return self.code is not None and self.code >= 0

    def __str__(self) -> str:
        end = "ran past its limit" if self.code is None else f"ended with {self.code}"
        return f"{end} after {self.seconds:.1f} s\n{self.out[-2000:]}\n{self.err[-4000:]}"


@contextmanager
def started(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """A child with default signals whatever this process ignores; it and its own end here.

    Args:
        options: of ``subprocess.Popen``.
    """
    limits = options.pop("memory_mb", None)
    if sys.platform != "win32":
        options |= {"start_new_session": True, "preexec_fn": lambda: _prepare(limits)}
    process = subprocess.Popen(command, **options)
    try:
        yield process
    finally:
        _end(process)
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


def _end(process: subprocess.Popen[Any]) -> None:
    if sys.platform == "win32":
        process.kill()
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _prepare(memory_mb: int | None) -> None:
    """In the child: a shell's background jobs ignore SIGINT, and so would it."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    if memory_mb is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory_mb << 20, memory_mb << 20))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def run_alone(
    code: str,
    *arguments: str,
    limit_s: float = LIMIT_S,
    memory_mb: int = MEMORY_MB,
    environment: Mapping[str, str] | None = None,
    stdin: bytes = b"",
) -> Outcome:
    """Run Python code in a process of its own.

    The folder ``tests`` is on its path, so that it can use the helpers there.

    Args:
        code: as for ``python -c``; ``arguments`` are in ``sys.argv[1:]``.
        limit_s: seconds; what runs longer is killed, and its ``code`` is None.
        memory_mb: of address space.
        environment: in addition to this process's.
    """
    if sys.platform == "win32":
        pytest.skip("needs POSIX signals and limits: run it on Linux or macOS")
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), os.path.dirname(__file__)]))
    environment = {**os.environ, "PYTHONPATH": path, **(environment or {})}
    command = [sys.executable, "-X", "faulthandler", "-c", code, *arguments]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    begun_s = time.monotonic()
    with started(command, env=environment, memory_mb=memory_mb, **pipes) as process:
        try:
            out, err = process.communicate(stdin, timeout=limit_s)
            ended: int | None = process.returncode
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            ended = None
    seconds = time.monotonic() - begun_s
    _record(ended, seconds)
    return Outcome(ended, out.decode(errors="replace"), err.decode(errors="replace"), seconds)


def _record(code: int | None, seconds: float) -> None:
    """For bench/attack.py: a line a process, in the file that ``ATTACK_OUTCOMES`` names."""
    if path := os.environ.get("ATTACK_OUTCOMES"):
        test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"test": test, "code": code, "seconds": seconds}) + "\n")


def survives(code: str, *arguments: str, **options: Any) -> str:
    """What code prints in a process of its own, which must end with status 0; see ``run_alone``."""
    outcome = run_alone(code, *arguments, **options)
    assert outcome.code == 0, str(outcome)
    return outcome.out


def cases(names: Iterable[str], *, short: Container[str] = ()) -> list[Any]:
    """Parameters of a test: all names; those that are not ``short`` in the long lane alone."""
    return [n if n in short else pytest.param(n, marks=pytest.mark.long) for n in names]
