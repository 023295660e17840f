"""How the nodes of a tree are told apart in the KV cache: the seam between encodings."""

from __future__ import annotations

from collections.abc import Sequence, Set
from enum import Enum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pytreellama.context.batch import Batch
from pytreellama.errors import MemoryStateError
from pytreellama.tree import TokenTree

Int32 = NDArray[np.int32]


class TreeEncoding(Enum):
    """The ways to encode a tree in the cache; all mean the same.

    ANCESTORS is the default: every node carries its sequence's one id, a cell knows the node that
    it holds, and the mask is made from each node's ancestors. Up to 1,024 nodes a sequence, any
    number of leaves, and a step costs the tree's size.

    SEQUENCES is stock llama.cpp's: one sequence id a leaf, and a node carries the ids of all the
    leaves under it. The first leaf of a tree has its sequence's own id; all others together have
    llama.cpp's 256 ids less n_seq_max. Every leaf costs a copy of the text's cell marks each step.
    """

    ANCESTORS = "ancestors"
    SEQUENCES = "sequences"


class TreeEncoder(Protocol):
    """Keeps the pending trees of a context. One encoding is one implementation."""

    pending_sequences: Set[int]
    """Sequences that have pending nodes: a live view."""

    @property
    def n_spare_leaves(self) -> int:
        """Leaves that trees may have beyond the first of each, in all sequences together."""
        ...

    def is_pending(self, seq: int) -> bool: ...

    def is_placed(self, seq: int) -> bool:
        """True while nodes of a sequence wait in a batch."""
        ...

    def n_past(self, seq: int) -> int:
        """The position after the committed text of a sequence."""
        ...

    def place(self, batch: Batch, seq: int, tokens: Int32, parents: Int32) -> slice:
        """Append nodes to a batch, and prepare the cache; parents count pending nodes first."""
        ...

    def place_tree(self, batch: Batch, seq: int, tree: TokenTree) -> slice:
        """As ``place``, for the first nodes of a sequence."""
        ...

    def confirm(self, seq: int) -> None:
        """The nodes placed last have been decoded."""
        ...

    def undo(self, seq: int) -> None:
        """The nodes placed last have failed: leave no trace of them."""
        ...

    def commit(self, seq: int, path: Sequence[int]) -> None: ...

    def prune(self, seq: int, keep: Sequence[int]) -> Int32: ...

    def discard(self, seq: int) -> None: ...

    def forget(self) -> None:
        """The whole cache was cleared."""
        ...


def require_no_pending(trees: TreeEncoder, verb: str, seq: int | None = None) -> None:
    """Raise ``MemoryStateError`` if a sequence (or any, by default) has pending nodes."""
    pending = trees.pending_sequences
    if pending and (seq is None or seq in pending):
        which = min(pending) if seq is None else seq
        raise MemoryStateError(
            f"sequence {which} has pending tree nodes; commit or discard them before you {verb} it"
        )
