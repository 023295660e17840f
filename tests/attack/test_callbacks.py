"""Callbacks and drafters that raise, wait for their own engine, or close it: others go on."""

from __future__ import annotations

import pytest

from alone import cases, survives

_BEGIN = """
import asyncio, gc, sys, threading, time
import pytreellama as ptl
MODEL = ptl.Model.default()
OTHER = dict(max_tokens=24, ignore_eos=True)
def engine(drafter="suffix", **options):
    return ptl.Engine(MODEL, drafter, **{"n_ctx": 1024, "n_seq_max": 4, **options})
class Own:
    name = "own"
    def observe(self, tokens): pass
    def reset(self): pass
    def propose(self, n): act(); return ptl.draft.EMPTY_TREE
with engine() as e: want = e.generate("Once upon a time", **OTHER).text
"""

_END = """
print("neighbour", other.result(50).text == want)
print("next", e.generate("Once upon a time", **OTHER).text == want)
e.close()
"""

ERRORS = (
    "ValueError('x')",
    "KeyboardInterrupt()",
    "SystemExit(2)",
    "GeneratorExit()",
    "asyncio.CancelledError()",
    "MemoryError()",
    "RecursionError()",
    "StopIteration()",
    "StopAsyncIteration()",
    "type('Panic', (BaseException,), {})('x')",
)

_SHORT = ("ValueError('x')", "SystemExit(2)", "StopIteration()", "asyncio.CancelledError()")


@pytest.mark.parametrize("callback", ["on_step", "on_prefill"])
@pytest.mark.parametrize("error", cases(ERRORS, short=_SHORT))
def test_what_a_callback_raises_ends_its_request_alone(callback: str, error: str) -> None:
    out = survives(
        _BEGIN
        + f"""
e = engine()
def raises(value): raise {error}
other = e.submit("Once upon a time", **OTHER); next(other)
for ask in (lambda: e.generate("Hi there, you", max_tokens=9, {callback}=raises),
            lambda: list(e.stream("Hi there, you", max_tokens=9, {callback}=raises)),
            lambda: e.submit("Hi there, you", max_tokens=9, {callback}=raises).result(30)):
    try: ask()
    except Exception as caught: print("raised", type(caught).__name__)
"""
        + _END
    )
    name = error.partition("(")[0].rpartition(".")[2]
    own = name in ("ValueError", "MemoryError", "RecursionError")
    raised = f"raised {name if own else 'CallbackError'}\n"
    assert out == raised * 3 + "neighbour True\nnext True\n"


@pytest.mark.long
def test_what_a_callback_raises_ends_a_task_with_an_error() -> None:
    out = survives(
        _BEGIN
        + """
def raises(value): raise asyncio.CancelledError
async def main():
    async with ptl.AsyncEngine(MODEL, n_ctx=1024, n_seq_max=2) as e:
        other = asyncio.ensure_future(e.generate("Once upon a time", **OTHER))
        try: await e.generate("Hi", max_tokens=9, on_step=raises)
        except Exception as error: print(type(error).__name__)
        print((await other).text == want)
asyncio.run(main())
"""
    )
    assert out == "CallbackError\nTrue\n"


# each waits for the engine in its own thread, which would be for ever
WAITS = {
    "generate": "e.generate('x', max_tokens=1)",
    "generate many": "e.generate(['x', 'y'], max_tokens=1)",
    "stream": "list(e.stream('x', max_tokens=1))",
    "score": "e.score('x', [' a'])",
    "embed": "e.embed(['x'])",
    "result": "e.submit('x', max_tokens=1).result()",
    "wait": "e.submit('x', max_tokens=1).wait(1.0)",
    "next": "next(e.submit('x', max_tokens=1))",
    "a full queue": "[e.submit('x', max_tokens=50) for _ in range(9)]",
    "fork": "other.fork()",
    "prepare": "e.prepare()",
    "save_prefix_cache": "e.save_prefix_cache('kept')",
    "close": "e.close()",
    "with": "e.__exit__(None, None, None)",
    "asyncio": "asyncio.run(ptl.AsyncEngine(engine=e).generate('x', max_tokens=1))",
}
_SHORT_WAITS = ("generate", "wait", "a full queue", "close", "asyncio")


@pytest.mark.parametrize("way", cases(WAITS, short=_SHORT_WAITS))
def test_a_callback_that_waits_for_its_engine_is_told(way: str) -> None:
    out = survives(
        _BEGIN
        + f"""
e = engine(n_queue_max=2)
other = e.submit("Once upon a time", **OTHER); next(other)
def waits(step): {WAITS[way]}
try: e.generate("Hi", max_tokens=9, on_step=waits)
except ptl.errors.PyTreeLlamaError as error: print(type(error).__name__, error)
"""
        + _END
    )
    assert out.startswith("ContextError a callback cannot wait for the engine")
    assert out.endswith("neighbour True\nnext True\n")


@pytest.mark.long
@pytest.mark.parametrize("way", list(WAITS))
def test_a_drafter_that_waits_for_its_engine_is_told(way: str) -> None:
    out = survives(
        _BEGIN
        + f"""
e = engine(Own, n_queue_max=2)
other = None
def act():
    if other is not None and threading.current_thread().name == "pytreellama" and not done:
        done.append(1); {WAITS[way]}
done = [1]
other = e.submit("Once upon a time", max_tokens=9, ignore_eos=True); next(other); done.clear()
try: print(other.result().finish_reason)
except ptl.errors.PyTreeLlamaError as error: print(type(error).__name__, error)
print("next", len(e.generate("Once upon a time", max_tokens=5, ignore_eos=True).tokens))
"""
    )
    assert out.startswith("ContextError a callback cannot wait for the engine"), out
    assert out.endswith("next 5\n")


# what a callback may do without waiting
ALLOWED = {
    "submit": "e.submit('x', max_tokens=1)",
    "cancel another": "later.cancel()",
    "close the model": "MODEL.close()",
    "forget a stream": "s = streams.pop() if streams else None; del s; gc.collect()",
    "another engine": "other_engine.generate('x', max_tokens=1)",
    "forget the engine": "globals().pop('unused', None)",
}


@pytest.mark.parametrize("way", cases(ALLOWED, short=("forget a stream",)))
def test_a_callback_may(way: str) -> None:
    out = survives(
        _BEGIN
        + f"""
e, other_engine, unused = engine(n_queue_max=99), engine(n_ctx=256), engine(n_ctx=256)
other = e.submit("Once upon a time", **OTHER); next(other)
later = e.submit("Later", max_tokens=900, ignore_eos=True)
streams = [e.stream("b", max_tokens=900, ignore_eos=True)]; next(streams[0])
def acts(step): {ALLOWED[way]}
print(e.generate("Hi", max_tokens=3, ignore_eos=True, on_step=acts).finish_reason)
later.cancel(); streams.clear()
"""
        + _END
    )
    assert out == "length\nneighbour True\nnext True\n"


# two engines whose callbacks wait for each other
CIRCLES = {
    "generate": "other.generate('x', max_tokens=1)",
    "close": "other.close()",
    "result": "other.submit('x', max_tokens=1).result()",
    "a stream that is forgotten": "streams.pop(other, None)",
}


@pytest.mark.parametrize("way", cases(CIRCLES, short=("generate",)))
def test_callbacks_of_two_engines_that_wait_for_each_other_are_told(way: str) -> None:
    out = survives(
        _BEGIN
        + f"""
a, b = engine(), engine()
streams = {{e: e.stream("s", max_tokens=500, ignore_eos=True) for e in (a, b)}}
for stream in streams.values(): next(stream)
meet = threading.Barrier(2)
def waits_for(other):
    met = []
    def callback(step):
        if not met:
            met.append(meet.wait(30)); {CIRCLES[way]}
    return callback
ends = [a.submit("Hi", max_tokens=2, ignore_eos=True, on_step=waits_for(b)),
        b.submit("Hi", max_tokens=2, ignore_eos=True, on_step=waits_for(a))]
for one in ends:
    try: print(one.result(40).finish_reason)
    except ptl.errors.PyTreeLlamaError as error: print(type(error).__name__)
del stream
streams.clear()
a.close(); b.close()
"""
    )
    assert set(out.split()) <= {"ContextError", "length", "cancelled"}, out


FORKS = {
    "near the end of the context": """
e = engine("none", n_ctx=256)
parent = e.submit([5] * 200, max_tokens=500, ignore_eos=True)
while True:
    try: parent.fork(seed=1).cancel()
    except ptl.errors.PyTreeLlamaError as error: print("refused"); break
""",
    "that draws where greedy alone is taken": """
e = engine(verify="typical")
parent = e.submit("Once", max_tokens=200, ignore_eos=True); next(parent)
try: parent.fork(temperature=1.0)
except ptl.errors.RequestError as error: print("refused")
""",
    "beyond the queue": """
e = engine(n_queue_max=3)
parent = e.submit("Once", max_tokens=300, ignore_eos=True); next(parent)
try:
    for i in range(50): parent.fork(seed=i)
except ptl.errors.QueueFullError: print("refused", e.n_open)
""",
    "with a bad option": """
e = engine()
parent = e.submit("Once", max_tokens=300, ignore_eos=True); next(parent)
try: parent.fork(temperature=-1.0)
except ptl.errors.SamplerError: print("refused")
""",
    "with an option that there is not": """
e = engine()
parent = e.submit("Once", max_tokens=300, ignore_eos=True); next(parent)
try: parent.fork(warmth=1.0)
except ptl.errors.RequestError: print("refused")
""",
    "with a grammar that its text does not fit": """
e = engine()
parent = e.submit("Once", max_tokens=300, ignore_eos=True); next(parent)
try: parent.fork(grammar='root ::= "zebra"')
except ptl.errors.GrammarError: print("refused")
""",
}  # fmt: skip


@pytest.mark.parametrize("way", list(FORKS))
def test_a_fork_is_refused_alone(way: str) -> None:
    begin = "\nother = e.submit('Hello', max_tokens=30, ignore_eos=True)\n"
    code = FORKS[way].replace("\nparent", begin + "parent", 1)
    out = survives(_BEGIN + code + "print(other.result(50).finish_reason, e.is_closed)\ne.close()")
    assert out.startswith("refused") and out.endswith("length False\n"), out
