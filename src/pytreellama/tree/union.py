"""Union: the nodes of several trees, equal paths made one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from pytreellama.tree.arrays import TRUNK
from pytreellama.tree.token_tree import TokenTree


@dataclass(slots=True)
class Union:
    """Nodes of several trees; a parent comes before its children.

    Made of lists: a drafter's trees have some tens of nodes, and one dictionary look-up a node is
    sooner done than arrays are merged.

    Attributes:
        tokens, parents, depths: of each node; the parent of a root is -1.
        places: of each tree, where its nodes are.
        node_of: a node by its parent and token.
    """

    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    places: list[list[int]] = field(default_factory=list)
    node_of: dict[tuple[int, int], int] = field(default_factory=dict)

    @classmethod
    def of(cls, trees: Sequence[TokenTree]) -> Union:
        """The union of trees; nodes of the first come first, as it has them."""
        return cls.of_nodes((tree.tokens.tolist(), tree.parents.tolist()) for tree in trees)

    @classmethod
    def of_nodes(cls, trees: Iterable[tuple[list[int], list[int]]]) -> Union:
        """The same of tokens and parents, each parent before its children."""
        union = cls()
        for tokens, parents in trees:
            union.places.append(union._add(tokens, parents))
        return union

    def _add(self, tokens: list[int], parents: list[int]) -> list[int]:
        node_of, depths = self.node_of, self.depths
        places: list[int] = []
        for token, parent in zip(tokens, parents, strict=True):
            above = places[parent] if parent >= 0 else TRUNK
            n_known = len(depths)
            node = node_of.setdefault((above, token), n_known)
            places.append(node)
            if node == n_known:
                self.tokens.append(token)
                self.parents.append(above)
                depths.append(depths[above] + 1 if above >= 0 else 0)
        return places

    def __len__(self) -> int:
        return len(self.tokens)

    def by_p(self, p: Sequence[float]) -> list[int]:
        """Nodes in falling order of path probability, of equal ones the shallower first."""
        depths = self.depths
        return sorted(range(len(p)), key=lambda node: (-p[node], depths[node]))

    def tree(self, nodes: Sequence[int], p: Sequence[float], root: int | None = None) -> TokenTree:
        """The tree of some nodes, whose parents must be among them. Raises TreeError otherwise.

        p: path probabilities of all nodes of the union.
        root: a token to hang them below, as `TokenTree.with_root` does.
        """
        kept = sorted(nodes)
        tokens, parents, p_kept = [], [], []
        place = {TRUNK: TRUNK}
        if root is not None:
            tokens, parents, p_kept = [root], [TRUNK], [1.0]
            place[TRUNK] = 0
        for node in kept:
            place[node] = len(tokens)
            tokens.append(self.tokens[node])
            parents.append(place.get(self.parents[node], len(tokens)))
            p_kept.append(p[node])
        return TokenTree.from_grown(tokens, parents, p_kept)
