"""Processes of their own: what ends them is seen, and nothing of them is left."""

from __future__ import annotations

import os
import signal
import sys
import time

import psutil
import pytest

from alone import run_alone, started, survives

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")


def test_what_it_prints_comes_back() -> None:
    assert survives("import sys; print(sys.argv[1], sys.stdin.read())", "a", stdin=b"b") == "a b\n"


def test_a_signal_is_no_survival() -> None:
    outcome = run_alone("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    assert outcome.code == -signal.SIGSEGV and not outcome.has_survived


def test_a_hang_is_no_survival() -> None:
    outcome = run_alone("print('begun', flush=True)\nwhile True: pass", limit_s=2.0)
    assert outcome.code is None and not outcome.has_survived
    assert outcome.out == "begun\n"


def test_memory_is_limited() -> None:
    outcome = run_alone("bytearray(4 << 30)", memory_mb=1024)
    assert outcome.code == 1 and "MemoryError" in outcome.err


def test_an_ignored_interrupt_is_not_inherited() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        code = "import signal; print(signal.getsignal(2) is signal.default_int_handler)"
        assert survives(code) == "True\n"
    finally:
        signal.signal(signal.SIGINT, before)


def test_children_of_a_child_end_with_it() -> None:
    sleeper = "import subprocess, sys; p = subprocess.Popen(['sleep', '60']); print(p.pid); "
    command = [sys.executable, "-c", sleeper + "sys.stdout.flush(); p.wait()"]
    with started(command, stdout=-1, text=True) as process:
        pid = int(process.stdout.readline())  # type: ignore[union-attr]
    deadline = time.monotonic() + 10.0
    while _runs(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _runs(pid)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
