"""Planned trees beside plain decoding and fixed trees, by kind of task and type of weights.

    python bench/planner.py [--json] [--questions FILE] [--types T ...] [--tokens N] [--repeats N]
                            [--categories C ...] [--sweep] [--limit N] [--model FILE] [--no-code]

Greedy answers. In each repeat every engine is new, and answers one question after the other; the
engines take turns question by question, so that a busy moment hits all. Speeds are tokens a second
of decoding; ratios are repeat by repeat, and their median is told. With ``--sweep`` fixed trees of
several drafters and sizes run as well, and the best of them in hindsight is told by category. To
the questions come prompts of our own that ask to rewrite code (``tests/data/rewriting.jsonl``).
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lib.models import add_types_option, requantised
from lib.questions import REWRITING, Question, add_answering_options, first_of_each, load_questions
from lib.report import Figure, Spread, note, publish
from pytreellama import Engine, Model
from pytreellama.bench.results import AUTO, PLAIN, Totals, in_turn
from pytreellama.bench.runs import drafter_and_size
from pytreellama.engine import Completion
from pytreellama.model.default_model import default_model_path

TYPES = ("Q4_1", "Q8_0", "F16")
SWEPT = tuple(
    f"{drafter}:{n_nodes}"
    for drafter in ("suffix", "recycling", "suffix+recycling")
    for n_nodes in (1, 2, 4, 8, 16)
)
N_CTX = 4096
REPETITIVE = ("rag", "translation", "rewriting")
ALL = "all"
GOALS = {"Q4_1": 1.25, "Q8_0": 1.35, "F16": 1.35}


@dataclass
class Repeat:
    """One round of all engines over all questions."""

    times: dict[tuple[str, str], Totals] = field(default_factory=lambda: defaultdict(Totals))
    n_different: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def add(self, engine: str, category: str, answer: Completion) -> None:
        self.times[engine, category].add(answer.stats)
        self.times[engine, ALL].add(answer.stats)

    def ratio(self, engine: str, category: str, to: str = PLAIN) -> float:
        return self.times[engine, category].tokens_per_s / self.times[to, category].tokens_per_s

    @property
    def categories(self) -> list[str]:
        return [*sorted({category for _, category in self.times} - {ALL}), ALL]


def main() -> None:
    options = parse_options()
    questions = asked(options)
    names = (PLAIN, AUTO, *(SWEPT if options.sweep else ()), *options.drafters)
    results = {
        file_type: measure(file_type, names, questions, options) for file_type in options.types
    }
    figures = [figure for t, repeats in results.items() for figure in figures_of(t, repeats, names)]
    publish(
        "planned trees beside plain decoding",
        [
            row
            for file_type, repeats in results.items()
            for row in rows_of(file_type, repeats, names)
        ],
        figures,
        options.json,
        questions=len(questions),
        tokens=options.tokens,
        repeats=options.repeats,
        threads=options.threads,
    )


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_answering_options(parser)
    add_types_option(parser, TYPES)
    parser.add_argument("--categories", nargs="+", metavar="C", help="some categories alone")
    parser.add_argument("--sweep", action="store_true", help="fixed trees as well")
    parser.add_argument(
        "--drafters", nargs="+", default=(), metavar="D:N", help="more fixed trees, of N nodes"
    )
    parser.add_argument("--no-code", action="store_true", help="without the rewriting prompts")
    parser.add_argument("--model", type=Path, help="a GGUF file instead of the default model")
    return parser.parse_args()


def asked(options: argparse.Namespace) -> list[Question]:
    questions = load_questions(options.questions)
    if not options.no_code:
        questions += load_questions(REWRITING)
    if options.categories:
        questions = [q for q in questions if q.category in options.categories]
    return questions if options.limit is None else first_of_each(questions, options.limit)


def measure(
    file_type: str, names: Iterable[str], questions: list[Question], options: argparse.Namespace
) -> list[Repeat]:
    path = requantised(options.model or default_model_path(), file_type)
    with Model(path) as model:
        repeats = []
        for i in range(options.repeats):
            repeats.append(one_repeat(model, tuple(names), questions, options))
            told = f"{repeats[-1].ratio(AUTO, ALL):.3f} of plain"
            note(f"{file_type}, repeat {i + 1} of {options.repeats}: auto at {told}")
        return repeats


def one_repeat(
    model: Model, names: tuple[str, ...], questions: list[Question], options: argparse.Namespace
) -> Repeat:
    repeat = Repeat()
    engines = {name: open_engine(model, name, options.threads) for name in names}
    try:
        for engine in engines.values():
            engine.generate("Once upon a time", max_tokens=16)  # costs are measured before
        for i, question in enumerate(questions):
            texts = {}
            for name in in_turn(names, i):
                answer = engines[name].generate(
                    question.messages, max_tokens=options.tokens, temperature=0
                )
                repeat.add(name, question.category, answer)
                texts[name] = answer.tokens
            for name in names:
                repeat.n_different[name] += texts[name] != texts[PLAIN]
    finally:
        for engine in engines.values():
            engine.close()
    return repeat


def open_engine(model: Model, name: str, n_threads: int) -> Engine:
    drafter, n_draft = drafter_and_size(name)
    return Engine(model, drafter, n_draft=n_draft, n_ctx=N_CTX, n_threads=n_threads)


def rows_of(
    file_type: str, repeats: list[Repeat], names: Iterable[str]
) -> Iterable[tuple[str, Any]]:
    for category in repeats[0].categories:
        for name in names:
            ratios = Spread.of([repeat.ratio(name, category) for repeat in repeats])
            times = repeats[-1].times[name, category]
            yield (
                f"{file_type} {category} {name}",
                f"{ratios} of plain; {times.tokens_per_s:.1f} tokens/s, "
                f"{times.tokens_per_step:.2f} tokens a step",
            )
    for name in names:
        different = repeats[-1].n_different[name]
        yield f"{file_type} {name}: texts that differ from plain", different


def figures_of(file_type: str, repeats: list[Repeat], names: Iterable[str]) -> Iterable[Figure]:
    def median(category: str, to: str = PLAIN) -> float:
        return statistics.median(repeat.ratio(AUTO, category, to) for repeat in repeats)

    categories = repeats[0].categories
    for category in categories:
        yield Figure.at_least(f"{file_type} {category}: auto / plain", median(category), 0.98)
    if file_type in GOALS:
        yield Figure.at_least(f"{file_type}: auto / plain, all", median(ALL), GOALS[file_type])
        for category in set(categories) & set(REPETITIVE):
            yield Figure.at_least(f"{file_type} {category}: speed-up", median(category), 1.6)
    fixed = [name for name in names if name not in (PLAIN, AUTO)]
    for category in categories if fixed else ():
        best = max(fixed, key=lambda n: statistics.median(r.ratio(n, category) for r in repeats))
        name = f"{file_type} {category}: auto / best fixed ({best})"
        yield Figure.at_least(name, median(category, best), 0.9)
    times = [repeat.times[AUTO, ALL] for repeat in repeats]
    share = statistics.median(t.plan_s / t.decode_s for t in times)
    yield Figure.at_most(f"{file_type}: planning, of all time", share, 0.01)
    yield Figure.at_most(f"{file_type}: texts that differ", repeats[-1].n_different[AUTO], 0)


if __name__ == "__main__":
    main()
