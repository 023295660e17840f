"""The check at the end of each test module sees what is left, and only that."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from leftovers import Leftovers

WAITS = [sys.executable, "-c", "import sys; sys.stdin.read()"]


def test_a_live_thread_of_the_package_is_left() -> None:
    before, goes_on = Leftovers(), threading.Event()
    thread = threading.Thread(target=goes_on.wait, name="pytreellama")
    thread.start()
    try:
        assert before.since(grace_s=0.0) == ["a live thread 'pytreellama'"]
        assert Leftovers().since(grace_s=0.0) == []
    finally:
        goes_on.set()
        thread.join()
    assert before.since(grace_s=0.0) == []


def test_a_thread_that_ends_soon_is_not_left() -> None:
    before = Leftovers()
    thread = threading.Thread(target=threading.Event().wait, args=(0.2,), name="pytreellama")
    thread.start()
    assert before.since() == []
    assert not thread.is_alive()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_running_child_is_left_until_it_ends() -> None:
    before = Leftovers()
    with subprocess.Popen(WAITS, stdin=subprocess.PIPE) as child:
        (told,) = before.since(grace_s=0.0)
        assert str(child.pid) in told
    assert before.since(grace_s=0.0) == []
