"""Tree or chain: each drafter's best chain and best tree in hindsight beside planned trees.

    python bench/tree_or_chain.py [--questions FILE] [--limit N] [--tokens N] [--types T ...]
                                  [--eagle FILE] [--draft FILE] [--repeats N] [--peers]
                                  [--no-large] [--plot FILE] [--model FILE] [--json]

What drafters propose at every token of greedy answers is recorded once. Replays count the tokens a
step of chains of 1 to 8 nodes, of trees of 2 to 32, and of plans; seconds are those of a machine
whose passes were measured: of the model in each type of weights, and of a larger one of random
weights, for which answers and guesses are the small model's. The best chain and the best tree, in
hindsight, and plans then run in engines, in turns with plain decoding (``--repeats 0``: not).

Plans are the engine's: they know no hindsight. With ``--peers``, llama.cpp's server answers the
same questions with its own ways to speculate, chains all of them, and with the same EAGLE-3 file.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import peers
from lib.chain_table import PLANNED, Row, Speed, plot
from lib.contestants import (
    GROWN,
    TABLES,
    Files,
    growth_of,
    pass_seconds,
    replayed_factories,
)
from lib.models import add_types_option, requantised
from lib.proposals import N_CTX, TREE, Proposals, pass_name, record
from lib.questions import add_answering_options, first_of_each, load_questions
from lib.random_models import dense_model, eagle3_model
from lib.recording import LiveModel, Recording, Target
from lib.report import note, publish, shown
from lib.shapes import TABLES as TABLE_COST
from lib.shapes import Costs, DraftingClock, Shape, Shaped, ShapedFactory
from policies import Planned, Policy
from pytreellama import Context, Engine, Model
from pytreellama.bench.results import Totals, in_turn
from pytreellama.draft import Auto, DrafterSpec
from pytreellama.engine.calibration import measured_curve
from pytreellama.engine.text_seen import TextSeen
from pytreellama.model.default_model import default_model_path
from simulate import ALL, Tallies, Tally, replaying

TYPES = ("Q4_1", "Q8_0", "F16")
LARGE = "larger"
CHAINS = (8, 6, 4, 3, 2, 1)
TREES = ((32, 6), (16, 6), (16, 4), (8, 4), (8, 2), (4, 2), (4, 1), (2, 1))
PLAIN = "plain"
N_COST_PROMPTS, N_COST_TOKENS = 2, 32
PEERS = ["llama-server", "llama-server:*"]

Books = dict[str, dict[str, Proposals]]


def main() -> None:
    options = parse_options()
    source = options.model or default_model_path()
    questions = load_questions(options.questions)
    if options.limit is not None:
        questions = first_of_each(questions, options.limit)
    rows: list[Row] = []
    with (
        Model(requantised(source, options.types[0])) as model,
        tempfile.TemporaryDirectory() as folder,
    ):
        files = Files.of(model, options.draft, options.eagle)
        target = recorded_answers(model, questions, options, Path(folder) / "rows.npz")
        books = recorded_drafts(model, files, target, options)
        costs = measured_costs(source, files, target, options)
        for names in files.sets():
            note(f"replaying {'+'.join(names)}")
            rows += replays(names, target, books, costs)
        missing = f"{target.n_missing} of {target.n_asked}"
    prompts = [answer.prompt for answer in target.recording.answers]
    for file_type in options.types if options.repeats else ():
        rows = with_engines(source, file_type, files, prompts, rows, options)
    told: list[tuple[str, Any]] = [(f"{row.machine}, {row.drafters}", row) for row in rows]
    told += [(name, f"left out: {why}") for name, why in files.left_out().items()]
    told += [("rows of recycling that were asked of the model", missing)]
    if options.peers:
        for file_type in options.types:
            told += [(r.name, r) for r in peers.compare(source, file_type, questions, options)]
    figures = [figure for row in rows for figure in row.figures()]
    publish("tree or chain", told, figures, options.json, **facts(options, source, questions))
    if options.plot:
        plot(rows, options.plot)


def facts(options: argparse.Namespace, source: Path, questions: Sequence[Any]) -> dict[str, Any]:
    return {
        "model": source.name,
        "questions": len(questions),
        "tokens": options.tokens,
        "repeats": options.repeats,
        "threads": options.threads,
        "eagle3": str(options.eagle and options.eagle.name),
    }


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_answering_options(parser)
    parser.set_defaults(tokens=64, repeats=1)
    add_types_option(parser, TYPES)
    parser.add_argument("--eagle", type=Path, metavar="FILE", help="an EAGLE-3 file of the model")
    parser.add_argument("--draft", type=Path, metavar="FILE", help="a draft model")
    parser.add_argument("--no-large", action="store_true", help="without the larger model's costs")
    parser.add_argument(
        "--peers", action="store_const", const=PEERS, default=[], help="llama-server as well"
    )
    parser.add_argument("--model", type=Path, help="a GGUF file instead of the default model")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="a picture of all rows")
    options = parser.parse_args()
    options.drafters = [f"eagle3={options.eagle}"] if options.eagle else []
    return options


# -- what is recorded and measured


def recorded_answers(
    model: Model, questions: Sequence[Any], options: argparse.Namespace, path: Path
) -> Target:
    """Greedy answers, in a target that knows the model's rows beside them."""
    live = LiveModel(model)
    recording = Recording(model.path.name, options.tokens)
    with shown("answers") as progress:
        for i, question in enumerate(questions):
            recording.answers.append(live.answer(question, options.tokens))
            progress((i + 1) / len(questions))
    return Target(recording, path, live)


def recorded_drafts(
    model: Model, files: Files, target: Target, options: argparse.Namespace
) -> Books:
    recorder, books = files.recorder()
    if books:
        prompts = [answer.prompt for answer in target.recording.answers]
        record(model, recorder, prompts, options.tokens, options.threads)
    return books


def measured_costs(
    source: Path, files: Files, target: Target, options: argparse.Namespace
) -> dict[str, Costs]:
    """Of each type of weights, and of the larger model."""
    prompts = [answer.prompt for answer in target.recording.answers[:N_COST_PROMPTS]]
    found = {
        file_type: costs_of(requantised(source, file_type), files, prompts, options.threads)
        for file_type in options.types
    }
    if not options.no_large:
        path = dense_model()
        own = Files(None, eagle3_model() if files.eagle3 else None, None)
        words = random.Random(1)
        prompts = [[words.randrange(300, 30_000) for _ in range(64)] for _ in prompts]
        found[LARGE] = costs_of(path, own, prompts, options.threads)
    return found


def costs_of(path: Path, files: Files, prompts: Sequence[Sequence[int]], n_threads: int) -> Costs:
    recorder, books = files.recorder()
    with Model(path) as model:
        with Context(model, n_ctx=N_CTX, n_threads=n_threads) as context:
            curve = measured_curve(context, share=TextSeen(context).share())
        if books:
            record(model, recorder, prompts, N_COST_TOKENS, n_threads)
    return Costs(curve, pass_seconds(books))


# -- replays


def replays(
    names: Sequence[str], target: Target, books: Books, costs: Mapping[str, Costs]
) -> Iterator[Row]:
    """A row for each machine that has the drafters."""
    needed = {pass_name(name, TREE) for name in names if name not in TABLES}
    costs = {machine: one for machine, one in costs.items() if needed <= one.pass_s.keys()}
    some = next(iter(costs.values()))  # shapes cost the same on all: nothing
    shapes = {shape: shaped(names, shape, books, some) for shape in shapes_of(names)}
    plans = {machine: planned(names, books, one) for machine, one in costs.items()}
    tallies = in_turns(
        target,
        [(policy, some) for policy in shapes.values()]
        + [(policy, costs[machine]) for machine, policy in plans.items()],
    )
    for (machine, one), plan in zip(costs.items(), tallies[len(shapes) :], strict=True):
        plain_s = plain_seconds(target, one)
        speeds = {
            shape: Speed(
                str(shape),
                plan.n_tokens / len(policy.steps),
                plain_s / sum(step.seconds(one) for step in policy.steps),
            )
            for shape, policy in shapes.items()
        }
        best = [
            max(
                (shape for shape in shapes if shape.is_chain == is_chain),
                key=lambda s: speeds[s].times,
            )
            for is_chain in (True, False)
        ]
        yield Row(
            machine,
            "+".join(names),
            chain=speeds[best[0]],
            tree=speeds[best[1]],
            planned=Speed(PLANNED, plan.n_tokens / plan.n_steps, plain_s / plan.seconds),
            shapes=(best[0], best[1]),
            by_shape={str(shape): round(speed.times, 4) for shape, speed in speeds.items()},
        )


def shapes_of(names: Sequence[str]) -> list[Shape]:
    """Large ones first: what their replays ask of the model is most of what others will."""
    trees = [Shape(*tree) for tree in TREES]
    if not GROWN & set(names):
        trees = [Shape(n, 0) for n in dict.fromkeys(n for n, _ in TREES)]
    return [*trees, *(Shape(n, n, is_chain=True) for n in CHAINS)]


def in_turns(target: Target, policies: Sequence[tuple[Policy, Costs]]) -> list[Tally]:
    """Replay all policies, an answer at a time: what one asks of the model the next ones know."""
    found: list[Tallies] = [defaultdict(Tally) for _ in policies]
    walks = [
        replaying(target, policy, one.curve, tallies)
        for (policy, one), tallies in zip(policies, found, strict=True)
    ]
    for _ in target.recording.answers:
        for walk in walks:
            next(walk)
    return [tallies[ALL] for tallies in found]


def shaped(names: Sequence[str], shape: Shape, books: Books, costs: Costs) -> Shaped:
    passes: Counter[str] = Counter()
    factories = replayed_factories(names, shape, books, passes, costs)
    return Shaped(ShapedFactory(factories, shape), sum(n in TABLES for n in names), passes)


def planned(names: Sequence[str], books: Books, costs: Costs) -> Planned:
    passes: Counter[str] = Counter()
    factories = replayed_factories(names, None, books, passes, costs)
    clock = DraftingClock(passes, costs.drafting_s)
    return Planned(Auto(*factories), costs.curve, TABLE_COST, clock)


def plain_seconds(target: Target, costs: Costs) -> float:
    return sum(
        costs.curve.seconds(1, len(answer.prompt) - 1 + i)
        for answer in target.recording.answers
        for i in range(len(answer.text))
    )


# -- engines


def with_engines(
    source: Path,
    file_type: str,
    files: Files,
    prompts: Sequence[list[int]],
    rows: Sequence[Row],
    options: argparse.Namespace,
) -> list[Row]:
    """The rows, with what engines measure where they are of this type of weights."""
    with Model(requantised(source, file_type)) as model:
        return [
            run(model, files, prompts, row, options) if row.machine == file_type else row
            for row in rows
        ]


def run(
    model: Model,
    files: Files,
    prompts: Sequence[list[int]],
    row: Row,
    options: argparse.Namespace,
) -> Row:
    """All prompts with plain decoding, the best shapes and plans, in turns."""
    note(f"engines: {row.machine}, {row.drafters}")
    names = row.drafters.split("+")
    runs: list[dict[str, Totals]] = []
    for _ in range(options.repeats):
        specs: dict[str, DrafterSpec] = {
            PLAIN: "none",
            **{str(shape): engine_drafter(files, names, shape) for shape in row.shapes},
            PLANNED: engine_drafter(files, names, None),
        }
        runs.append(answered(model, specs, prompts, options))
    chain, tree, plan = (
        replace(speed, engine=in_engines(speed.what, runs))
        for speed in (row.chain, row.tree, row.planned)
    )
    return replace(row, chain=chain, tree=tree, planned=plan)


def in_engines(what: str, runs: Sequence[Mapping[str, Totals]]) -> Speed:
    """Medians of all repeats."""
    times = [run[what].tokens_per_s / run[PLAIN].tokens_per_s for run in runs]
    tokens = [run[what].tokens_per_step for run in runs]
    return Speed(what, statistics.median(tokens), statistics.median(times))


def engine_drafter(files: Files, names: Sequence[str], shape: Shape | None) -> DrafterSpec:
    factories = [files.factory(name, growth_of(shape)) for name in names]
    return Auto(*factories) if shape is None else ShapedFactory(factories, shape)


def answered(
    model: Model,
    specs: Mapping[str, DrafterSpec],
    prompts: Sequence[list[int]],
    options: argparse.Namespace,
) -> dict[str, Totals]:
    totals = {name: Totals() for name in specs}
    sizes = {"n_ctx": N_CTX, "n_threads": options.threads}
    engines = {name: Engine(model, spec, **sizes) for name, spec in specs.items()}
    try:
        for engine in engines.values():
            engine.generate(
                "Once upon a time", max_tokens=16, temperature=0
            )  # costs are measured before
        for i, prompt in enumerate(prompts):
            for name in in_turn(tuple(specs), i):
                answer = engines[name].generate(prompt, max_tokens=options.tokens, temperature=0)
                totals[name].add(answer.stats)
    finally:
        for engine in engines.values():
            engine.close()
    return totals


if __name__ == "__main__":
    main()
