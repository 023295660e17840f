"""Best-first growth as plainly as it can be said: what the fast ones are compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

ContextT = TypeVar("ContextT")

Nodes = tuple[list[int], list[int], list[float]]
"""Tokens, parents and path probabilities."""


def grow_plainly(
    start: ContextT,
    children: Callable[[ContextT, float, int], Iterable[tuple[int, float, ContextT]]],
    n_nodes: int,
    max_depth: int,
) -> Nodes:
    """Take the likeliest open node, of equal ones the one found first, and open its children.

    children: of a context, its path probability and the depth of the children.
    """
    tokens: list[int] = []
    parents: list[int] = []
    p: list[float] = []
    open_nodes: list[tuple[float, int, int, int, int, ContextT]] = []
    n_found = 0

    def open_children(context: ContextT, p_path: float, parent: int, depth: int) -> None:
        nonlocal n_found
        if depth == max_depth:
            return
        for token, p_child, after in children(context, p_path, depth):
            open_nodes.append((-p_child, n_found, token, parent, depth, after))
            n_found += 1

    open_children(start, 1.0, -1, 0)
    while open_nodes and len(tokens) < n_nodes:
        best = min(open_nodes, key=lambda node: node[:2])
        open_nodes.remove(best)
        minus_p, _, token, parent, depth, context = best
        tokens.append(token)
        parents.append(parent)
        p.append(-minus_p)
        open_children(context, -minus_p, len(tokens) - 1, depth + 1)
    return tokens, parents, p
