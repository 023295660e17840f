"""Tokens that a pass of the target brings, by drafter, number of drafted nodes and kind of task.

    python bench/acceptance.py [--json] [--questions FILE] [--drafters D ...] [--nodes N ...]
                               [--tokens N] [--threads N] [--model FILE] [--plot FILE]

Greedy answers, one question after the other; what a drafter learns in one question it knows in the
next, as in an engine that runs for a while. Tokens a step count all that a pass brings, the model's
own included: 1 is plain decoding. A drafter may be several, joined by +, in one tree.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.questions import Question, add_questions_option, load_questions
from lib.report import Figure, publish, shown
from pytreellama import Engine, Model
from pytreellama.context.params import default_n_threads

DRAFTERS = ("suffix", "ngram", "recycling", "suffix+recycling")
NODES = (4, 8, 16, 32, 64)
N_CTX = 4096
GOALS = {("suffix+recycling", 8): 2.25, ("suffix+recycling", 32): 2.7}


@dataclass(frozen=True)
class Run:
    """All questions answered with one drafter and size of tree.

    Attributes:
        n_tokens, n_steps: by category.
    """

    drafter: str
    n_nodes: int
    n_tokens: dict[str, int]
    n_steps: dict[str, int]

    def tokens_a_step(self, category: str | None = None) -> float:
        if category is not None:
            return self.n_tokens[category] / self.n_steps[category]
        return sum(self.n_tokens.values()) / sum(self.n_steps.values())


def main() -> None:
    options = parse_options()
    questions = load_questions(options.questions)
    with Model(options.model) if options.model else Model.default() as model:
        name = model.path.name
        runs = [
            run(model, drafter, n_nodes, questions, options)
            for drafter in options.drafters
            for n_nodes in options.nodes
        ]
    if options.plot:
        plot(runs, options.plot)
    publish(
        "tokens a step",
        [(f"{r.drafter}, {r.n_nodes} nodes", told(r)) for r in runs],
        [
            Figure.at_least(f"{r.drafter}, {r.n_nodes} nodes", r.tokens_a_step(), goal)
            for r in runs
            if (goal := GOALS.get((r.drafter, r.n_nodes))) is not None
        ],
        options.json,
        model=name,
        questions=len(questions),
        tokens=options.tokens,
        runs=[as_dict(r) for r in runs],
    )


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    add_questions_option(parser)
    parser.add_argument("--drafters", nargs="+", default=DRAFTERS, metavar="D")
    parser.add_argument("--nodes", nargs="+", type=int, default=NODES, metavar="N")
    parser.add_argument("--tokens", type=int, default=128, help="most tokens of an answer")
    parser.add_argument("--threads", type=int, default=default_n_threads())
    parser.add_argument("--model", type=Path, help="a GGUF file; by default the default model")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="a picture of all runs")
    return parser.parse_args()


def run(
    model: Model, drafter: str, n_nodes: int, questions: list[Question], options: argparse.Namespace
) -> Run:
    written: dict[str, int] = defaultdict(int)
    steps: dict[str, int] = defaultdict(int)
    with (
        shown(f"{drafter}, {n_nodes} nodes") as progress,
        Engine(model, drafter, n_draft=n_nodes, n_ctx=N_CTX, n_threads=options.threads) as engine,
    ):
        for i, question in enumerate(questions):
            stats = engine.generate(
                question.messages, max_tokens=options.tokens, temperature=0
            ).stats
            written[question.category] += stats.n_tokens
            steps[question.category] += stats.n_steps
            progress((i + 1) / len(questions))
    return Run(drafter, n_nodes, dict(written), dict(steps))


def told(r: Run) -> str:
    categories = ", ".join(f"{name} {r.tokens_a_step(name):.2f}" for name in sorted(r.n_steps))
    return f"{r.tokens_a_step():.3f} ({categories})"


def as_dict(r: Run) -> dict[str, Any]:
    return {
        "drafter": r.drafter,
        "nodes": r.n_nodes,
        "tokens a step": round(r.tokens_a_step(), 4),
        "categories": {name: round(r.tokens_a_step(name), 4) for name in sorted(r.n_steps)},
    }


def plot(runs: list[Run], path: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for drafter in dict.fromkeys(r.drafter for r in runs):
        line = [r for r in runs if r.drafter == drafter]
        axes.plot(
            [r.n_nodes for r in line], [r.tokens_a_step() for r in line], marker="o", label=drafter
        )
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted({r.n_nodes for r in runs}), sorted({r.n_nodes for r in runs}))
    axes.set_xlabel("drafted nodes")
    axes.set_ylabel("tokens a step")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path)


if __name__ == "__main__":
    main()
