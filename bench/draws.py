"""What a draw costs beside greedy decoding, and what trees gain when tokens are drawn.

    python bench/draws.py [--json] [--questions FILE] [--limit N] [--tokens N] [--repeats N]
                          [--threads N] [--type T] [--only rows|plain|trees ...]

Rows: one draw from a made-up row of 49k and of 152k tokens, by ``Sampler`` and by llama.cpp's chain
of the same stages, beside the argmax. Plain: a token of ``Engine`` by each way of sampling,
question by question in turns, and of it the choice after the pass. Trees: what
``auto`` wins over plain decoding, greedy and drawn. ``chain`` is the same with llama.cpp's chain
instead of our own passes over the row, which is what earlier releases did.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np

from lib.models import requantised
from lib.questions import Question, add_answering_options, first_of_each, load_questions
from lib.report import Figure, Spread, note, publish
from pytreellama import Engine, Model, SamplingParams
from pytreellama.bench.results import AUTO, PLAIN, Totals, in_turn
from pytreellama.model.default_model import default_model_path
from pytreellama.native.logits import float_row
from pytreellama.native.sampling import argmax_token
from pytreellama.sampling.stages import new_chain, new_row_sampler
from pytreellama.testing.chains import sampled_by_chain

LENGTHS = (49_152, 151_936)
N_ROWS = 8
N_CTX = 4096
SEED = 1

GREEDY = "greedy"
DRAWN: dict[str, dict[str, Any]] = {
    "T 1.0": {"temperature": 1.0},
    "T 0.7, top_p 0.95": {"temperature": 0.7, "top_p": 0.95},
    "T 1.0, top_p 0.95": {"temperature": 1.0, "top_p": 0.95},
    "T 0.8, top_k 40, top_p 0.95, min_p 0.05": {
        "temperature": 0.8,
        "top_k": 40,
        "top_p": 0.95,
        "min_p": 0.05,
    },
}
GOAL_MS = 0.25
OF_GOALS = ("T 0.7, top_p 0.95", "T 1.0, top_p 0.95")
TREES: dict[str, Any] = {
    GREEDY: {},
    "T 0.7": {"temperature": 0.7},
    "T 0.7, top_p 0.95": DRAWN[OF_GOALS[0]],
}
GOAL_OF_GAIN = 0.8
CHAIN = " by chain"
PARTS = ("rows", "plain", "trees")

Row = tuple[str, Any]
Result = tuple[list[Row], list[Figure]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_answering_options(parser)
    parser.add_argument("--type", default="Q4_1", help="of the default model's weights")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    options = parser.parse_args()

    rows: list[Row] = []
    figures: list[Figure] = []
    for part in options.only:
        note(part)
        more_rows, more_figures = MEASURED[part](options)
        rows += more_rows
        figures += more_figures
    publish(
        "draws",
        rows,
        figures,
        options.json,
        type=options.type,
        tokens=options.tokens,
        repeats=options.repeats,
        threads=options.threads,
    )


# -- rows


def measure_rows(options: argparse.Namespace) -> Result:
    rows: list[Row] = []
    figures = []
    for n in LENGTHS:
        rng = np.random.default_rng(SEED)
        pointers = [float_row(likely_row(rng, n)) for _ in range(N_ROWS)]
        draws = {GREEDY: lambda row, n=n: argmax_token(row, n)} | dict(drawers(n))
        times: dict[str, list[float]] = defaultdict(list)
        for _ in range(10 * options.repeats):
            for name, draw in draws.items():
                times[name].append(ms_a_row(draw, pointers))
        rows += [(f"{n} tokens, {name}, ms", Spread.of(times[name])) for name in draws]
        for name in OF_GOALS:
            dearer = min(times[name]) - min(times[GREEDY])
            figures.append(Figure.at_most(f"{n} tokens, {name}: ms more", dearer, GOAL_MS))
    return rows, figures


def likely_row(rng: np.random.Generator, n: int) -> np.ndarray:
    """As models make them: some hundred tokens of a falling likelihood, all others unlikely."""
    row = rng.normal(0.0, 2.0, n)
    row[rng.permutation(n)[:300]] = 18.0 - 2.0 * np.log(np.arange(1, 301))
    return row.astype(np.float32)


def drawers(n_vocab: int) -> Iterator[tuple[str, Callable[[Any], int | None]]]:
    vocab: Any = SimpleNamespace(n_tokens=n_vocab)
    for name, drawn in DRAWN.items():
        params = SamplingParams(**drawn)
        yield name, new_row_sampler(vocab, params, {}, SEED).draw
        yield name + CHAIN, new_chain(vocab, params, {}, SEED).draw


def ms_a_row(draw: Callable[[Any], int | None], rows: list[Any]) -> float:
    start_s = time.perf_counter()
    for row in rows:
        draw(row)
    return (time.perf_counter() - start_s) / len(rows) * 1e3


# -- plain decoding


@contextmanager
def by_chain(is_on: bool) -> Iterator[None]:
    """Make new samplers of llama.cpp's chain, whatever is asked for."""
    with sampled_by_chain() if is_on else nullcontext():
        yield


def measure_plain(options: argparse.Namespace) -> Result:
    asked: dict[str, dict[str, Any]] = {GREEDY: {}} | DRAWN
    names = [name + how for name in asked for how in ("", CHAIN) if name != GREEDY or not how]
    answers: dict[str, list[Totals]] = defaultdict(list)
    with (
        Model(requantised(default_model_path(), options.type)) as model,
        Engine(model, "none", n_ctx=N_CTX, n_threads=options.threads) as engine,
    ):
        for i, question in enumerate(questions(options) * options.repeats):
            for name in in_turn(names, i):
                drawn = asked[name.removesuffix(CHAIN)]
                answers[name].append(answer(engine, question, drawn, CHAIN in name, options.tokens))

    rows: list[Row] = []
    more: dict[tuple[str, str], list[float]] = {}
    for what, ms in (("plain token", ms_a_token), ("its choice", ms_a_choice)):
        greedy = [ms(totals) for totals in answers[GREEDY]]
        for name in names:
            took = [ms(totals) for totals in answers[name]]
            more[what, name] = [a - b for a, b in zip(took, greedy, strict=True)]
            rows.append((f"{what}, {name}, ms", Spread.of(took)))
            rows.append((f"{what}, {name}, ms more than greedy", Spread.of(more[what, name])))
    figures = [
        Figure.at_most(f"{what}, {name}: ms more", statistics.median(values), GOAL_MS)
        for (what, name), values in more.items()
        if name in OF_GOALS
    ]
    return rows, figures


def answer(
    engine: Engine, question: Question, drawn: dict[str, Any], chain: bool, n_tokens: int
) -> Totals:
    totals = Totals()
    with by_chain(chain):
        for completion in engine.generate(
            [engine.encode_prompt(question.messages)],
            max_tokens=n_tokens,
            ignore_eos=True,
            seed=SEED,
            **drawn,
        ):
            totals.add(completion.stats)
    return totals


def ms_a_token(totals: Totals) -> float:
    return 1e3 / totals.tokens_per_s


def ms_a_choice(totals: Totals) -> float:
    """What follows a pass: on a busy machine the pass itself says little."""
    return totals.verify_s / totals.n_tokens * 1e3


# -- trees


def measure_trees(options: argparse.Namespace) -> Result:
    gains: dict[str, list[float]] = defaultdict(list)
    with Model(requantised(default_model_path(), options.type)) as model:
        for i in range(options.repeats):
            for name, gain in one_round(model, options).items():
                gains[name].append(gain)
            told = ", ".join(f"{name} {values[-1]:.3f}" for name, values in gains.items())
            note(f"repeat {i + 1} of {options.repeats}: auto / plain: {told}")
    rows: list[Row] = [(f"auto / plain, {name}", Spread.of(v)) for name, v in gains.items()]
    greedy = statistics.median(gains[GREEDY]) - 1
    figures = [
        Figure.at_least(
            f"{name}: of greedy's gain", (statistics.median(gains[name]) - 1) / greedy, GOAL_OF_GAIN
        )
        for name in TREES
        if name != GREEDY
    ]
    return rows, figures


def one_round(model: Model, options: argparse.Namespace) -> dict[str, float]:
    """How many times as fast as plain decoding planned trees are, by way of sampling."""
    ways = [
        (drafter, name + how)
        for name in TREES
        for how in ("", CHAIN)
        for drafter in (PLAIN, AUTO)
        if name != GREEDY or not how
    ]
    totals: dict[tuple[str, str], Totals] = defaultdict(Totals)
    engines = {
        way: Engine(
            model,
            "none" if way[0] == PLAIN else "auto",
            n_ctx=N_CTX,
            n_threads=options.threads,
        )
        for way in ways
    }
    try:
        for engine in engines.values():
            engine.generate("Once upon a time", max_tokens=16)  # costs are measured before
        for i, question in enumerate(questions(options)):
            for way in in_turn(ways, i):
                name = way[1]
                with by_chain(CHAIN in name):
                    engine = engines[way]
                    answer = engine.generate(
                        [engine.encode_prompt(question.messages)],
                        max_tokens=options.tokens,
                        seed=SEED + i,
                        **TREES[name.removesuffix(CHAIN)],
                    )[0]
                totals[way].add(answer.stats)
    finally:
        for engine in engines.values():
            engine.close()
    return {
        name: totals[AUTO, name].tokens_per_s / totals[PLAIN, name].tokens_per_s
        for drafter, name in ways
        if drafter == PLAIN
    }


def questions(options: argparse.Namespace) -> list[Question]:
    asked = load_questions(options.questions)
    return asked if options.limit is None else first_of_each(asked, options.limit)


MEASURED: dict[str, Callable[[argparse.Namespace], Result]] = {
    "rows": measure_rows,
    "plain": measure_plain,
    "trees": measure_trees,
}


if __name__ == "__main__":
    main()
