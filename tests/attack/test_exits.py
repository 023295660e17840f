"""A program ends while an engine works: with its own status, soon, and not by a signal."""

from __future__ import annotations

import pytest

from alone import cases, run_alone

_BEGIN = """
import atexit, os, sys, threading, time
import pytreellama as ptl
MODEL = ptl.Model.default()
def engine(drafter="auto", **options):
    return ptl.Engine(MODEL, drafter, **{"n_ctx": 2048, "n_seq_max": 4, **options})
LONG = dict(max_tokens=1500, ignore_eos=True)
"""

ENDS = {
    "while it writes": "g = engine().submit('Once', **LONG); next(g)",
    "while it drafts": "g = engine('suffix').submit('one two ' * 40, **LONG); next(g)",
    "in a long prompt": "g = engine('none', n_ctx=8192).submit([5] * 8000); time.sleep(0.3)",
    "before the first step": "g = engine().submit('Once', **LONG)",
    "while costs are measured": "g = engine().submit('Once', **LONG); time.sleep(0.4)",
    "with four requests": """
e = engine()
g = [e.submit('Once', **LONG) for _ in range(4)]
next(g[3])""",
    "in a stream": "e = engine()\nfor chunk in e.stream('Once', **LONG):\n    break",
    "with a stream in a variable": "s = engine().stream('Once', **LONG); next(s)",
    "with a schema": "g = engine().submit('Once', json_schema={'type': 'string'}, **LONG); next(g)",
    "beside a daemon thread that waits": """
e = engine()
threading.Thread(target=lambda: e.generate('Once', **LONG), daemon=True).start()
time.sleep(0.3)""",
    "beside a daemon thread that decodes": """
context = ptl.Context(MODEL, n_ctx=8192)
threading.Thread(target=lambda: context.prefill([5] * 8000), daemon=True).start()
time.sleep(0.3)""",
    "beside a daemon thread that takes turns": """
def work():
    while True:
        with ptl.Context(MODEL, n_ctx=256) as context:
            context.prefill([5] * 200)
threading.Thread(target=work, daemon=True).start()
time.sleep(0.3)""",
    "beside a daemon thread that tokenises": """
text = 'Once upon a time ' * 50_000
def work():
    while True:
        MODEL.vocab.encode(text)
threading.Thread(target=work, daemon=True).start()
time.sleep(0.3)""",
    "beside a daemon thread that writes tokens out": """
tokens = list(range(MODEL.vocab.n_tokens)) * 20
def work():
    while True:
        MODEL.vocab.decode(tokens)
threading.Thread(target=work, daemon=True).start()
time.sleep(0.3)""",
    "beside a daemon thread that makes contexts": """
def work():
    while True:
        ptl.Context(MODEL, n_ctx=64).close()
threading.Thread(target=work, daemon=True).start()
time.sleep(0.3)""",
    "beside a daemon thread that loads": """
def work():
    while True:
        ptl.Model(MODEL.path).close()
threading.Thread(target=work, daemon=True).start()
time.sleep(0.2)""",
    "beside a daemon thread that compiles schemas": """
def work():
    while True:
        ptl.Sampler(MODEL.vocab, ptl.SamplingParams(json_schema={'type': 'array'})).close()
threading.Thread(target=work, daemon=True).start()
time.sleep(0.5)""",
    "beside a daemon thread that writes JSON": """
e = engine()
ask = dict(json_schema={'type': 'array'}, temperature=1.0, **LONG)
threading.Thread(target=lambda: e.generate('JSON:', **ask), daemon=True).start()
time.sleep(0.5)""",
    "beside a daemon thread that makes grammars": """
def work():
    while True:
        ptl.Sampler(MODEL.vocab, ptl.SamplingParams(grammar='root ::= [a-z]{1,9}')).close()
threading.Thread(target=work, daemon=True).start()
time.sleep(0.3)""",
    "with two engines": """
g = [engine(n_threads=1 + i).submit('Once', **LONG) for i in range(2)]
next(g[0]), next(g[1])""",
    "with the model closed": "g = engine().submit('Once', **LONG); next(g); MODEL.close()",
    "with everything deleted": """
e = engine()
g = e.submit('Once', **LONG); next(g)
del e, g, MODEL""",
    "in a callback that sleeps": """
g = engine().submit('Once', on_step=lambda step: time.sleep(3), **LONG)
time.sleep(0.8)""",
    "with an engine in asyncio": """
import asyncio
async def main():
    e = ptl.AsyncEngine(MODEL, n_ctx=512)
    async for chunk in e.stream('Once', **LONG):
        break
asyncio.run(main())""",
}

_SHORT = (
    "while it writes",
    "in a long prompt",
    "with a stream in a variable",
    "beside a daemon thread that waits",
    "beside a daemon thread that decodes",
    "beside a daemon thread that tokenises",
    "beside a daemon thread that writes JSON",
)


@pytest.mark.parametrize("way", cases(ENDS, short=_SHORT))
def test_a_program_ends_with_its_own_status(way: str) -> None:
    outcome = run_alone(_BEGIN + ENDS[way] + "\nsys.exit(3)", limit_s=60.0)
    assert outcome.code == 3, str(outcome)
    assert "Fatal" not in outcome.err, str(outcome)


@pytest.mark.long
@pytest.mark.parametrize(
    "way",
    [
        "while it writes",
        "in a long prompt",
        "with four requests",
        "beside a daemon thread that tokenises",
    ],
)
def test_it_does_so_each_time(way: str) -> None:
    for _ in range(10):
        outcome = run_alone(_BEGIN + ENDS[way], limit_s=60.0)
        assert outcome.code == 0, str(outcome)


@pytest.mark.long
def test_an_error_of_the_program_is_its_status() -> None:
    code = "g = engine().submit('Once', **LONG); next(g); raise KeyError('mine')"
    outcome = run_alone(_BEGIN + code)
    assert outcome.code == 1 and "KeyError: 'mine'" in outcome.err, str(outcome)


def test_a_hook_at_exit_may_still_tokenise() -> None:
    early = "import atexit; m = []\natexit.register(lambda: print(len(m[0].vocab.encode('Once'))))"
    outcome = run_alone(early + _BEGIN + "m.append(MODEL)")
    assert outcome.code == 0 and outcome.out.strip().isdigit(), str(outcome)


_LATE = "def late():\n    try: print('text', len(e.generate('Once', max_tokens=3).tokens))\n    \
except ptl.errors.PyTreeLlamaError as error: print('refused', type(error).__name__)\n"


@pytest.mark.parametrize(
    "how",
    [
        "e = engine(); e.generate('a', max_tokens=2)\n" + _LATE + "atexit.register(late)",
        "atexit.register(lambda: late())\ne = engine(); e.generate('a', max_tokens=2)\n" + _LATE,
        "e = engine(); e.generate('a', max_tokens=2)\n" + _LATE
        + "class Last:\n    def __del__(self, late=late): late()\nlast = Last()",
    ],
    ids=["atexit", "atexit of before", "del"],
)  # fmt: skip
def test_what_comes_late_gets_a_text_or_an_error(how: str) -> None:
    outcome = run_alone(_BEGIN + how, limit_s=30.0)
    assert outcome.code == 0 and ("text 3" in outcome.out or "refused" in outcome.out), str(outcome)
