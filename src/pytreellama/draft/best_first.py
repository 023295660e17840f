"""Best-first growth: the likeliest nodes of a tree whose children are found as it grows."""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterable
from typing import TypeVar

from pytreellama.tree.grown import Grown

ContextT = TypeVar("ContextT")

_ROOT = -1


def grow_best_first(
    start: ContextT,
    continuations: Callable[[ContextT, float, int, float], Iterable[tuple[int, float, ContextT]]],
    *,
    n_nodes: int,
    max_depth: int,
    min_p: float,
) -> Grown:
    """The ``n_nodes`` likeliest nodes in falling order; of equal ones the one found first.

    Nodes that cannot join the ``n_nodes`` likeliest any more are not asked for: ``min_p`` rises.

    Args:
        start: the context of the roots.
        continuations: called with a context, its path probability, the depth of its children and
            ``min_p``; gives token, path probability and context of each child from ``min_p`` up.
            A child is never likelier than its parent.
        n_nodes: at least 1.
        max_depth: tokens of the longest path; at least 1.
        min_p: nodes whose path probability is lower are left out.
    """
    # Minus p, the order of discovery, token, parent, depth, context. What stands up to `parent`
    # is in its place for good: whatever is found later is no likelier, and newer.
    best: list[tuple[float, int, int, int, int, ContextT]] = []
    n_found = 0
    context, p, parent, depth = start, 1.0, _ROOT, 0
    while True:
        if depth < max_depth:
            if len(best) == n_nodes:
                min_p = max(min_p, -best[-1][0])
            for token, p_path, after in continuations(context, p, depth, min_p):
                insort(best, (-p_path, n_found, token, parent, depth, after), parent + 1)
                n_found += 1
            del best[n_nodes:]
        parent += 1
        if parent == len(best) or parent == n_nodes - 1:
            return Grown([n[2] for n in best], [n[3] for n in best], [-n[0] for n in best])
        minus_p, _, _, _, depth, context = best[parent]
        p, depth = -minus_p, depth + 1
