"""Where nodes stand: depths, subtree sizes, positions, and the orders to decode a tree in.

All functions take `parents` (integers, shape (n,), -1 for a root, in any order without cycles) and
use pointer doubling, about log2(depth) NumPy passes, so that a long chain costs little more than a
bush. They raise TreeError where a parent is out of range or a cycle is found.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from pytreellama.errors import TreeError
from pytreellama.tree.arrays import (
    INT32_MAX,
    BoolArray,
    Float32Array,
    Int32Array,
    Int64Array,
    as_parents,
)


def depths(parents: npt.ArrayLike) -> Int32Array:
    """Depth of each node, int32[n]; a root has depth 0."""
    checked = as_parents(parents)
    return (sums_along_paths(checked, np.ones(len(checked), np.int64)) - 1).astype(np.int32)


def subtree_sizes(parents: npt.ArrayLike) -> Int32Array:
    """Number of nodes at and below each node, int32[n]."""
    checked = as_parents(parents)
    n_nodes = len(checked)
    sizes = np.ones(n_nodes + 1, np.int64)
    sizes[n_nodes] = 0
    for jump in _doubling_jumps(checked):
        # Exact although bincount adds in float64: every count is far below 2**53.
        sizes[:n_nodes] += np.bincount(jump, sizes, n_nodes + 1)[:n_nodes].astype(np.int64)
    return sizes[:n_nodes].astype(np.int32)


def is_leaf(parents: npt.ArrayLike) -> BoolArray:
    """Which nodes have no child, bool[n]."""
    checked = as_parents(parents)
    childless = np.ones(len(checked), np.bool_)
    childless[checked[checked >= 0]] = False
    return childless


def positions(parents: npt.ArrayLike, n_past: int) -> Int32Array:
    """Position of each node in the text, int32[n]: n_past + depth, so siblings share one.

    `n_past` is the number of committed tokens before the roots.
    """
    levels = depths(parents)
    highest = INT32_MAX - int(levels.max(initial=0))
    if not 0 <= n_past <= highest:
        raise TreeError(f"n_past is {n_past}; for a tree of this depth allowed is 0..{highest}")
    places: Int32Array = levels + np.int32(n_past)
    return places


def bfs_order(parents: npt.ArrayLike) -> Int32Array:
    """Nodes level by level, int32[n]: `order[k]` is the node to decode k-th.

    Within a level nodes keep the order of their indices; a tree in BFS order maps to itself.
    """
    return np.argsort(depths(parents), kind="stable").astype(np.int32)


def dfs_order(parents: npt.ArrayLike) -> Int32Array:
    """Nodes depth first, int32[n]: each node before its subtree, siblings by rising index.

    The subtree of a node stands in one piece, right behind it.
    """
    ranks = dfs_ranks(parents)
    order: Int32Array = np.empty(len(ranks), np.int32)
    order[ranks] = np.arange(len(ranks), dtype=np.int32)
    return order


def dfs_ranks(parents: npt.ArrayLike) -> Int32Array:
    """Place of each node in `dfs_order`, int32[n]: the inverse permutation."""
    checked = as_parents(parents)
    steps = _sizes_of_elder_siblings(checked) + 1
    return (sums_along_paths(checked, steps) - 1).astype(np.int32)


def sums_along_paths(parents: Int32Array, values: Int64Array) -> Int64Array:
    """Sum of `values` over each node and all its ancestors, int64[n]."""
    sums = np.append(values, 0).astype(np.int64)
    for jump in _doubling_jumps(parents):
        sums += sums[jump]
    return sums[:-1]


def minima_along_paths(parents: Int32Array, values: Float32Array) -> Float32Array:
    """Smallest of `values` over each node and all its ancestors, float32[n]."""
    minima = np.append(values, np.float32(np.inf))
    for jump in _doubling_jumps(parents):
        minima = np.minimum(minima, minima[jump])
    return minima[:-1]


def _doubling_jumps(parents: Int32Array) -> Iterator[Int64Array]:
    """Jump tables of 1, 2, 4... steps up; the trunk stands at index n and leads to itself."""
    n_nodes = len(parents)
    jump = np.append(np.where(parents < 0, n_nodes, parents), n_nodes).astype(np.int64)
    # The longest path has n nodes: n.bit_length() doublings reach the trunk unless in a cycle.
    for _ in range(n_nodes.bit_length() + 1):
        if (jump == n_nodes).all():
            return
        yield jump
        jump = jump[jump]
    if (jump == n_nodes).all():
        return
    # 2**k steps up from a node that never reaches the trunk lie on the cycle itself.
    raise TreeError(
        f"the parents of node {int(jump[np.argmax(jump != n_nodes)])} lead back to it;"
        " a tree has no cycles: follow every parent to -1, the trunk"
    )


def _sizes_of_elder_siblings(parents: Int32Array) -> Int64Array:
    """Nodes in the subtrees of a node's siblings of lower index, int64[n]."""
    n_nodes = len(parents)
    if not n_nodes:
        return np.zeros(0, np.int64)
    by_parent = np.argsort(parents, kind="stable")
    sizes = subtree_sizes(parents).astype(np.int64)[by_parent]
    before = np.cumsum(sizes) - sizes
    is_eldest = np.append(True, np.diff(parents[by_parent]) != 0)
    of_family = before[is_eldest][np.cumsum(is_eldest) - 1]
    elder = np.empty(n_nodes, np.int64)
    elder[by_parent] = before - of_family
    return elder
