"""A process forks: engines and contexts of the child work, inherited ones refuse at once."""

from __future__ import annotations

import os

import pytest

from alone import cases, survives

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="fork is POSIX: run it on Linux")

_BEGIN = """
import gc, os, sys, threading, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)
import pytreellama as ptl
MODEL = ptl.Model.default()
def engine(drafter="auto", **options):
    return ptl.Engine(MODEL, drafter, **{"n_ctx": 512, "n_threads": 2, **options})
def text_of(e): return e.generate("Once upon a", max_tokens=5).text
def in_child(act):
    pid = os.fork()
    if pid == 0:
        try: print("child", act(), flush=True)
        except ptl.errors.PyTreeLlamaError as error:
            print("refused", type(error).__name__, error, flush=True)
        except BaseException as error: print("raw", repr(error), flush=True)
        os._exit(0)
    end = time.monotonic() + 25
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done: return status
        time.sleep(0.02)
    os.kill(pid, 9); os.waitpid(pid, 0)
    sys.exit("the child hangs")
"""

_OWN = {
    "an engine of its own beside an idle one": "e = engine(); want = text_of(e)",
    "an engine of its own beside one that was closed": "e = engine(); want = text_of(e); e.close()",
    "an engine of its own beside an unused one": "want = text_of(engine()); e = engine()",
    "an engine of its own beside one that writes": """
want = text_of(engine())
e = engine(); g = e.submit("Once", max_tokens=400, ignore_eos=True); next(g)""",
    "an engine of its own beside one that reads": """
want = text_of(engine())
e = engine("none", n_ctx=4096); g = e.submit([5] * 4000); time.sleep(0.2)""",
}

_INHERITED = {
    "an idle engine": "e = engine(); text_of(e); use = lambda: text_of(e)",
    "an unused engine": "e = engine(); use = lambda: text_of(e)",
    "an engine long idle": "e = engine(); text_of(e); time.sleep(1); use = lambda: text_of(e)",
    "a stream": """
e = engine(); s = e.stream("Once", max_tokens=300); next(s); use = lambda: next(s)""",
    "a generation": """
e = engine(); g = e.submit("Once", max_tokens=400, ignore_eos=True); next(g); use = g.result""",
    "a generation to fork": """
e = engine(); g = e.submit("Once", max_tokens=400, ignore_eos=True); next(g); use = g.fork""",
    "scores": "e = engine(); text_of(e); use = lambda: e.score('a', [' b'])",
    "embeddings": "e = engine(); text_of(e); use = lambda: e.embed(['b'])",
    "prefix cache": "e = engine(n_cached_prefixes=2); text_of(e); use = lambda: "
    "e.save_prefix_cache('kept')",
    "a context": """
c = ptl.Context(MODEL, n_ctx=256); s = c.prefill([5, 6]); use = lambda: c.decode(5, seq=s)""",
    "a new sequence": "c = ptl.Context(MODEL, n_ctx=256); use = lambda: c.prefill([5, 6])",
    "a tree": """
c = ptl.Context(MODEL, n_ctx=256); s = c.prefill([5, 6])
use = lambda: c.decode(ptl.TokenTree.from_paths([[5], [6]]), seq=s)""",
    "memory": """
c = ptl.Context(MODEL, n_ctx=256); s = c.prefill([5, 6]); use = lambda: c.memory.rm(s)""",
}

_CLOSES = {
    "an engine": "e = engine(); text_of(e); use = e.close",
    "an engine that writes": """
e = engine(); g = e.submit("Once", max_tokens=400, ignore_eos=True); next(g); use = e.close""",
    "a context": "c = ptl.Context(MODEL, n_ctx=256); c.prefill([5, 6]); use = c.close",
    "a model": "e = engine(); text_of(e); use = MODEL.close",
    "all, by the garbage collector": """
e = engine(); text_of(e)
def use():
    global e, MODEL
    del e, MODEL
    gc.collect()""",
    "a stream, by the garbage collector": """
e = engine(); s = e.stream("Once", max_tokens=300, ignore_eos=True); next(s)
def use():
    global s
    del s
    gc.collect()""",
}


@pytest.mark.parametrize("way", cases(_OWN, short=list(_OWN)[::3]))
def test_a_child_works_with(way: str) -> None:
    out = survives(_BEGIN + _OWN[way] + "\nin_child(lambda: text_of(engine()) == want)")
    assert out == "child True\n"


@pytest.mark.parametrize("way", cases(_INHERITED, short=list(_INHERITED)[::4]))
def test_a_child_is_refused(way: str) -> None:
    out = survives(_BEGIN + _INHERITED[way] + "\nin_child(use)\nprint('parent')")
    assert out.startswith("refused ContextError this ") and "forked" in out, out
    assert out.endswith("parent\n")


@pytest.mark.parametrize("way", cases(_CLOSES, short=("an engine that writes",)))
def test_a_child_may_close(way: str) -> None:
    assert survives(_BEGIN + _CLOSES[way] + "\nin_child(use)") == "child None\n"


def test_the_parent_goes_on_as_if_nothing_had_been() -> None:
    out = survives(
        _BEGIN
        + """
e = engine(n_seq_max=2); want = e.generate("Once", max_tokens=60).text
g = e.submit("Once", max_tokens=60)
for _ in range(3): in_child(lambda: text_of(engine()))
print(g.result().text == want, text_of(e) == text_of(engine()))
"""
    )
    assert out.endswith("True True\n")


@pytest.mark.long
def test_a_child_that_leaves_as_programs_do_ends() -> None:
    out = survives(
        _BEGIN
        + """
e = engine(); g = e.submit("Once", max_tokens=200, ignore_eos=True); next(g)
pid = os.fork()
if pid == 0: sys.exit(5)
print("child", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), g.result().finish_reason)
"""
    )
    assert out == "child 5 length\n"


@pytest.mark.long
def test_a_pool_of_processes_works() -> None:
    out = survives(
        _BEGIN
        + """
import multiprocessing
e = engine(); want = text_of(e)
def own(i): return text_of(engine()) == want
def inherited(i):
    try: return text_of(e)
    except ptl.errors.ContextError: return "refused"
with multiprocessing.get_context("fork").Pool(2) as pool:
    print(pool.map_async(own, range(2)).get(timeout=40))
    print(pool.map_async(inherited, range(2)).get(timeout=10))
"""
    )
    assert out == "[True, True]\n['refused', 'refused']\n"


@pytest.mark.long
def test_a_child_of_a_child_works() -> None:
    grandchild = "in_child(lambda: in_child(lambda: text_of(engine()) == want))"
    out = survives(_BEGIN + "e = engine(); want = text_of(e)\n" + grandchild)
    assert out == "child True\nchild 0\n"


@pytest.mark.long
def test_forks_under_load_all_work() -> None:
    out = survives(
        _BEGIN
        + """
e = engine(n_seq_max=2); want = text_of(e); stop = []
def load():
    while not stop:
        e.generate("Once upon a time", max_tokens=20)
        MODEL.vocab.encode("some text " * 50)
        with ptl.Context(MODEL, n_ctx=256, n_threads=3) as c: c.prefill([5, 6, 7])
threads = [threading.Thread(target=load) for _ in range(2)]
for thread in threads: thread.start()
for _ in range(20): in_child(lambda: text_of(engine()) == want)
stop.append(1)
for thread in threads: thread.join()
""",
        limit_s=300.0,
    )
    assert out == "child True\n" * 20
