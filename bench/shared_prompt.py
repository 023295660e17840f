"""What a step of many sequences takes behind one prompt that they share, and behind one each.

    python bench/shared_prompt.py [--json] [--prompts N ...] [--sequences N] [--own N]
                                  [--nodes N ...] [--repeats N] [--threads N] [--model FILE]

Each step is one pass over a tree of every sequence, which is discarded afterwards. Shared and not
shared take turns; milliseconds are those of the process's CPU time divided by the threads, so that
other work on the machine counts little.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lib.report import Figure, Spread, note, publish
from pytreellama import Batch, Context, Model, TokenTree
from pytreellama.context.params import default_n_threads

LEAST_GAIN = {2048: 1.3, 6000: 1.5}  # of a step over one node each, at 16 sequences: what was seen


@dataclass(frozen=True)
class Case:
    """Steps behind one prompt, over trees of one size."""

    n_prompt: int
    n_nodes: int
    shared_ms: Spread
    apart_ms: Spread

    @property
    def gain(self) -> float:
        return self.apart_ms.median / self.shared_ms.median

    def rows(self) -> list[tuple[str, Any]]:
        name = f"{self.n_prompt} tokens, {self.n_nodes} nodes each"
        return [(f"{name}: shared, ms", self.shared_ms), (f"{name}: apart, ms", self.apart_ms)]


class Sequences:
    """Some sequences of one context behind equal prompts."""

    def __init__(self, model: Model, n_prompt: int, shares: bool, options: argparse.Namespace):
        n, n_own = options.sequences, options.own
        n_prompts = 1 if shares else n
        n_ctx = n_prompts * n_prompt + n * (n_own + max(options.nodes)) + 1024
        self.rng = np.random.default_rng(0)
        self.n_seqs, self.n_threads = n, options.threads
        self.context = Context(model, n_ctx=n_ctx, n_seq_max=n, n_threads=options.threads)
        prompt = self.tokens(n_prompt)
        for seq in range(n):
            if shares and seq > 0:
                self.context.memory.cp(0, seq, 0, n_prompt)
            else:
                self.context.prefill(prompt, seq)
        for seq in range(n):
            self.context.prefill(self.tokens(n_own), seq)

    def tokens(self, n: int) -> np.ndarray:
        high = min(self.n_vocab, 40_000)
        return self.rng.integers(3, high, n).astype(np.int32)

    @property
    def n_vocab(self) -> int:
        return self.context.n_vocab

    def step_ms(self, n_nodes: int) -> float:
        parents = [(node - 1) // 2 if node else -1 for node in range(n_nodes)]
        batch = Batch(self.n_seqs * n_nodes)
        for seq in range(self.n_seqs):
            tokens = 3 + self.rng.choice(1000, n_nodes, replace=False)
            self.context.place(batch, seq, TokenTree.from_parents(tokens, parents))
        started_s = time.process_time()
        self.context.decode(batch)
        spent_s = time.process_time() - started_s
        for seq in range(self.n_seqs):
            self.context.discard(seq)
        return float(1000 * spent_s / self.n_threads)


def cases(model: Model, options: argparse.Namespace) -> list[Case]:
    found = []
    for n_prompt in options.prompts:
        note(f"{options.sequences} sequences behind {n_prompt} tokens")
        shared, apart = (Sequences(model, n_prompt, shares, options) for shares in (True, False))
        for n_nodes in options.nodes:
            times: dict[Sequences, list[float]] = {shared: [], apart: []}
            for _ in range(options.repeats):
                for sequences, ms in times.items():
                    ms.append(sequences.step_ms(n_nodes))
            found.append(Case(n_prompt, n_nodes, *(Spread.of(ms) for ms in times.values())))
        shared.context.close()
        apart.context.close()
    return found


def figures_of(found: list[Case]) -> list[Figure]:
    return [
        Figure.at_least(f"{one.n_prompt} tokens: gain of sharing", one.gain, goal)
        for one in found
        if one.n_nodes == 1 and (goal := LEAST_GAIN.get(one.n_prompt)) is not None
    ]


def main() -> None:
    options = parse_options()
    with Model(options.model) if options.model else Model.default() as model:
        found = cases(model, options)
        name = model.path.name
    rows = [row for one in found for row in one.rows()]
    facts = {"model": name, "threads": options.threads, "sequences": options.sequences}
    publish("shared prompt", rows, figures_of(found), options.json, **facts)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    parser.add_argument("--prompts", type=int, nargs="+", default=(2048, 6000), metavar="N")
    parser.add_argument("--sequences", type=int, default=16)
    parser.add_argument("--own", type=int, default=40, help="tokens of each behind the prompt")
    parser.add_argument("--nodes", type=int, nargs="+", default=(1, 4), metavar="N")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=default_n_threads())
    parser.add_argument("--model", type=Path, help="a GGUF file instead of the default model")
    return parser.parse_args()


if __name__ == "__main__":
    main()
