"""The table of ``tree_or_chain.py``: its rows, and a picture of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lib.report import Figure
from lib.shapes import Shape

PLANNED = "planned"
GOAL = 0.98  # of the best of all in hindsight


@dataclass(frozen=True)
class Speed:
    """What a way of drafting comes to.

    Attributes:
        times: speed, in plain decoding's.
        engine: the same in an engine, if it was run.
    """

    what: str
    tokens_a_step: float
    times: float
    engine: Speed | None = None

    def __str__(self) -> str:
        told = f"{self.what}: {self.times:.2f} of plain, {self.tokens_a_step:.2f} tokens a step"
        if self.engine is None:
            return told
        return f"{told} (engine: {self.engine.times:.2f}, {self.engine.tokens_a_step:.2f})"


@dataclass
class Row:
    """One set of drafters on one machine."""

    machine: str
    drafters: str
    chain: Speed
    tree: Speed
    planned: Speed
    shapes: tuple[Shape, Shape]
    by_shape: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.chain}\n{self.tree}\n{self.planned}"

    def figures(self) -> Iterator[Figure]:
        name = f"{self.machine}, {self.drafters}"
        best = max(self.chain.times, self.tree.times, 1.0)
        yield Figure.at_least(
            f"{name}: best tree / best chain", self.tree.times / self.chain.times, 1.0
        )
        yield Figure.at_least(f"{name}: planned / best of all", self.planned.times / best, GOAL)


def plot(rows: Sequence[Row], path: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    machines = list(dict.fromkeys(row.machine for row in rows))
    figure, axes = pyplot.subplots(
        1, len(machines), figsize=(3 + 2.2 * len(machines), 4), sharey=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    names = list(dict.fromkeys(row.drafters for row in rows))[::-1]
    for one, machine in zip(axes[0], machines, strict=True):
        own = [row for row in rows if row.machine == machine]
        places = [names.index(row.drafters) for row in own]
        for offset, kind, marker in ((0.2, "chain", "s"), (0.0, "tree", "^"), (-0.2, PLANNED, "o")):
            times = [getattr(row, kind).times for row in own]
            one.plot(times, [place + offset for place in places], marker, label=kind)
        one.axvline(1.0, color="grey", linewidth=0.8)
        one.set_title(machine)
        one.set_xlabel("times plain")
        one.grid(axis="x", alpha=0.3)
    axes[0][0].set_yticks(range(len(names)), names)
    axes[0][0].legend()
    figure.savefig(path)
