"""Lockstep: trees that grow together, one pass a level for all of them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from pytreellama.draft.growth import Level
from pytreellama.draft.protocol import EMPTY_TREE
from pytreellama.tree import TokenTree

Growing: TypeAlias = Generator[Level, list[int], TokenTree]
"""A tree that grows; see ``growth.growing``."""


@dataclass(eq=False, slots=True, kw_only=True)
class TreeAsk:
    """A tree that is wanted.

    Attributes:
        token_s: seconds that an accepted token saves: levels that cost more are left out.
        tree: once it has grown.
    """

    token_s: float | None = None
    tree: TokenTree | None = None


def in_lockstep(
    trees: Sequence[Growing],
    add: Callable[[Sequence[Level | None]], Sequence[list[int]] | None],
) -> list[TokenTree]:
    """The trees, once all have grown.

    Args:
        add: runs a level of each tree that grows on, None for the others; returns the names of
            the new nodes of each, or None if there is no room, which ends all of them.
    """
    grown = [EMPTY_TREE] * len(trees)

    def advance(i: int, names: list[int] | None) -> Level | None:
        try:
            return trees[i].send(names)  # type: ignore[arg-type]  # None begins
        except StopIteration as end:
            grown[i] = end.value
            return None

    levels = [advance(i, None) for i in range(len(trees))]
    while any(level is not None for level in levels):
        names = add(levels) or [[] for _ in trees]
        levels = [None if level is None else advance(i, names[i]) for i, level in enumerate(levels)]
    return grown
