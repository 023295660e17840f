"""Chains out of trees: the one path to verify where a tree cannot be."""

from __future__ import annotations

from collections.abc import Sequence


def likeliest_chain(parents: Sequence[int], p: Sequence[float], n_max: int) -> list[int]:
    """The nodes of the path from a root on which most accepted tokens are expected.

    That is the largest sum of path probabilities; of equal ones the first.

    Args:
        parents: of each node, -1 of a root; parents before their children.
        p: path probability of each node.
        n_max: maximum number of nodes.

    Example:
        >>> likeliest_chain([-1, -1, 1], [0.5, 0.4, 0.3], n_max=8)
        [1, 2]
    """
    depths: list[int] = []
    for parent in parents:
        depths.append(depths[parent] + 1 if parent >= 0 else 0)
    # the last entry is the root's parent, -1
    expected, child = [0.0] * (len(parents) + 1), [-1] * (len(parents) + 1)
    for node in reversed(range(len(parents))):
        if depths[node] < n_max:
            parent, below = parents[node], p[node] + expected[node]
            if child[parent] < 0 or below >= expected[parent]:
                expected[parent], child[parent] = below, node
    chain: list[int] = []
    node = child[-1]
    while node >= 0:
        chain.append(node)
        node = child[node]
    return chain
