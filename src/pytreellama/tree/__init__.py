"""Token trees, their attention masks and layouts; NumPy only."""

from pytreellama.tree.layout import bfs_order, depths, dfs_order, positions, subtree_sizes
from pytreellama.tree.mask import ancestor_mask, leaves, mask_of_sequence_sets, sequence_sets
from pytreellama.tree.token_tree import TokenTree

__all__ = [
    "TokenTree",
    "ancestor_mask",
    "bfs_order",
    "depths",
    "dfs_order",
    "leaves",
    "mask_of_sequence_sets",
    "positions",
    "sequence_sets",
    "subtree_sizes",
]
