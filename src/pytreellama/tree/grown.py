"""Grown: a tree as a drafter grew it, before it is put in order."""

from __future__ import annotations

from typing import NamedTuple

from pytreellama.tree.token_tree import TokenTree


class Grown(NamedTuple):
    """Nodes in lists, each after its parent: for a few of them sooner made and read than arrays.

    tokens, parents: of each node; a parent is the index of an earlier node, or -1.
    p: the path probability of each.
    """

    tokens: list[int]
    parents: list[int]
    p: list[float]

    def tree(self) -> TokenTree:
        """The same in order; raises TreeError as `TokenTree.from_grown`."""
        return TokenTree.from_grown(*self)


NOTHING = Grown([], [], [])
"""No node at all."""
