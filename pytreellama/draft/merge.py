"""The merge drafter: several drafters' guesses in one tree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
from pytreellama.tree.arrays import TRUNK

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
        return _likeliest(_union(spoken), n_nodes)

    def reset(self) -> None:
        """Forget the text."""
        for drafter in self._drafters:
            drafter.reset()


@dataclass(slots=True)
class _Union:
    """Nodes of several trees, equal paths made one; a parent comes before its children."""

    tokens: list[int]
    parents: list[int]
    depths: list[int]
    p: list[float]


def _union(trees: Sequence[TokenTree]) -> _Union:
    # One dictionary look-up a node; for so few it is sooner done than arrays are merged.
    union = _Union([], [], [], [])
    node_of: dict[tuple[int, int], int] = {}
    for tree in trees:
        assert tree.p is not None
        places: list[int] = []
        nodes = zip(tree.tokens.tolist(), tree.parents.tolist(), tree.p.tolist(), strict=True)
        for token, parent, p in nodes:
            above = places[parent] if parent >= 0 else parent
            node = node_of.setdefault((above, token), len(node_of))
            places.append(node)
            if node < len(union.p):
                union.p[node] = max(union.p[node], p)
                continue
            union.tokens.append(token)
            union.parents.append(above)
            union.depths.append(union.depths[above] + 1 if above >= 0 else 0)
            union.p.append(p)
    return union


def _likeliest(union: _Union, n_nodes: int) -> TokenTree:
    """The nodes of highest path probability, as `TokenTree.truncate` takes them."""
    p, depths = union.p, union.depths
    by_p = sorted(range(len(p)), key=lambda node: (-p[node], depths[node]))
    kept = sorted(by_p[:n_nodes])
    place = {node: i for i, node in enumerate(kept)}
    return TokenTree.from_grown(
        [union.tokens[node] for node in kept],
        [place.get(union.parents[node], TRUNK) for node in kept],
        [p[node] for node in kept],
    )


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
