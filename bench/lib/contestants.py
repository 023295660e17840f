"""The drafters of ``tree_or_chain.py``: what records, replays and runs each of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lib.proposals import CHAIN, TREE, Proposals, RecorderFactory, ReplayedDrafter, pass_name
from lib.shapes import Costs, Shape
from pytreellama import Model, draft
from pytreellama.draft import DrafterFactory, Medusa
from pytreellama.draft.calibration import Calibration
from pytreellama.draft.growth import Grow, Growth
from pytreellama.draft.level_cost import LevelCost
from pytreellama.draft.medusa import find_heads

TABLES: Mapping[str, Callable[[], DrafterFactory]] = {
    "suffix": draft.Suffix,
    "recycling": draft.Recycling,
}
SETS = (
    ("suffix",),
    ("recycling",),
    ("suffix", "recycling"),
    ("model",),
    ("medusa",),
    ("suffix", "recycling", "medusa"),
    ("eagle3",),
    ("suffix", "recycling", "eagle3"),
)
GROWN = {"model", "eagle3"}
N_LEVELS = 6  # of trees: the default of draft.Eagle3 and draft.Model
N_LEVELS_RECORDED = 8
TOP, WIDTH = 4, 4


def growth_of(shape: Shape | None) -> Growth:
    """How a draft model grows a shape; without one, the tree that a plan chooses from."""
    n_levels = N_LEVELS if shape is None else max(shape.n_levels, 1)
    grow: Grow = "chain" if shape is not None and shape.is_chain else "best"
    return Growth.of(grow, top=TOP, width=WIDTH, n_levels=n_levels, min_p=0.0)


@dataclass(frozen=True)
class Files:
    """Of drafters that have one; None for those to be left out."""

    model: Path | None
    eagle3: Path | None
    medusa: Path | None

    @classmethod
    def of(cls, target: Model, model: Path | None, eagle3: Path | None) -> Files:
        return cls(model, eagle3, find_heads(target))

    def has(self, name: str) -> bool:
        return name in TABLES or getattr(self, name) is not None

    def left_out(self) -> dict[str, str]:
        """Drafters that have no file, and how to give one."""
        hints = {
            "model": "give a file with --draft",
            "eagle3": "give a file with --eagle",
            "medusa": "there are no heads for this model",
        }
        return {name: hint for name, hint in hints.items() if not self.has(name)}

    def sets(self) -> list[tuple[str, ...]]:
        return [names for names in SETS if all(map(self.has, names))]

    def factory(self, name: str, growth: Growth, *, calibrate: bool = True) -> DrafterFactory:
        """What drafts in an engine."""
        if name in TABLES:
            return TABLES[name]()
        if name == "medusa":
            return Medusa(self.medusa, min_p=0.0, any_model=True)
        is_chain = growth.width == 1
        options: dict[str, Any] = {"top": TOP, "width": WIDTH, "n_levels": growth.n_levels}
        options |= {"grow": "chain" if is_chain else "best", "min_p": 0.0, "calibrate": calibrate}
        if name == "eagle3":
            return draft.Eagle3(self.eagle3, **options)
        assert self.model is not None
        return draft.Model(self.model, **options)

    def recorder(self) -> tuple[RecorderFactory, dict[str, dict[str, Proposals]]]:
        """Records all that cannot be replayed without their weights.

        Returns:
            With it the proposals to come, by drafter, as trees and as chains.
        """
        factories: list[DrafterFactory] = []
        books: dict[str, dict[str, Proposals]] = {}
        for name in ("model", "eagle3", "medusa"):
            if not self.has(name):
                continue
            books[name] = {}
            kinds = (TREE,) if name == "medusa" else (TREE, CHAIN)
            for kind in kinds:
                growth = growth_of(Shape(1, N_LEVELS_RECORDED, kind == CHAIN))
                factories.append(self.factory(name, growth, calibrate=False))
                books[name][kind] = Proposals(None if name == "medusa" else growth)
        every = [book for kinds in books.values() for book in kinds.values()]
        return RecorderFactory(factories, every), books


def pass_seconds(books: Mapping[str, Mapping[str, Proposals]]) -> dict[str, float]:
    """Of a pass, by ``pass_name``; of heads, of a proposal."""
    found: dict[str, float] = {}
    for name, kinds in books.items():
        tree_s = kinds[TREE].median_s
        if CHAIN in kinds:
            found[pass_name(name, CHAIN)] = first_s = kinds[CHAIN].median_s / N_LEVELS_RECORDED
            tree_s = (tree_s - first_s) / (N_LEVELS_RECORDED - 1)
        found[pass_name(name, TREE)] = tree_s
    return found


def replayed_factories(
    names: Sequence[str],
    shape: Shape | None,
    books: Mapping[str, Mapping[str, Proposals]],
    passes: Counter[str],
    costs: Costs,
) -> list[DrafterFactory]:
    """The drafters of a set for a replay, for a shape or a plan."""
    factories: list[DrafterFactory] = []
    for name in names:
        if name in TABLES:
            factories.append(TABLES[name]())
            continue
        kind = CHAIN if shape is not None and shape.is_chain and CHAIN in books[name] else TREE
        book = books[name][kind]
        growth = growth_of(shape) if book.growth else None
        learned = LevelCost(), costs.pass_s[pass_name(name, kind)], Calibration(TOP)
        factories.append(partial(ReplayedDrafter, name, kind, book, growth, passes, *learned))
    return factories
