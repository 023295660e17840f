"""How far planned trees stay from the best possible, on the costs of other hardware too.

    python bench/simulate.py --record FILE [--questions FILE] [--tokens N] [--model FILE] [--json]
    python bench/simulate.py --replay FILE [--curves C ...] [--curve FILE] [--json]

A recording holds greedy answers of a model, and what it held likely along them and beside them. A
replay writes the answers again with the drafters and the planner as they are, and counts the
seconds that a machine with a given cost curve would have taken. Beside plans run trees of fixed
sizes, of the same guesses, and foresight: it knows which guesses come true, verifies those alone,
drafts for nothing, and lets drafters see what all guesses lead to. No planner comes near it.

A replay needs no model. What a recording lacks, because drafters or plans have changed since, is
left out of what drafters learn, and counted; with ``--model`` it is asked of the model, and added.
The drafter ``recycling`` needs the native build, ``suffix`` and ``ngram`` do not.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lib.questions import add_questions_option, load_questions
from lib.recording import LiveModel, Recording, Target
from lib.report import Figure, note, publish, shown
from policies import Drafted, DraftingCost, Fixed, Foresight, Planned, Policy, lone_root
from pytreellama.draft import DRAFTERS, AutoDrafter
from pytreellama.plan import CostCurve, PassCost
from pytreellama.tree import TokenTree

SIZES = (0, 1, 2, 4, 8, 16, 32)
N_ROWS_KEPT = 2000
N_TOKENS_JUDGED = 256  # what less of a kind comes to is chance
ALL = "all"

# Milliseconds of a plain step, and plain steps that a pass takes; docs/batch_cost.md has the first
# three, the others are made up: nothing but a launch, and nothing but arithmetic.
MACHINES: dict[str, tuple[float, dict[int, float]]] = {
    "Q4_1": (2.80, {1: 1, 2: 1.17, 4: 1.55, 8: 2.40, 16: 3.70, 64: 14.68}),
    "Q8_0": (4.06, {1: 1, 2: 1.16, 4: 1.46, 8: 1.92, 16: 2.86, 64: 9.83}),
    "F16": (10.56, {1: 1, 2: 1.09, 4: 1.26, 8: 1.76, 16: 2.65, 64: 7.92}),
    "gpu": (5.0, {1: 1, 64: 1.02, 128: 2.0}),
    "phone": (30.0, {1: 1, 2: 1.9, 4: 3.7, 64: 57.7}),
}


# -- replays


@dataclass
class Tally:
    """Sums over the steps of answers of one kind."""

    n_tokens: int = 0
    n_steps: int = 0
    n_drafted: int = 0
    seconds: float = 0.0
    judged: list[tuple[float, bool]] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        self.n_tokens += other.n_tokens
        self.n_steps += other.n_steps
        self.n_drafted += other.n_drafted
        self.seconds += other.seconds
        self.judged += other.judged

    @property
    def speed(self) -> float:
        return self.n_tokens / self.seconds

    @property
    def calibration_error(self) -> float:
        """Of tenths of what guesses were called, the mean distance from what came true."""
        if not self.judged:
            return 0.0
        called, came = (np.array(column) for column in zip(*self.judged, strict=True))
        tenth = np.minimum((called * 10).astype(int), 9)
        gaps = np.bincount(tenth, called - came, minlength=10)
        return float(np.abs(gaps).sum() / len(called))


Tallies = dict[str, Tally]


def replayed(target: Target, policy: Policy, curve: CostCurve) -> Tallies:
    """Write all answers again; what drafters learn of one they know in the next."""
    tallies: Tallies = defaultdict(Tally)
    for _ in replaying(target, policy, curve, tallies):
        target.keep(N_ROWS_KEPT)
    target.keep()
    return tallies


def replaying(target: Target, policy: Policy, curve: CostCurve, tallies: Tallies) -> Iterator[None]:
    """As ``replayed``, an answer at a time, so that policies can take turns at each."""
    for index, answer in enumerate(target.recording.answers):
        drafter = policy.begin()
        drafter.observe(answer.prompt)
        tally = Tally()
        while tally.n_tokens < len(answer.text):
            step(target, policy, curve, index, drafter, tally)
        drafter.reset()
        for name in (answer.category, ALL):
            tallies[name].add(tally)
        yield


def step(
    target: Target, policy: Policy, curve: CostCurve, index: int, drafter: AutoDrafter, tally: Tally
) -> None:
    answer, n_written = target.recording.answers[index], tally.n_tokens
    ahead = answer.text[n_written:]
    n_read = len(answer.prompt) + n_written - 1
    root = answer.text[n_written - 1] if n_written else answer.prompt[-1]
    is_last = n_written == target.recording.n_tokens - 1
    drafted = Drafted(lone_root(root)) if is_last else policy.drafted(root, n_read, ahead)
    n_accepted = accepted(drafted.tree, ahead)
    if drafted.candidates is not None:
        if drafter.n_top:
            tree, tokens, logits = target.rows(index, n_written, drafted.seen or drafted.tree)
            if len(tree):
                drafter.observe_pass(tree, tokens, logits)
        tally.judged += [
            (drafted.candidates.p_token[node], came_true)
            for node, came_true in drafted.candidates.outcomes(ahead[: n_accepted + 1])
        ]
    drafter.observe(ahead[: n_accepted + 1])
    pass_s = curve.seconds(len(drafted.tree), n_read)
    policy.learn(PassCost(len(drafted.tree), n_read, pass_s))
    tally.n_tokens += n_accepted + 1
    tally.n_steps += 1
    tally.n_drafted += len(drafted.tree) - 1
    tally.seconds += pass_s + drafted.seconds


def accepted(tree: TokenTree, ahead: Sequence[int]) -> int:
    """Guesses that the text goes on with; nothing is drawn behind its last token."""
    node, n_accepted = 0, 0
    for token in ahead[:-1]:
        child = tree.child(node, token)
        if child is None:
            break
        node, n_accepted = child, n_accepted + 1
    return n_accepted


# -- what is told


@dataclass(frozen=True)
class Told:
    """Answers of one kind on one machine; speeds are those of plain decoding.

    Attributes:
        guesses_a_step: that were verified.
        best_size: the fixed number of guesses that would have been the fastest.
        of_best_size: speed of planned trees in that of the best size.
    """

    speed: float
    tokens_a_step: float
    guesses_a_step: float
    calibration_error: float
    best_size: int
    of_best_size: float
    foresight: float

    def __str__(self) -> str:
        return (
            f"{self.speed:.2f} of plain; {self.tokens_a_step:.2f} tokens and "
            f"{self.guesses_a_step:.1f} guesses a step; calibration error "
            f"{self.calibration_error:.3f}; {self.of_best_size:.2f} of the best fixed size "
            f"({self.best_size}); foresight {self.foresight:.2f}"
        )


@dataclass(frozen=True)
class Outcome:
    """What all policies came to on one machine."""

    planned: Tallies
    fixed: dict[int, Tallies]
    foresight: Tallies

    @property
    def categories(self) -> list[str]:
        return [*sorted(self.planned.keys() - {ALL}), ALL]

    def speed(self, category: str) -> float:
        """Of planned trees, in plain decoding's."""
        return self.planned[category].speed / self.fixed[0][category].speed

    def best_size(self, category: str) -> int:
        return max(self.fixed, key=lambda size: self.fixed[size][category].speed)

    def of_best_fixed(self, category: str) -> float:
        best = self.fixed[self.best_size(category)][category]
        return self.planned[category].speed / best.speed

    def told(self, category: str) -> Told:
        planned, plain = self.planned[category], self.fixed[0][category]
        return Told(
            speed=planned.speed / plain.speed,
            tokens_a_step=planned.n_tokens / planned.n_steps,
            guesses_a_step=planned.n_drafted / planned.n_steps,
            calibration_error=planned.calibration_error,
            best_size=self.best_size(category),
            of_best_size=self.of_best_fixed(category),
            foresight=self.foresight[category].speed / plain.speed,
        )


def outcome(target: Target, curve: CostCurve, options: argparse.Namespace) -> Outcome:
    cost = DraftingCost(options.ask_ms / 1000, options.node_ms / 1000)
    return Outcome(
        replayed(target, Planned(options.drafters, curve, cost), curve),
        {n: replayed(target, Fixed(options.drafters, n, cost), curve) for n in options.sizes},
        replayed(target, Foresight(options.drafters, curve), curve),
    )


def figures_of(name: str, one: Outcome) -> Iterator[Figure]:
    yield Figure.at_least(f"{name}: planned / plain, all", one.speed(ALL), 1.0)
    judged = [c for c in one.categories if one.planned[c].n_tokens >= N_TOKENS_JUDGED]
    worst = min(judged or [ALL], key=one.speed)
    yield Figure.at_least(f"{name}: planned / plain, worst kind ({worst})", one.speed(worst), 0.98)
    yield Figure.at_least(f"{name}: planned / best fixed size", one.of_best_fixed(ALL), 0.95)
    error = one.planned[ALL].calibration_error
    yield Figure.at_most(f"{name}: calibration error", error, 0.05)


def curves_of(options: argparse.Namespace) -> dict[str, CostCurve]:
    found = {}
    for name in options.curves:
        plain_ms, steps = MACHINES[name]
        found[name] = CostCurve.fit(
            PassCost(n_nodes, 0, plain_ms / 1000 * n) for n_nodes, n in steps.items()
        )
    for path in options.curve:
        data = json.loads(path.read_text(encoding="utf-8"))
        found[path.stem] = CostCurve.from_dict(data.get("curve", data))
    return found


# -- the command


def main() -> None:
    options = parse_options()
    path = options.record or options.replay
    live = live_model(options)
    recording = recorded(path, live, options) if options.record else Recording.load(path)
    target = Target(recording, path, live)
    results = {}
    for name, curve in curves_of(options).items():
        note(f"{name}: {len(recording.answers)} answers with {len(options.sizes) + 2} policies")
        results[name] = outcome(target, curve, options)
    rows: list[tuple[str, Any]] = [
        (f"{name} {category}", one.told(category))
        for name, one in results.items()
        for category in one.categories
    ]
    publish(
        "planned trees on simulated machines",
        [*rows, ("rows that the recording lacked", f"{target.n_missing} of {target.n_asked}")],
        [figure for name, one in results.items() for figure in figures_of(name, one)],
        options.json,
        model=recording.model,
        answers=len(recording.answers),
        tokens=recording.n_tokens,
        drafters=list(options.drafters),
    )


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--record", type=Path, metavar="FILE", help="make or extend a recording")
    what.add_argument("--replay", type=Path, metavar="FILE", help="use a recording as it is")
    add_questions_option(parser)
    parser.add_argument("--tokens", type=int, default=64, help="most tokens of a recorded answer")
    parser.add_argument("--model", type=Path, help="a GGUF file; recorded is the default model")
    parser.add_argument(
        "--curves", nargs="*", choices=MACHINES, default=list(MACHINES), metavar="C"
    )
    parser.add_argument(
        "--curve", type=Path, nargs="*", default=[], help="more curves: files of measured costs"
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="of fixed trees")
    parser.add_argument("--ask-ms", type=float, default=0.05, help="of asking one drafter")
    parser.add_argument("--node-ms", type=float, default=0.01, help="of each guess found")
    parser.add_argument(
        "--drafters", nargs="+", choices=sorted(DRAFTERS), default=("suffix", "recycling")
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    options = parser.parse_args()
    options.sizes = sorted({0, *options.sizes})
    return options


def live_model(options: argparse.Namespace) -> LiveModel | None:
    if options.record is None and options.model is None:
        return None
    from pytreellama import Model
    from pytreellama.model.default_model import default_model_path

    return LiveModel(Model(options.model or default_model_path()))


def recorded(path: Path, live: LiveModel | None, options: argparse.Namespace) -> Recording:
    """The recording at a path with all questions answered; what it holds already is kept."""
    assert live is not None
    recording = Recording(live.model.path.name, options.tokens)
    if path.exists():
        recording = Recording.load(path)
        if (recording.model, recording.n_tokens) != (live.model.path.name, options.tokens):
            raise SystemExit(f"{path} records {recording.model}, {recording.n_tokens} tokens")
    questions = load_questions(options.questions)
    with shown("answers") as progress:
        for i, question in enumerate(questions):
            if i == len(recording.answers):
                recording.answers.append(live.answer(question, options.tokens))
                recording.save(path)
            progress((i + 1) / len(questions))
    return recording


if __name__ == "__main__":
    main()
