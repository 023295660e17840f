"""Who sees whom: a tree's ancestor mask, and stock llama.cpp's encoding of it in sequence ids."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pytreellama.errors import TreeError
from pytreellama.tree.arrays import INT32_MAX, BoolArray, Int32Array, as_integers, as_parents
from pytreellama.tree.layout import dfs_order, dfs_ranks, is_leaf, subtree_sizes


def ancestor_mask(parents: npt.ArrayLike) -> BoolArray:
    """The tree mask, bool[n, n]: row i sees column j when j is i itself or an ancestor of i.

    `parents`: integers, shape (n,), -1 for a root, any order without cycles (else TreeError).
    The trunk, which every node sees, is not part of it. Source of the idea: SpecInfer, Miao et
    al. 2023 (arXiv 2305.09781), "topology-aware causal mask".
    """
    checked = as_parents(parents)
    # Depth first, a subtree is one interval of ranks: j is above i when i's rank lies in j's.
    first = dfs_ranks(checked)
    last = first + subtree_sizes(checked) - 1
    mask: BoolArray = np.less_equal.outer(first, last)
    mask &= np.greater_equal.outer(first, first)
    return mask


def leaves(parents: npt.ArrayLike) -> Int32Array:
    """Leaf nodes from left to right (depth first), int32[n_leaves]."""
    order = dfs_order(parents)
    return order[is_leaf(parents)[order]]


def sequence_sets(parents: npt.ArrayLike) -> tuple[Int32Array, Int32Array]:
    """Which leaves lie under each node: the sequence ids that stock llama.cpp wants on a token.

    Returns `(flat, offsets)`, int32[total] and int32[n + 1]: node i carries
    `flat[offsets[i]:offsets[i + 1]]`, rising. Number k means `leaves(parents)[k]`; a leaf carries
    its own number. Source: llama.cpp's examples/speculative, which shares a prefix between branches
    by giving its tokens the ids of all of them. Stock llama.cpp holds at most 256 sequences
    (LLAMA_MAX_SEQ); whether the ids fit is for the context to check.
    TreeError if the sets together have more than 2**31 - 1 entries.
    """
    checked = as_parents(parents)
    order, ranks = dfs_order(checked), dfs_ranks(checked)
    n_leaves_before = np.append(0, np.cumsum(is_leaf(checked)[order]))
    # Depth first, the leaves under a node have consecutive numbers.
    first = n_leaves_before[ranks]
    counts = n_leaves_before[ranks + subtree_sizes(checked)] - first
    offsets = np.append(0, np.cumsum(counts))
    n_entries = int(offsets[-1])
    if n_entries > INT32_MAX:
        raise TreeError(
            f"{int(n_leaves_before[-1])} leaves need {n_entries} sequence ids; at most"
            f" {INT32_MAX} can be indexed: truncate the tree or use the ancestor encoding"
        )
    flat = np.arange(n_entries) - np.repeat(offsets[:-1] - first, counts)
    return flat.astype(np.int32), offsets.astype(np.int32)


def mask_of_sequence_sets(
    flat: npt.ArrayLike, offsets: npt.ArrayLike, positions: npt.ArrayLike
) -> BoolArray:
    """The mask that stock llama.cpp makes of sequence ids and positions, bool[n, n].

    Token i sees cell j when j carries i's first sequence id and does not stand at a later position
    (`set_input_kq_mask` in llama-kv-cache.cpp). `flat` and `offsets` are as `sequence_sets` returns
    them, `positions` has shape (n,). TreeError where a token carries no id or shapes do not fit.
    """
    places = as_integers(positions, "positions", 0, INT32_MAX)
    ids = as_integers(flat, "flat", 0, INT32_MAX)
    bounds = as_integers(offsets, "offsets", 0, len(ids))
    n_tokens = len(places)
    if len(bounds) != n_tokens + 1 or bounds[0] != 0 or bounds[-1] != len(ids):
        raise TreeError(
            f"offsets must run from 0 to {len(ids)} in {n_tokens + 1} entries,"
            " one more than there are positions"
        )
    counts = np.diff(bounds)
    if (counts < 1).any():
        raise TreeError(
            f"token {int(np.argmax(counts < 1))} carries no sequence id; llama.cpp needs one"
        )
    carries = np.zeros((n_tokens, int(ids.max(initial=-1)) + 1), np.bool_)
    carries[np.repeat(np.arange(n_tokens), counts), ids] = True
    mask: BoolArray = carries[:, ids[bounds[:-1]]].T
    return mask & np.greater_equal.outer(places, places)
