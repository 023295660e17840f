"""Candidates: the draft nodes that several drafters propose for one text, as one set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pytreellama.errors import DraftError
from pytreellama.tree import TokenTree
from pytreellama.tree.chains import likeliest_chain
from pytreellama.tree.grown import Grown
from pytreellama.tree.union import Union

View = tuple[int, int, float]
"""A drafter's index, the rank among siblings that it gave a node, and its conditional p."""


@dataclass(slots=True)
class Candidates:
    """The union of the drafters' trees, with each drafter's estimate for each node.

    A drafter's estimate for a node is the probability of its token if its parent is accepted.

    Attributes:
        union: all nodes, parents first.
        views: of each node, its drafters with their ranks and estimates.
        p_token: of each node, the estimated probability of its token given its parent.
        p: of each node, the estimated probability of its whole path. ``Acceptance`` fills in
            both.
        names: names of the drafters.
    """

    union: Union
    views: list[list[View]]
    p_token: list[float] = field(default_factory=list)
    p: list[float] = field(default_factory=list)
    names: tuple[str, ...] = ()
    kinds: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, trees: Sequence[TokenTree], names: Sequence[str] = ()) -> Candidates:
        """The candidates of one tree per drafter; a tree may be empty.

        Raises ``DraftError`` for a tree without probabilities, which a planner cannot weigh.
        """
        return cls.of_grown([grown(tree, f"drafter {i}") for i, tree in enumerate(trees)], names)

    @classmethod
    def of_grown(cls, trees: Sequence[Grown], names: Sequence[str] = ()) -> Candidates:
        """The candidates of one unsorted tree per drafter."""
        union = Union.of_nodes((tokens, parents) for tokens, parents, _ in trees)
        views: list[list[View]] = [[] for _ in range(len(union))]
        for drafter, ((_, parents, p), places) in enumerate(zip(trees, union.places, strict=True)):
            n_siblings = [0] * (len(p) + 1)
            for place, parent, p_path in zip(places, parents, p, strict=True):
                above = p[parent] if parent >= 0 else 1.0
                rank = n_siblings[parent]
                n_siblings[parent] = rank + 1
                views[place].append((drafter, rank, p_path / above if above > 0.0 else 0.0))
        return cls(union, views, names=tuple(names or map(str, range(len(trees)))))

    def __len__(self) -> int:
        return len(self.views)

    def by_p(self) -> list[int]:
        """Nodes in falling order of path probability: a parent before its children."""
        return self.union.by_p(self.p)

    def likeliest_chain(self, n_max: int) -> list[int]:
        """The path from a root on which most accepted tokens are expected; see ``tree.chains``."""
        return likeliest_chain(self.union.parents, self.p, n_max)

    def tree(self, nodes: Sequence[int], root: int | None = None) -> TokenTree:
        """The tree of some nodes, whose parents must be among them; below a root, if given."""
        return self.union.tree(nodes, self.p, root)

    def path(self, went_on: Sequence[int]) -> list[int]:
        """The nodes of the accepted path if the text continues with these tokens."""
        found: list[int] = []
        parent = -1
        for token in went_on:
            node = self.union.node_of.get((parent, token))
            if node is None:
                break
            found.append(node)
            parent = node
        return found

    def names_of(self, node: int) -> tuple[str, ...]:
        """Names of the drafters that proposed a node."""
        return tuple(self.names[drafter] for drafter, _, _ in self.views[node])

    def outcomes(self, went_on: Sequence[int]) -> list[tuple[int, bool]]:
        """Roots and nodes with an accepted parent, and whether each was accepted.

        The text continued with the tokens ``went_on``.
        """
        actual = dict(zip((-1, *self.path(went_on)), went_on, strict=False))
        tokens = self.union.tokens
        return [
            (node, tokens[node] == actual[parent])
            for node, parent in enumerate(self.union.parents)
            if parent in actual
        ]


def grown(tree: TokenTree, whose: str) -> Grown:
    """A proposed tree's nodes in lists. Raises ``DraftError`` for a tree without probabilities."""
    if tree.p is None:
        raise DraftError(
            f"{whose} proposed {len(tree)} nodes without probabilities, which cannot be weighed; "
            "give each node's p, or use it without Auto"
        )
    return Grown(tree.tokens.tolist(), tree.parents.tolist(), tree.p.tolist())
