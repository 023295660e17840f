"""Medusa heads: how often they are right, what their trees bring, what they cost, what they save.

    python bench/medusa.py [--json] [--questions FILE] [--heads FILE] [--model FILE] [--limit N]
                           [--tokens N] [--repeats N] [--threads N]

Greedy answers. Accuracies are of each head where all before was right; tokens a step are of fixed
trees of the likeliest guesses. Speeds are measured in turns, question by question, with new
engines in each repeat; ratios are repeat by repeat, and their median is told. How the heads were
trained is read from their file.
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lib.questions import Question, add_answering_options, first_of_each, load_questions
from lib.report import Figure, Spread, note, publish, shown
from pytreellama import Engine, Model
from pytreellama.bench.prompts import BenchPrompt
from pytreellama.bench.results import Totals, in_turn
from pytreellama.bench.runs import prompt_tokens
from pytreellama.draft import Auto, DrafterSpec, Medusa, Merge, Recycling, Suffix
from pytreellama.draft.medusa import require_heads
from pytreellama.medusa.evaluation import Hits, StepCounts, count_hits
from pytreellama.medusa.recorder import answers
from pytreellama.model.default_model import default_model_path
from pytreellama.model.heads import Heads

SIZES = (8, 16, 32)
SIZE = 16  # of the goals
ALL = "all"
N_CTX = 4096
N_WARM_UP = 16
PLAIN, WITHOUT, WITH = "none", "auto without heads", "auto"


@dataclass
class Round:
    """One repeat of the speeds."""

    totals: dict[tuple[str, str], Totals] = field(default_factory=lambda: defaultdict(Totals))
    n_different: int = 0

    def ratio(self, name: str, category: str, to: str) -> float:
        return self.totals[name, category].tokens_per_s / self.totals[to, category].tokens_per_s


def main() -> None:
    options = parse_options()
    questions = load_questions(options.questions)
    if options.limit is not None:
        questions = first_of_each(questions, options.limit)
    with Model(options.model or default_model_path()) as model:
        path = options.heads or require_heads(model)
        with Heads(path, model) as heads:
            facts = facts_of(heads)
            hits = measure_hits(model, heads, questions, options)
        steps = {
            name: measure_steps(model, factory, n_nodes, questions, options)
            for name, factory, n_nodes in fixed_trees(path)
        }
        rounds = [
            measure_speeds(model, path, questions, options, number)
            for number in range(options.repeats)
        ]
    publish(
        f"Medusa heads: {path.name}",
        [*fact_rows(facts), *hit_rows(hits), *step_rows(steps), *speed_rows(rounds)],
        figures_of(facts, steps, rounds),
        options.json,
        questions=len(questions),
        tokens=options.tokens,
        repeats=options.repeats,
        threads=options.threads,
    )


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_answering_options(parser)
    parser.add_argument("--heads", type=Path, help="a file of heads; by default the model's own")
    parser.add_argument("--model", type=Path, help="a GGUF file instead of the default model")
    return parser.parse_args()


# -- how often they are right


def facts_of(heads: Heads) -> dict[str, Any]:
    meta = {key: heads.meta(f"medusa.training.{key}") for key in ("n_tokens", "n_steps")}
    seconds = [
        float(heads.meta(f"medusa.training.{key}") or "nan")
        for key in ("writing_seconds", "seconds")
    ]
    return {
        "heads": heads.n_heads,
        "layers": heads.n_layers,
        "sees": heads.sees,
        "rows": heads.n_rows,
        "megabytes": heads.path.stat().st_size / 1e6,
        "training_minutes": sum(seconds) / 60,
        **meta,
    }


def measure_hits(
    model: Model, heads: Heads, questions: Sequence[Question], options: argparse.Namespace
) -> dict[str, Hits]:
    prompts = [encoded(model, question) for question in questions]
    texts = answers(model, prompts, options.tokens)
    hits: dict[str, Hits] = defaultdict(lambda: Hits.none(heads.n_heads))
    with shown("accuracies of the heads") as progress:
        for i, (question, text) in enumerate(zip(questions, texts, strict=True)):
            found = count_hits(heads, text, options.threads)
            for category in (question.category, ALL):
                hits[category] += found
            progress((i + 1) / len(questions))
    return hits


def encoded(model: Model, question: Question) -> list[int]:
    return prompt_tokens(model, BenchPrompt(tuple(question.messages)))


# -- what their trees bring


def fixed_trees(path: Path) -> Iterable[tuple[str, DrafterSpec, int]]:
    for size in SIZES:
        yield f"medusa, {size} nodes", Medusa(path, min_p=0.0), size
    yield f"suffix+recycling, {SIZE} nodes", Merge(Suffix(), Recycling()), SIZE
    merged = Merge(Suffix(), Recycling(), Medusa(path))
    yield f"suffix+recycling+medusa, {SIZE} nodes", merged, SIZE


def measure_steps(
    model: Model,
    factory: DrafterSpec,
    n_nodes: int,
    questions: Sequence[Question],
    options: argparse.Namespace,
) -> dict[str, StepCounts]:
    steps: dict[str, StepCounts] = defaultdict(StepCounts)
    with Engine(model, factory, n_draft=n_nodes, n_ctx=N_CTX, n_threads=options.threads) as engine:
        for question in questions:
            answer = engine.generate(question.messages, max_tokens=options.tokens, temperature=0)
            for category in (question.category, ALL):
                steps[category].add(answer)
    note(f"trees of {n_nodes} nodes: {steps[ALL].tokens_per_step:.3f} tokens a step")
    return steps


# -- what they cost and save


def speed_engines(path: Path) -> dict[str, Callable[[], DrafterSpec]]:
    return {
        PLAIN: lambda: "none",
        "suffix": lambda: "suffix",
        "recycling": lambda: "recycling",
        "medusa, planned": lambda: Auto(Medusa(path)),
        WITHOUT: lambda: Auto(Suffix(), Recycling()),
        WITH: lambda: Auto(Suffix(), Recycling(), Medusa(path)),
    }


def measure_speeds(
    model: Model,
    path: Path,
    questions: Sequence[Question],
    options: argparse.Namespace,
    number: int,
) -> Round:
    found = Round()
    engines = {
        name: Engine(model, make(), n_ctx=N_CTX, n_threads=options.threads)
        for name, make in speed_engines(path).items()
    }
    try:
        for engine in engines.values():
            engine.generate("Once upon a time", max_tokens=N_WARM_UP)
        for i, question in enumerate(questions):
            texts = {}
            for name in in_turn(tuple(engines), i + number):
                answer = engines[name].generate(
                    question.messages, max_tokens=options.tokens, temperature=0
                )
                for category in (question.category, ALL):
                    found.totals[name, category].add(answer.stats)
                texts[name] = answer.tokens
            found.n_different += len(set(texts.values())) - 1
    finally:
        for engine in engines.values():
            engine.close()
    told = f"auto at {found.ratio(WITH, ALL, WITHOUT):.3f} of auto without heads"
    note(f"speeds, repeat {number + 1} of {options.repeats}: {told}")
    return found


def plain_step_s(rounds: Sequence[Round]) -> float:
    totals = [found.totals[PLAIN, ALL] for found in rounds]
    return statistics.median(1.0 / t.tokens_per_s for t in totals)


def categories_of(rounds: Sequence[Round]) -> list[str]:
    return [*sorted({category for _, category in rounds[0].totals} - {ALL}), ALL]


# -- what is told


def fact_rows(facts: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    for name, value in facts.items():
        yield name, f"{value:.2f}" if isinstance(value, float) else value


def hit_rows(hits: dict[str, Hits]) -> Iterable[tuple[str, Any]]:
    for category, found in sorted(hits.items(), key=lambda item: item[0] == ALL):
        shares = found.to_dict()
        top1, top5 = (", ".join(f"{x:.3f}" for x in shares[key]) for key in ("top1", "top5"))
        yield f"{category}: right, by head", f"{top1}; among five: {top5}"


def step_rows(steps: dict[str, dict[str, StepCounts]]) -> Iterable[tuple[str, Any]]:
    for name, by_category in steps.items():
        for category in [*sorted(set(by_category) - {ALL}), ALL]:
            found = by_category[category]
            yield f"{category}: {name}", f"{found.tokens_per_step:.3f} tokens a step"


def speed_rows(rounds: Sequence[Round]) -> Iterable[tuple[str, Any]]:
    if not rounds:
        return
    names = list(dict.fromkeys(name for name, _ in rounds[0].totals))
    for category in categories_of(rounds):
        for name in sorted(names):
            ratios = Spread.of([found.ratio(name, category, PLAIN) for found in rounds])
            last = rounds[-1].totals[name, category]
            yield f"{category}: speed of {name}", f"{ratios} of plain; {last.tokens_per_step:.2f}"
    yield "texts that differ", rounds[-1].n_different


def figures_of(
    facts: dict[str, Any], steps: dict[str, dict[str, StepCounts]], rounds: Sequence[Round]
) -> list[Figure]:
    alone = steps[f"medusa, {SIZE} nodes"][ALL]
    two = steps[f"suffix+recycling, {SIZE} nodes"][ALL].tokens_per_step
    three = steps[f"suffix+recycling+medusa, {SIZE} nodes"][ALL].tokens_per_step
    figures = [
        Figure.at_least(f"medusa alone, {SIZE} nodes: tokens/step", alone.tokens_per_step, 1.9),
        Figure.at_least("with suffix and recycling / those alone: tokens", three / two, 1.15),
        Figure.at_most("heads, megabytes", facts["megabytes"], 12.0),
        Figure.at_most("training, minutes", facts["training_minutes"], 120.0),
    ]
    if not rounds:
        return figures
    draft_s = alone.draft_s / alone.n_steps
    figures.append(Figure.at_most("drafting / plain step", draft_s / plain_step_s(rounds), 0.15))
    for category in categories_of(rounds):
        ratio = statistics.median(found.ratio(WITH, category, WITHOUT) for found in rounds)
        figures.append(Figure.at_least(f"{category}: auto / auto without heads", ratio, 1.0))
    figures.append(Figure.at_most("texts that differ", rounds[-1].n_different, 0))
    return figures


if __name__ == "__main__":
    main()
