"""Planned trees against fixed ones behind much text, on costs that were measured by depth.

    python bench/simulate_depth.py [--steps N] [--seeds N] [--json]

A step has guesses whose probabilities come from a rule for each kind of text; what it brings is
their sum, and what it takes is interpolated in tables of whole passes by nodes and depth, once with
an attention kernel that waits for memory and once with one that does not (the same machine, model
and cache; SmolLM2-135M, Q4_1, F16 cache, two threads). The planner knows neither rule nor table:
estimates are off by some noise, and its curve is what a short calibration would have measured, what
theory holds where there was no time to read a text, or what was kept from the other kernel.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lib.report import Figure, publish
from pytreellama.plan import Candidates, CostCurve, PassCost, Planner
from pytreellama.tree import TokenTree

SIZES = (1, 2, 4, 8, 16, 32)
FIXED = (0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 20, 24, 31)
DEPTHS = (64, 2048, 7000, 16_000)
# milliseconds of a pass over SIZES behind so many cells
KERNELS: dict[str, dict[int, tuple[float, ...]]] = {
    "waiting": {
        64: (4.09, 5.24, 7.14, 11.4, 20.6, 34.9),
        2048: (12.9, 15.0, 19.6, 28.9, 47.5, 87.4),
        7000: (35.9, 40.5, 51.2, 72.7, 117.0, 224.0),
    },
    "streaming": {
        64: (3.86, 5.07, 6.89, 11.2, 20.2, 34.3),
        2048: (6.6, 8.0, 11.7, 19.9, 35.9, 66.2),
        7000: (11.5, 14.7, 22.8, 40.6, 76.0, 147.0),
    },
}
STARTS = ("calibrated", "theory", "other kernel")
N_GUESSES = 32
DRAFTING_S = 0.0002


@dataclass(frozen=True)
class Machine:
    """Seconds of a pass by nodes and depth, between and beyond what was measured."""

    table: dict[int, tuple[float, ...]]

    def seconds(self, n_nodes: int, n_read: int) -> float:
        depths = list(self.table)
        at = [float(np.interp(n_nodes, SIZES, self.table[depth])) for depth in depths]
        i = 0 if n_read < depths[1] else 1
        slope = (at[i + 1] - at[i]) / (depths[i + 1] - depths[i])
        return max(at[i] + slope * (n_read - depths[i]), 0.5 * at[0]) / 1000

    def timed(self, n_nodes: int, n_read: int, rng: random.Random) -> PassCost:
        """As a clock would have it on a machine that does other things, too."""
        noise = rng.lognormvariate(0.0, 0.05)
        if rng.random() < 0.05:
            noise *= rng.uniform(1.5, 3.0)
        return PassCost(n_nodes, n_read, noise * self.seconds(n_nodes, n_read))


MACHINES = {name: Machine(table) for name, table in KERNELS.items()}


def started(name: str, start: str, rng: random.Random) -> CostCurve:
    """What a planner believes before its first step."""
    if start == "other kernel":
        (name,) = KERNELS.keys() - {name}
    machine = MACHINES[name]
    at = [(1, 32), (2, 32), (3, 32), (4, 32), (6, 32), (8, 32), (12, 32), (16, 32)]
    if start != "theory":
        at += [(1, 512), (4, 512), (8, 512), (16, 512), (32, 512)]
    return CostCurve.fit(machine.timed(n, depth, rng) for n, depth in at for _ in range(5))


# -- texts


def odds_of_repeating(rng: random.Random) -> float:
    return rng.uniform(0.9, 0.99)


def odds_of_new(rng: random.Random) -> float:
    return rng.uniform(0.05, 0.3)


def odds_of_mixed(rng: random.Random) -> float:
    return rng.choice((rng.uniform(0.05, 0.4), rng.uniform(0.3, 0.8), rng.uniform(0.85, 0.98)))


KINDS = {"repeating": odds_of_repeating, "new": odds_of_new, "mixed": odds_of_mixed}


def guesses_of(odds: float, rng: random.Random) -> tuple[Candidates, list[float]]:
    """A chain of guesses as it is rated, and how likely each path really is."""
    rated = 1.0 / (1.0 + math.exp(-(math.log(odds / (1.0 - odds)) + rng.gauss(0.0, 0.4))))
    candidates = Candidates.of([TokenTree.chain(range(N_GUESSES), [1.0] * N_GUESSES)])
    candidates.p = [rated ** (i + 1) for i in range(N_GUESSES)]
    candidates.p_token = [rated] * N_GUESSES
    return candidates, [odds ** (i + 1) for i in range(N_GUESSES)]


# -- speeds


@dataclass(frozen=True)
class Speeds:
    """Tokens a second, of plans, of plain steps, and of the best fixed size."""

    planned: float
    plain: float
    best: float
    best_size: int

    @property
    def of_best(self) -> float:
        return self.planned / self.best

    @property
    def of_plain(self) -> float:
        return self.planned / self.plain

    def __str__(self) -> str:
        return (
            f"{self.planned:.1f} tokens/s, {self.of_plain:.3f} of plain, {self.of_best:.3f} of "
            f"the best fixed size ({self.best_size})"
        )


def speeds(
    kernel: str, depth: int, kind: str, start: str, n_steps: int, seed: int, n_before: int = 0
) -> Speeds:
    """Over so many steps, behind some that teach and do not count.

    Plain steps and fixed sizes draft for nothing.
    """
    rng = random.Random(seed)
    machine, planner = MACHINES[kernel], Planner(started(kernel, start, rng))
    n_tokens = seconds = 0.0
    fixed = dict.fromkeys(FIXED, 0.0)
    for i in range(n_before + n_steps):
        candidates, p = guesses_of(KINDS[kind](rng), rng)
        (plan,) = planner.plan([candidates], [depth], DRAFTING_S)
        size = len(plan.nodes)
        planner.learn(machine.timed(1 + size, depth, rng))
        if i < n_before:
            continue
        n_tokens += 1 + sum(p[:size])
        seconds += machine.seconds(1 + size, depth)
        for n in FIXED:
            fixed[n] += 1 + sum(p[:n])
    rates = {n: tokens / n_steps / machine.seconds(1 + n, depth) for n, tokens in fixed.items()}
    best = max(rates, key=lambda n: rates[n])
    return Speeds(n_tokens / seconds, rates[0], rates[best], best)


def cases() -> Iterator[tuple[str, int, str, str]]:
    for kernel in KERNELS:
        for depth in DEPTHS:
            for kind in KINDS:
                for start in STARTS:
                    yield kernel, depth, kind, start


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    options = parser.parse_args(arguments)
    rows, figures = [], []
    for case in cases():
        found = [speeds(*case, options.steps, seed) for seed in range(options.seeds)]
        kernel, depth, kind, start = case
        name = f"{kernel} kernel, {depth} cells, {kind}, {start}"
        rows += [(name, one) for one in found[:1]]
        worst = min(one.of_best for one in found)
        figures.append(Figure.at_least(f"{name}: planned / best fixed", worst, 0.98))
        worst = min(one.of_plain for one in found)
        figures.append(Figure.at_least(f"{name}: planned / plain", worst, 0.98))
    publish("planned trees by depth, simulated", rows, figures, options.json)


if __name__ == "__main__":
    main()
