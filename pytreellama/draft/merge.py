"""The merge drafter: several drafters' guesses in one tree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pytreellama.draft.protocol import (
    EMPTY_TREE,
    Drafter,
    DrafterFactory,
    Float32Array,
    Int32Array,
    NeedsTarget,
    PassObserver,
    Tokens,
    checked_n_nodes,
)
from pytreellama.errors import DraftError
from pytreellama.tree import TokenTree
from pytreellama.tree.union import Union

if TYPE_CHECKING:
    from pytreellama.core.model import Model


class MergeDrafter:
    """Proposes the likeliest nodes of the union of what its drafters propose.

    A path that several propose has the larger of their probabilities: they are opinions about one
    event, formed from the same text, so they are not independent chances. Estimates of different
    drafters are compared with each other, so each should be calibrated.

    Source: SpecInfer (arXiv 2305.09781), which merges the drafts of several models into one tree.
    """

    __slots__ = ("_drafters", "_observers")

    name = "merge"

    def __init__(self, drafters: Sequence[Drafter]) -> None:
        if not drafters:
            raise DraftError("there is nothing to merge; give at least one drafter")
        self._drafters = list(drafters)
        self._observers = [drafter for drafter in drafters if isinstance(drafter, PassObserver)]

    @property
    def n_top(self) -> int:
        """What the most curious of its drafters wants, 0 if none looks at passes."""
        return max((observer.n_top for observer in self._observers), default=0)

    def observe_pass(self, tree: TokenTree, tokens: Int32Array, logits: Float32Array) -> None:
        """See PassObserver."""
        for observer in self._observers:
            observer.observe_pass(tree, tokens, logits)

    def observe(self, tokens: Tokens) -> None:
        """Hear committed text, shape (n,); see Drafter."""
        for drafter in self._drafters:
            drafter.observe(tokens)

    def propose(self, n_nodes: int) -> TokenTree:
        """Guess what follows, in at most `n_nodes` nodes; see Drafter. Raises DraftError if < 0."""
        checked_n_nodes(n_nodes)
        proposed = [drafter.propose(n_nodes) for drafter in self._drafters]
        spoken = [tree for tree in proposed if len(tree)]
        if len(spoken) < 2:
            return spoken[0] if spoken else EMPTY_TREE
        union = Union.of(spoken)
        p = _larger_of(union, spoken)
        return union.tree(union.by_p(p)[:n_nodes], p)

    def reset(self) -> None:
        """Forget the text."""
        for drafter in self._drafters:
            drafter.reset()


def _larger_of(union: Union, trees: Sequence[TokenTree]) -> list[float]:
    """Of each node, the largest path probability that a tree gives it."""
    largest = [0.0] * len(union)
    for tree, places in zip(trees, union.places, strict=True):
        assert tree.p is not None
        for node, p in zip(places, tree.p.tolist(), strict=True):
            largest[node] = max(largest[node], p)
    return largest


class Merge:
    """Makes merge drafters: `Engine(model, drafter=Merge(Suffix(), Recycling()))`.

    A list of drafters is the same: `Engine(model, drafter=["suffix", "recycling"])`.
    """

    def __init__(self, *factories: DrafterFactory) -> None:
        if not factories:
            raise DraftError("there is nothing to merge; give at least one drafter")
        self._factories = factories

    def prepare(self, model: Model) -> None:
        """See NeedsTarget."""
        for factory in self._factories:
            if isinstance(factory, NeedsTarget):
                factory.prepare(model)

    def __call__(self) -> MergeDrafter:
        """Return a fresh drafter of fresh drafters."""
        return MergeDrafter([factory() for factory in self._factories])
