"""The merge drafter: the drafts of several drafters in one tree."""

from __future__ import annotations

from collections.abc import Sequence

from pytreellama.draft.protocol import (
    EMPTY_TREE,
    Drafter,
    DrafterFactory,
    SharesPasses,
    Tokens,
    checked_n_nodes,
)
from pytreellama.draft.several import SeveralDrafters, SeveralFactories
from pytreellama.errors import DraftError
from pytreellama.tree import TokenTree
from pytreellama.tree.union import Union


class MergeDrafter(SeveralDrafters):
    """Proposes the most likely nodes of the union of its drafters' trees.

    A path that several drafters propose gets the larger of their probabilities: these are estimates
    of one event from the same text, not independent chances. Estimates of different drafters are
    compared with each other, so each should be calibrated.

    Source: SpecInfer (arXiv 2305.09781), which merges the drafts of several models into one tree.
    """

    __slots__ = ()

    name = "merge"

    def __init__(self, drafters: Sequence[Drafter]) -> None:
        if not drafters:
            raise DraftError("there is nothing to merge; give at least one drafter")
        super().__init__(drafters)

    def observe(self, tokens: Tokens) -> None:
        """Observe committed text, shape (n,)."""
        for drafter in self._drafters:
            drafter.observe(tokens)

    def announce(
        self, n_nodes: int, min_p: float | None = None, token_s: float | None = None
    ) -> None:
        """Announce a proposal to the drafters whose proposals share passes."""
        for drafter in self._drafters:
            if isinstance(drafter, SharesPasses):
                drafter.announce(n_nodes, min_p, token_s)

    def propose(self, n_nodes: int) -> TokenTree:
        """Propose a tree of at most ``n_nodes`` nodes; raises ``DraftError`` if ``n_nodes`` < 0."""
        checked_n_nodes(n_nodes)
        proposed = [drafter.propose(n_nodes) for drafter in self._drafters]
        spoken = [tree for tree in proposed if len(tree)]
        if len(spoken) < 2:
            return spoken[0] if spoken else EMPTY_TREE
        union = Union.of(spoken)
        p = _larger_of(union, spoken)
        return union.tree(union.by_p(p)[:n_nodes], p)


def _larger_of(union: Union, trees: Sequence[TokenTree]) -> list[float]:
    """Of each node, the largest path probability that a tree gives it."""
    largest = [0.0] * len(union)
    for tree, places in zip(trees, union.places, strict=True):
        assert tree.p is not None
        for node, p in zip(places, tree.p.tolist(), strict=True):
            largest[node] = max(largest[node], p)
    return largest


class Merge(SeveralFactories):
    """Factory of merge drafters. A list of drafters means the same.

    Example:
        engine = Engine(model, drafter=Merge(Suffix(), Recycling()))
        engine = Engine(model, drafter=["suffix", "recycling"])      # the same
    """

    def __init__(self, *factories: DrafterFactory) -> None:
        super().__init__(factories, "merge")

    def __call__(self) -> MergeDrafter:
        """Return a fresh drafter of fresh drafters."""
        return MergeDrafter(self._new_drafters())
