"""Ctrl-C in the middle of a call: KeyboardInterrupt soon, and nothing goes on behind it."""

from __future__ import annotations

import pytest

from alone import cases, survives

_BEGIN = """
import os, signal, sys, threading, time
import pytreellama as ptl
MODEL = ptl.Model.default()
def interrupt_in(seconds):
    signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    signal.setitimer(signal.ITIMER_REAL, seconds)
def engine(drafter="none", **options):
    return ptl.Engine(MODEL, drafter, **{"n_ctx": 8192, "n_seq_max": 2, **options})
LONG = dict(max_tokens=4000, ignore_eos=True)
"""

CALLS = {
    "generate": "e.generate('Once', **LONG)",
    "generate many": "e.generate(['Once', 'Two', 'Three', 'Four'], **LONG)",
    "stream": "for chunk in e.stream('Once', **LONG): pass",
    "score": "e.score([5] * 7000, [[6], [7, 8]])",
    "embed": "e.embed([[5] * 7000, [6] * 7000, [7] * 7000])",
    "result": """
    g = e.submit('Once', **LONG)
    try: g.result()
    finally: g.cancel(); g.wait()""",
    "a full queue": """
    g = [e.submit('Once', **LONG) for _ in range(2 + 1)]
    try: e.generate('Once', **LONG)
    finally: [(one.cancel(), one.wait()) for one in g]""",
    "asyncio": "asyncio.run(ptl.AsyncEngine(engine=e).generate('Once', **LONG))",
    "asyncio, many": "asyncio.run(ptl.AsyncEngine(engine=e).generate(['a', 'b', 'c'], **LONG))",
    "asyncio, embed": "asyncio.run(ptl.AsyncEngine(engine=e).embed([[5] * 7000, [6] * 7000]))",
}


@pytest.mark.parametrize("call", cases(CALLS, short=("embed",)))
def test_a_call_is_interrupted_and_leaves_nothing(call: str) -> None:
    out = survives(
        _BEGIN
        + f"""
import asyncio
e = engine(n_queue_max=1 if {call == "a full queue"} else 9)
e.generate("a", max_tokens=1)
interrupt_in(0.6)
try:
    {CALLS[call]}
except KeyboardInterrupt: print("interrupted")
deadline = time.monotonic() + 20
while e.n_open and time.monotonic() < deadline: time.sleep(0.02)
print(e.n_open, e.load.n_running, len(e.generate("a", max_tokens=2, ignore_eos=True).tokens))
e.close()
"""
    )
    assert out == "interrupted\n0 0 2\n"


def test_a_load_is_interrupted_as_anything_is() -> None:
    out = survives(
        _BEGIN
        + """
path, got = MODEL.path, set()
for i in range(12):
    try:
        interrupt_in(0.001 + 0.004 * i)
        while True: ptl.Model(path, mmap=False).close()
    except BaseException as error: got.add(type(error).__name__)
print(got)
"""
    )
    assert out == "{'KeyboardInterrupt'}\n"


def test_a_load_ends_with_what_its_progress_raises() -> None:
    out = survives(
        _BEGIN
        + """
class Stop(BaseException): pass
for stop in (Stop, SystemExit, KeyboardInterrupt, ValueError, StopIteration):
    def progress(share): raise stop("mine")
    try: ptl.Model(MODEL.path, progress=progress)
    except stop as error: print(stop.__name__, error)
"""
    )
    assert [line.split() for line in out.splitlines()] == [
        [name, "mine"]
        for name in ("Stop", "SystemExit", "KeyboardInterrupt", "ValueError", "StopIteration")
    ]


@pytest.mark.long
def test_a_prefill_is_interrupted_and_its_context_goes_on() -> None:
    out = survives(
        _BEGIN
        + """
context = ptl.Context(MODEL, n_ctx=8192, n_batch=256)
interrupt_in(0.6)
try: context.prefill([5] * 8000)
except KeyboardInterrupt: print("interrupted", context.memory.n_cells_used)
print(context.sequences.n_past(context.prefill([5, 6, 7])))
"""
    )
    assert out == "interrupted 0\n3\n"


@pytest.mark.long
def test_a_handler_that_generates_gets_its_text() -> None:
    out = survives(
        _BEGIN
        + """
e = engine(); done = []
signal.signal(signal.SIGINT, lambda *_: done.append(len(e.generate("b", max_tokens=2).tokens)))
interrupt_in(0.5)
print(len(e.generate("Once", max_tokens=300, ignore_eos=True).tokens), done)
e.close()
"""
    )
    assert out == "300 [2]\n"
