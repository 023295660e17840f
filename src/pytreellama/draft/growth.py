"""Tree growth: which draft nodes are expanded, level by level."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal, NamedTuple, Protocol, TypeAlias

from pytreellama.draft.options import require_at_least_1, require_probability
from pytreellama.draft.protocol import EMPTY_TREE
from pytreellama.errors import DraftError, did_you_mean, shown
from pytreellama.tree import TokenTree

Grow: TypeAlias = Literal["best", "chain"] | Sequence[int]
"""How a tree grows: best-first, as a chain, or with so many children a node on each level."""

MAX_GROWTH = 1024
"""Children of a node, and levels, at most; a context takes no larger tree."""

TRUNK = -1
"""Instead of a node: the end of the text."""


Row: TypeAlias = tuple[list[int], list[float]]
"""Top tokens after one node, most likely first, and their probabilities; 0 for no token."""


class Foresight(Protocol):
    """The draft nodes below a text's end, and the top tokens after each of them."""

    def children(self, node: int) -> Row:
        """Top tokens after a node (or ``TRUNK``), given its path."""
        ...

    def add(self, tokens: Sequence[int], parents: Sequence[int]) -> list[int]:
        """Add tokens below earlier nodes (or ``TRUNK``) in one pass; [] if there is no room."""
        ...


Belief: TypeAlias = Callable[[list[float]], list[float]]
"""Calibrates the probabilities of a node's children; their sum is at most 1."""


@dataclass(frozen=True, slots=True)
class Growth:
    """Limits of a tree's depth and width."""

    n_children: tuple[int, ...]
    """Maximum number of children per node, by depth; its length is the number of levels."""
    width: int | None
    """Maximum number of nodes expanded per level; None for no limit."""
    min_p: float
    """Nodes whose path probability is lower are not proposed."""

    @classmethod
    def of(cls, grow: Grow, *, top: int, width: int, n_levels: int, min_p: float) -> Growth:
        """The growth that these options ask for; raises DraftError if one is out of range.

        top, width, n_levels: for "best", children a node, nodes followed up a level, levels; all
        >= 1. "chain" takes `n_levels` alone; numbers of children, all >= 1, speak for themselves.
        min_p: in [0, 1].
        """
        require_at_least_1(top=top, width=width, n_levels=n_levels)
        for name, value in (("top", top), ("n_levels", n_levels)):
            if value > MAX_GROWTH:
                raise DraftError(f"invalid {name}={shown(value)}: expected at most {MAX_GROWTH}")
        require_probability(min_p=min_p)
        if grow == "best":
            return cls((top,) * n_levels, width, min_p)
        if grow == "chain":
            return cls((1,) * n_levels, 1, min_p)
        return cls(_checked_shape(grow), None, min_p)

    @property
    def n_levels(self) -> int:
        """Levels of the largest tree."""
        return len(self.n_children)

    @property
    def n_top(self) -> int:
        """Number of top tokens needed per node."""
        return max(self.n_children)

    def as_chain(self) -> Growth:
        """The chain of as many levels."""
        return Growth((1,) * self.n_levels, 1, self.min_p)

    def limited(self, n_levels: int) -> Growth:
        """The same with at most `n_levels` levels; at least one."""
        return Growth(self.n_children[:n_levels], self.width, self.min_p)


class Level(NamedTuple):
    """Nodes of one level that are to be added.

    tokens, parents: of each node.
    n_expected: the sum of their path probabilities, each less ``min_p``: its children together
        cannot exceed a node's, and one of them must reach ``min_p`` to be of use.
    share: of the path probabilities of the level before, what its children have.
    """

    tokens: list[int]
    parents: list[int]
    n_expected: float
    share: float = 1.0


def grow_tree(foresight: Foresight, growth: Growth, n_nodes: int, belief: Belief) -> TokenTree:
    """The tree of ``growing``, whose levels ``foresight`` adds."""
    steps = growing(foresight.children, growth, n_nodes, belief)
    try:
        level = next(steps)
        while True:
            level = steps.send(foresight.add(level.tokens, level.parents))
    except StopIteration as end:
        tree: TokenTree = end.value
        return tree


def growing(
    children: Callable[[int], Row], growth: Growth, n_nodes: int, belief: Belief
) -> Generator[Level, list[int], TokenTree]:
    """The `n_nodes` (>= 1) likeliest nodes of the tree that grows below a text.

    Each level takes up the `growth.width` likeliest nodes that were not taken up yet; a child's
    path probability is its parent's times its own. Only nodes among the `n_nodes` likeliest so far
    are taken up: below others nothing can get in, because a path probability never rises with
    depth. It ends after `growth.n_levels` levels, or when no node is left to take up. Of equal
    probabilities the earlier counts as the likelier.

    Unlike the sources, a node that was passed over may be taken up on a later level, if it is then
    among the likeliest. Source: EAGLE-2 (arXiv 2406.16858) and OPT-Tree (arXiv 2406.17276); fixed
    numbers of children: SpecInfer (arXiv 2305.09781).

    Args:
        children: top tokens after a node (or ``TRUNK``).

    Yields:
        Each level; send the names of its nodes, or [] if there is no room for them. So one pass
        can add the levels of several trees.
    """
    best = _likeliest(_children([_END_OF_TEXT], children, growth, belief), n_nodes)
    share = _sum_of_p(best)
    for _level in range(1, growth.n_levels):
        taken = _to_take_up(best, growth, n_nodes)
        if not taken:
            break
        parents = [_node(candidate.parent) for candidate in taken if candidate.parent is not None]
        n_parents = _sum_of_p(taken)
        n_expected = n_parents - len(taken) * growth.min_p
        nodes = yield Level([candidate.token for candidate in taken], parents, n_expected, share)
        if not nodes:
            break
        for candidate, node in zip(taken, nodes, strict=True):
            candidate.node = node
        found = _children(taken, children, growth, belief)
        share = _sum_of_p(found) / n_parents
        best = _likeliest(best + found, n_nodes)
    return _as_tree(best)


@dataclass(slots=True, eq=False)
class _Candidate:
    """A node that may be proposed. `node` is the foresight's name for it, once it is taken up."""

    token: int
    parent: _Candidate | None
    p: float
    depth: int
    node: int | None = None


# Above the roots, so that every candidate has a parent.
_END_OF_TEXT = _Candidate(token=-1, parent=None, p=1.0, depth=-1, node=TRUNK)


def _children(
    taken: list[_Candidate],
    children: Callable[[int], Row],
    growth: Growth,
    belief: Belief,
) -> list[_Candidate]:
    """The children of expanded candidates."""
    found = []
    for parent in taken:
        depth = parent.depth + 1
        tokens, p = children(_node(parent))
        rated = list(zip(tokens, p, belief(p), strict=True))
        for token, p_token, p_believed in rated[: growth.n_children[depth]]:
            p_path = parent.p * p_believed
            if p_token > 0 and p_path > 0 and p_path >= growth.min_p:
                found.append(_Candidate(token, parent, p_path, depth))
    return found


def _sum_of_p(candidates: list[_Candidate]) -> float:
    return sum(candidate.p for candidate in candidates)


def _likeliest(candidates: list[_Candidate], n_nodes: int) -> list[_Candidate]:
    """The most likely candidates first; no child comes before its parent."""
    return sorted(candidates, key=lambda candidate: -candidate.p)[:n_nodes]


def _to_take_up(best: list[_Candidate], growth: Growth, n_nodes: int) -> list[_Candidate]:
    """Candidates to expand: those that may have a child among the ``n_nodes`` most likely."""
    p_least = best[-1].p if len(best) == n_nodes else 0.0
    is_open = (
        candidate
        for candidate in best
        if candidate.node is None
        and candidate.p > p_least
        and candidate.depth + 1 < growth.n_levels
    )
    return list(islice(is_open, growth.width))


def _node(candidate: _Candidate) -> int:
    assert candidate.node is not None
    return candidate.node


def _as_tree(best: list[_Candidate]) -> TokenTree:
    if not best:
        return EMPTY_TREE
    place: dict[_Candidate | None, int] = {candidate: i for i, candidate in enumerate(best)}
    return TokenTree.from_grown(
        [candidate.token for candidate in best],
        [place.get(candidate.parent, TRUNK) for candidate in best],
        [candidate.p for candidate in best],
    )


def _checked_shape(grow: Grow) -> tuple[int, ...]:
    shape = () if isinstance(grow, str) else tuple(grow)
    fits = all(isinstance(n, int) and 1 <= n <= MAX_GROWTH for n in shape)
    if not shape or len(shape) > MAX_GROWTH or not fits:
        raise DraftError(
            f"invalid grow={shown(grow)}: expected 'best', 'chain', or the number of children of a "
            f"node on each level, such as (4, 2, 2, 1){did_you_mean(grow, ('best', 'chain'))}"
        )
    return shape
