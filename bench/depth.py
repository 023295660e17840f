"""What steps take behind much text: passes, plain decoding and planned trees, by depth.

    python bench/depth.py [--json] [--depths N ...] [--tokens N] [--repeats N] [--model FILE]
                          [--threads N] [--parts passes answers]

``passes`` times passes of some sizes in turn, behind random text, beside what the planner believes
of them after it has seen as many. ``answers`` continues a prompt of documents (this project's own)
with plain steps and planned trees in turns; greedy, so all write the same. The first answer behind
a prompt reads it, later ones find it in the cache; speeds are those of decoding.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.report import ROOT, Figure, Spread, note, publish
from pytreellama import Engine, Model
from pytreellama.bench.results import AUTO, PLAIN, in_turn
from pytreellama.context.context import Context
from pytreellama.context.params import default_n_threads
from pytreellama.engine import Completion
from pytreellama.engine.calibration import TimedPasses, measured_curve
from pytreellama.engine.text_seen import TextSeen
from pytreellama.plan import CostCurve, PassCost

DEPTHS = (64, 2048, 7000)
SIZES = (1, 2, 4, 8, 16)
PARTS = ("passes", "answers")
ASKED = (
    "Repeat the beginning of the text above, word by word.",
    "Which settings does the text above name? Quote what it says of them.",
)


# -- passes


@dataclass(frozen=True)
class Passes:
    """Passes of some sizes at one depth.

    Attributes:
        ms: of each size, milliseconds.
        believed_ms: of each size, what a planner expects that heard of them.
    """

    depth: int
    ms: dict[int, Spread]
    believed_ms: dict[int, float]

    @property
    def error(self) -> float:
        """How far the planner is off about a size in plain steps, at most; a share."""
        one, believed_one = self.ms[1].median, self.believed_ms[1]
        steps = ((self.ms[n].median / one, self.believed_ms[n] / believed_one) for n in self.ms)
        return max(abs(believed / real - 1.0) for real, believed in steps)

    def rows(self) -> Iterator[tuple[str, Any]]:
        for n, spread in self.ms.items():
            ratio = spread.smallest / self.ms[1].smallest
            yield (
                f"{self.depth} cells, {n} nodes: ms",
                f"{spread}; {ratio:.2f} of 1 node; believed {self.believed_ms[n]:.4g}",
            )


def passes(model: Model, options: argparse.Namespace) -> list[Passes]:
    n_ctx = max(options.depths) + 256
    with Context(model, n_ctx=n_ctx, n_threads=options.threads) as context:
        curve = measured_curve(context, share=TextSeen(context).share())
        return [passes_at(context, curve, depth, options.repeats) for depth in options.depths]


def passes_at(context: Context, curve: CostCurve, depth: int, n_repeats: int) -> Passes:
    note(f"passes behind {depth} cells")
    timed = TimedPasses(context, depth)
    found: dict[int, list[float]] = {size: [] for size in SIZES}
    try:
        for _ in range(4 * n_repeats):
            for size in SIZES:
                timed.time(1)  # as in an engine, trees come behind plain steps
                found[size].append(timed.time(size))
                curve.learn(PassCost(size, depth, found[size][-1]))
    finally:
        timed.close()
    ms = {size: Spread.of([1000 * s for s in seconds]) for size, seconds in found.items()}
    return Passes(depth, ms, {size: 1000 * curve.seconds(size, depth) for size in SIZES})


# -- answers


@dataclass(frozen=True)
class Answers:
    """Speeds behind so many tokens of documents, tokens a second; ratios pair by pair."""

    depth: int
    plain: list[float]
    auto: list[float]
    tokens_per_step: list[float]
    n_different: int

    @property
    def ratios(self) -> list[float]:
        return [a / b for a, b in zip(self.auto, self.plain, strict=True)]

    def rows(self) -> Iterator[tuple[str, Any]]:
        yield f"{self.depth} tokens: plain, tokens/s", Spread.of(self.plain)
        yield f"{self.depth} tokens: auto, tokens/s", Spread.of(self.auto)
        yield f"{self.depth} tokens: auto / plain", Spread.of(self.ratios)
        yield f"{self.depth} tokens: tokens a step", Spread.of(self.tokens_per_step)


def answers(model: Model, options: argparse.Namespace) -> list[Answers]:
    n_ctx = max(options.depths) + options.tokens + 256
    sizes = {"n_ctx": n_ctx, "n_threads": options.threads, "n_seq_max": 2, "n_cached_prefixes": 1}
    engines = {name: Engine(model, name, **sizes) for name in (PLAIN, AUTO)}
    try:
        for engine in engines.values():
            engine.generate("Once upon a time", max_tokens=16)  # costs are measured before
        return [answers_at(engines, depth, options) for depth in options.depths]
    finally:
        for engine in engines.values():
            engine.close()


def answers_at(engines: dict[str, Engine], depth: int, options: argparse.Namespace) -> Answers:
    found: dict[str, list[Completion]] = {PLAIN: [], AUTO: []}
    for i, question in enumerate(ASKED):
        prompt = documents(engines[PLAIN], question, depth, i / len(ASKED))
        for repeat in range(options.repeats):
            note(f"answers behind {depth} tokens: question {i}, repeat {repeat}")
            for name in in_turn((PLAIN, AUTO), repeat):
                answer = engines[name].generate(prompt, max_tokens=options.tokens, ignore_eos=True)
                found[name].append(answer)
    plain, auto = found[PLAIN], found[AUTO]
    return Answers(
        depth,
        [answer.stats.tokens_per_s for answer in plain],
        [answer.stats.tokens_per_s for answer in auto],
        [answer.stats.tokens_per_step for answer in auto],
        sum(a.tokens != b.tokens for a, b in zip(plain, auto, strict=True)),
    )


def documents(engine: Engine, question: str, n_tokens: int, begin: float) -> list[int]:
    """The tokens of a chat that asks about so much of the project's documentation."""
    text = "\n\n".join(p.read_text(encoding="utf-8") for p in sorted(ROOT.glob("docs/*.md")))
    text = text[int(begin * len(text)) :] + text

    def encoded(n_bytes: int) -> list[int]:
        asked = f"{text[:n_bytes]}\n\n{question}"
        return list(engine.encode_prompt([{"role": "user", "content": asked}]))

    low, high = 0, len(text)
    while high - low > 8:
        middle = (low + high) // 2
        if len(encoded(middle)) <= n_tokens:
            low = middle
        else:
            high = middle
    return encoded(low)


# -- what is told


def figures_of(timed: list[Passes], written: list[Answers]) -> Iterator[Figure]:
    for one in timed:
        yield Figure.at_most(f"{one.depth} cells: error of believed costs", one.error, 0.2)
    for answer in written:
        ratio = statistics.median(answer.ratios)
        yield Figure.at_least(f"{answer.depth} tokens: auto / plain", ratio, 0.98)
        yield Figure.at_most(f"{answer.depth} tokens: texts that differ", answer.n_different, 0)


def main() -> None:
    options = parse_options()
    with Model(options.model) if options.model else Model.default() as model:
        timed = passes(model, options) if "passes" in options.parts else []
        written = answers(model, options) if "answers" in options.parts else []
        name = model.path.name
    rows = [row for one in timed for row in one.rows()]
    rows += [row for one in written for row in one.rows()]
    publish(
        "depth",
        rows,
        list(figures_of(timed, written)),
        options.json,
        model=name,
        threads=options.threads,
        tokens=options.tokens,
        repeats=options.repeats,
    )


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--depths", type=int, nargs="+", default=DEPTHS, metavar="N")
    parser.add_argument("--tokens", type=int, default=128, help="of an answer")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=default_n_threads())
    parser.add_argument("--model", type=Path, help="a GGUF file instead of the default model")
    return parser.parse_args()


if __name__ == "__main__":
    main()
