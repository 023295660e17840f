"""What every encoding keeps of pending nodes, and checks before it touches the cache for them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence, Set
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from pytreellama.context.batch import Batch
from pytreellama.context.cache import Cache
from pytreellama.context.native_context import NativeContext
from pytreellama.errors import MemoryStateError, TreeError, shown
from pytreellama.tree import TokenTree

Int32 = NDArray[np.int32]
Bool = NDArray[np.bool_]


class Pending(Protocol):
    """The nodes of a sequence that are neither committed nor discarded."""

    n_past: int

    @property
    def is_placed(self) -> bool:
        """True while nodes wait in a batch."""
        ...


P = TypeVar("P", bound=Pending)


class PendingBook(Generic[P]):
    """Which sequences have pending nodes, and where their text ends meanwhile."""

    def __init__(self, native: NativeContext, cache: Cache) -> None:
        self._native = native
        self._cache = cache
        self._pending: dict[int, P] = {}
        self.pending_sequences: Set[int] = self._pending.keys()  # a live view

    def is_pending(self, seq: int) -> bool:
        return seq in self._pending

    def is_placed(self, seq: int) -> bool:
        pending = self._pending.get(seq)
        return pending is not None and pending.is_placed

    def n_past(self, seq: int) -> int:
        pending = self._pending.get(seq)
        return self._cache.pos_max(seq) + 1 if pending is None else pending.n_past

    def decoded(self, seq: int) -> P:
        """What is pending; ``MemoryStateError`` if that is nothing, or waits in a batch."""
        pending = self._pending.get(seq)
        if pending is None:
            raise MemoryStateError(f"sequence {seq} has no pending nodes; decode a tree first")
        if pending.is_placed:
            raise undecoded(seq)
        return pending

    def forget(self) -> None:
        """The whole cache was cleared."""
        self._pending.clear()

    @abstractmethod
    def place(self, batch: Batch, seq: int, tokens: Int32, parents: Int32) -> slice:
        """See ``TreeEncoder``."""

    def place_tree(self, batch: Batch, seq: int, tree: TokenTree) -> slice:
        """See ``TreeEncoder``."""
        return self.place(batch, seq, tree.tokens, tree.parents)


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


def pruned(keep: Sequence[int], parents: Int32) -> tuple[Bool, Int32]:
    """Which nodes stay where some are kept, and the number that each node has then.

    Args:
        keep: nodes that stay, as do their ancestors.

    Returns:
        Flags, bool, and new numbers, int32, -1 for nodes that go; both of shape (n_nodes,).

    Raises:
        TreeError: a node that there is not.
    """
    stays = np.zeros(len(parents), dtype=np.bool_)
    for node in map(int, keep):
        if not 0 <= node < len(parents):
            raise TreeError(
                f"invalid keep={shown(list(keep))}: expected nodes of the pending tree, from 0 to "
                f"{len(parents) - 1}"
            )
        while node >= 0 and not stays[node]:
            stays[node] = True
            node = int(parents[node])
    return stays, np.where(stays, np.cumsum(stays) - 1, -1).astype(np.int32)


def pruned_parents(parents: Int32, stays: Bool, numbers: Int32) -> Int32:
    """The parents of the nodes that stay, by their new numbers."""
    left = parents[stays]
    return np.where(left < 0, left, numbers[left]).astype(np.int32)


def undecoded(seq: int) -> MemoryStateError:
    """What to raise where nodes wait in a batch."""
    return MemoryStateError(
        f"sequence {seq} has nodes that were added to a batch and not decoded; decode them, or "
        "discard them first"
    )
