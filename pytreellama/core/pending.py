"""What every encoding checks before it touches the cache for a tree's nodes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pytreellama.core.batch import Batch
from pytreellama.errors import MemoryStateError, TreeError

Int32 = NDArray[np.int32]


def check_nodes(tokens: Int32, parents: Int32, n_old: int) -> None:
    """Raise ``TreeError`` unless the new nodes hang on pending ones, the text or each other.

    Args:
        tokens, parents: int32, shape (n,); parents count the ``n_old`` pending nodes first.
    """
    if len(tokens) == 0:
        raise TreeError("the tree is empty; give at least one node")
    if len(tokens) != len(parents):
        raise TreeError(f"{len(tokens)} tokens and {len(parents)} parents make no tree")
    wrong = (parents < -1) | (parents >= np.arange(n_old, n_old + len(parents)))
    if wrong.any():
        i = int(wrong.argmax())
        raise TreeError(
            f"node {n_old + i} has parent {parents[i]}; a parent stands before its child, "
            "-1 is the end of the text"
        )


def check_room(batch: Batch, n_batch: int, n_nodes: int) -> None:
    """Raise ``TreeError`` if the nodes do not fit into the batch."""
    room = min(batch.capacity, n_batch) - batch.n_tokens
    if n_nodes > room:
        raise TreeError(
            f"a tree of {n_nodes} nodes does not fit into the batch, which has room for {room}; "
            "make the context with a larger n_batch"
        )


def checked_path(path: Sequence[int], parents: Int32) -> list[int]:
    """The path as plain indices; ``TreeError`` unless it goes from a root from parent to child."""
    nodes = [int(node) for node in path]
    expected = -1
    for node in nodes:
        if not 0 <= node < len(parents) or parents[node] != expected:
            raise TreeError(
                f"{nodes} is not a path of the pending tree of {len(parents)} nodes: it must "
                "start at a root and go from parent to child"
            )
        expected = node
    return nodes


def not_pending(seq: int) -> MemoryStateError:
    """What to raise where a tree was expected."""
    return MemoryStateError(f"sequence {seq} has no pending nodes; decode a tree first")


def undecoded(seq: int) -> MemoryStateError:
    """What to raise where nodes wait in a batch."""
    return MemoryStateError(
        f"sequence {seq} has nodes that were added to a batch and not decoded; decode them, or "
        "discard them first"
    )
