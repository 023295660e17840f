"""What of a step is not llama.cpp's pass: drafting, verifying, sampling, and the loop around them.

    python bench/overhead.py [--json] [--questions FILE] [--drafter D] [--tokens N] [--repeats N]
                             [--model FILE] [--profile]

Greedy answers; steps count once nobody reads a prompt any more and trees are full, or nearly.
Medians over repeats.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib.questions import Question, add_questions_option, load_questions
from lib.report import Figure, Spread, note, publish
from pytreellama import Context, Engine, Model, draft
from pytreellama.draft import make_drafter
from pytreellama.engine.jobs import GenerateJob
from pytreellama.engine.request import Request
from pytreellama.engine.scheduler import Scheduler
from pytreellama.testing.pass_times import timed_passes

N_CTX = 1024  # for each job
N_PROMPT = 256
FULL = 0.9  # of the nodes that were asked for; all of many trees are seldom full
SIZES = ((1, 32, 0.05), (16, 8, 0.08))  # sequences, drafted nodes, goal


@dataclass
class Times:
    """Seconds of the steps that count."""

    step_s: list[float] = field(default_factory=list)
    pass_s: list[float] = field(default_factory=list)
    draft_s: float = 0.0
    verify_s: float = 0.0
    n_nodes: int = 0

    @property
    def share(self) -> float:
        if not self.step_s:
            raise SystemExit("no tree was full; ask for more tokens")
        return 1 - sum(self.pass_s) / sum(self.step_s)

    def __str__(self) -> str:
        n, total = len(self.step_s), sum(self.step_s)
        outside = total - sum(self.pass_s)
        rest = outside - self.draft_s - self.verify_s
        parts = {"drafting": self.draft_s, "verifying": self.verify_s, "the rest": rest}
        told = ", ".join(f"{name} {1e3 * s / n:.2f} ms" for name, s in parts.items())
        return f"{1e3 * total / n:.2f} ms a step of {self.n_nodes / n:.1f} nodes; {told}"


def main() -> None:
    options = parse_options()
    questions = load_questions(options.questions)
    rows: list[tuple[str, Any]] = []
    figures: list[Figure] = []
    with Model(options.model) if options.model else Model.default() as model:
        for n_seqs, n_nodes, goal in SIZES:
            name = f"{n_seqs} x {n_nodes} nodes"
            runs = []
            for i in range(options.repeats):
                note(f"{name}: repeat {i + 1} of {options.repeats}")
                with profiled(options.profile and i == options.repeats - 1, name):
                    runs.append(measure(model, questions, n_seqs, n_nodes, options))
            shares = [run.share for run in runs]
            rows += [(f"{name}: share", Spread.of(shares)), (f"{name}: last run", str(runs[-1]))]
            figures.append(Figure.at_most(f"{name}: share", statistics.median(shares), goal))
    publish("outside llama.cpp's pass", rows, figures, options.json, drafter=options.drafter)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    add_questions_option(parser)
    parser.add_argument("--drafter", default="suffix+recycling", metavar="D")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--model", type=Path, help="a GGUF file; by default the default model")
    parser.add_argument("--profile", action="store_true", help="tell where the time goes")
    return parser.parse_args()


def measure(
    model: Model, questions: list[Question], n_seqs: int, n_nodes: int, options: argparse.Namespace
) -> Times:
    factory = draft.drafter_factory(options.drafter)
    with Context(model, n_ctx=n_seqs * N_CTX, n_seq_max=n_seqs) as context:
        scheduler = Scheduler(context, n_nodes)
        jobs = [
            GenerateJob(
                Request(prompt, options.tokens, ignore_eos=True), model.vocab, make_drafter(factory)
            )
            for prompt in prompts(model, questions, n_seqs)
        ]
        for job in jobs:
            scheduler.add(job)
        while any(not job.output.tokens for job in jobs):
            scheduler.step()
        return time_steps(scheduler, jobs, n_nodes)


def prompts(model: Model, questions: list[Question], n_seqs: int) -> list[NDArray[np.int32]]:
    with Engine(model, "none", n_ctx=64) as engine:
        asked = [questions[i % len(questions)].messages for i in range(n_seqs)]
        return [np.array(engine.encode_prompt(messages)[:N_PROMPT], np.int32) for messages in asked]


def time_steps(scheduler: Scheduler, jobs: list[GenerateJob], n_nodes: int) -> Times:
    """As long as all write."""
    times = Times()
    with timed_passes() as passes:
        while not any(job.is_finished for job in jobs):
            before = [(s.stats.draft_s, s.stats.verify_s) for s in jobs]
            passes.clear()
            started_s = time.perf_counter()
            scheduler.step()
            spent_s = time.perf_counter() - started_s
            sizes = [job.stats.tree_sizes[-1] for job in jobs]
            n_full = len(jobs) * (n_nodes + 1)
            if any(job.is_finished for job in jobs) or sum(sizes) < FULL * n_full:
                continue
            times.step_s.append(spent_s)
            times.pass_s.append(sum(passes))
            times.n_nodes += sum(sizes)
            for job, (draft_s, verify_s) in zip(jobs, before, strict=True):
                times.draft_s += job.stats.draft_s - draft_s
                times.verify_s += job.stats.verify_s - verify_s
    return times


@contextmanager
def profiled(is_on: bool, name: str) -> Iterator[None]:
    if not is_on:
        yield
        return
    profile = cProfile.Profile()
    with profile:
        yield
    print(f"profile of {name}", file=sys.stderr)
    pstats.Stats(profile, stream=sys.stderr).sort_stats("tottime").print_stats(25)


if __name__ == "__main__":
    main()
