"""Threads that cannot be started, many of them, and engines with other numbers of them."""

from __future__ import annotations

import sys

import pytest

from alone import survives

_BEGIN = """
import gc, sys, threading, time
import pytreellama as ptl
MODEL = ptl.Model.default()
def engine(drafter="auto", **options):
    return ptl.Engine(MODEL, drafter, **{"n_ctx": 512, "n_threads": 2, **options})
"""


def test_an_engine_works_once_there_is_a_thread_to_be_had() -> None:
    out = survives(
        _BEGIN
        + """
e = engine(); start = threading.Thread.start
def refuse(self): raise RuntimeError("can't start new thread")
threading.Thread.start = refuse
for ask in (lambda: e.generate("a", max_tokens=2), e.prepare, lambda: e.embed(["a"])):
    try: ask()
    except ptl.errors.ContextError as error: print("refused", "thread" in str(error), e.n_open)
threading.Thread.start = start
print(len(e.generate("a", max_tokens=2, ignore_eos=True).tokens), e.n_open)
e.close()
"""
    )
    assert out == "refused True 0\n" * 3 + "2 0\n"


@pytest.mark.skipif(sys.platform != "linux", reason="limits address space as Linux does")
def test_a_context_whose_threads_cannot_be_started_is_refused() -> None:
    out = survives(
        _BEGIN
        + """
import resource, psutil
def limit(size): resource.setrlimit(resource.RLIMIT_AS, (size, hard))
soft, hard = resource.getrlimit(resource.RLIMIT_AS)
threading.stack_size(256 << 20)
with engine("none", n_threads=1) as e: want = e.generate("Once", max_tokens=4).text
used = psutil.Process().memory_info().vms
limit(used + (96 << 20))  # for a context, but not for the stacks of 400 threads
try: ptl.Context(MODEL, n_ctx=64, n_threads=400)
except ptl.errors.ContextError as error: print("refused", "threads" in str(error))
limit(soft)
with engine(n_threads=2) as e: print(e.generate("Once", max_tokens=4).text == want)
"""
    )
    assert out == "refused True\nTrue\n"


@pytest.mark.long
def test_engines_with_other_numbers_of_threads_write_the_same() -> None:
    out = survives(
        _BEGIN
        + """
engines = [engine(n_threads=n) for n in (1, 2, 2, 3, 4)]
want = engines[0].generate("Once upon a time", max_tokens=20).text
texts = []
def work(e):
    for _ in range(3): texts.append(e.generate("Once upon a time", max_tokens=20).text)
threads = [threading.Thread(target=work, args=(e,)) for e in engines]
for thread in threads: thread.start()
for thread in threads: thread.join()
for e in engines: e.close()
print(len(texts), set(texts) == {want})
""",
        limit_s=400.0,
    )
    assert out == "15 True\n"


@pytest.mark.long
def test_engines_come_and_go_beside_others_of_as_many_threads() -> None:
    out = survives(
        _BEGIN
        + """
with engine() as e: want = e.generate("Once upon a time", max_tokens=8).text
texts = []
def work():
    for _ in range(8):
        with engine() as e: texts.append(e.generate("Once upon a time", max_tokens=8).text)
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(texts), set(texts) == {want})
""",
        limit_s=400.0,
    )
    assert out == "32 True\n"


@pytest.mark.long
def test_an_engine_is_closed_by_many_threads_at_once() -> None:
    out = survives(
        _BEGIN
        + """
e = engine(n_seq_max=4); failed, reasons = [], []
def close():
    try: e.close()
    except BaseException as error: failed.append(repr(error))
def ask():
    try: reasons.append(e.generate("Once", max_tokens=400, ignore_eos=True).finish_reason)
    except ptl.errors.ContextError: reasons.append("refused")
threads = [threading.Thread(target=ask) for _ in range(12)]
for thread in threads: thread.start()
time.sleep(0.5)
threads += [threading.Thread(target=close) for _ in range(20)]
for thread in threads[12:]: thread.start()
for thread in threads: thread.join()
print(failed, sorted(set(reasons)) in (["cancelled", "refused"], ["cancelled"]), e.is_closed)
"""
    )
    assert out == "[] True True\n"
