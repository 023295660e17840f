"""Trees in the patched llama.cpp: cells know their node, and nodes know their ancestors.

Every node of a tree carries its sequence's one id. What a tree costs is its own size: not the
text's, and not its leaves'. The trees themselves live in C (``treellama_tree_*``); here stands what
must be known before a batch is decoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pytreellama.context.batch import Batch
from pytreellama.context.cache import Cache
from pytreellama.context.native_context import NativeContext
from pytreellama.context.pending import (
    PendingBook,
    check_nodes,
    check_room,
    checked_path,
    pruned,
    pruned_parents,
    undecoded,
)
from pytreellama.errors import TreeError
from pytreellama.native.limits import N_NODES_MAX
from pytreellama.tree import TokenTree

Int32 = NDArray[np.int32]
_NONE = np.empty(0, dtype=np.int32)


@dataclass(slots=True)
class _PendingTree:
    """The nodes of a sequence that are neither committed nor discarded.

    Attributes:
        n_decoded: those of ``parents`` that are in the cache; the others wait in a batch.
    """

    n_past: int
    parents: Int32 = field(default_factory=lambda: _NONE)
    n_decoded: int = 0

    @property
    def is_placed(self) -> bool:
        """True while nodes wait in a batch."""
        return self.n_decoded < len(self.parents)


class AncestorTrees(PendingBook[_PendingTree]):
    """The ``TreeEncoder`` of ``TreeEncoding.ANCESTORS``.

    Args:
        n_pending_max: most pending nodes of all sequences together, where the model keeps a
            recurrent state.
    """

    def __init__(
        self, native: NativeContext, cache: Cache, n_pending_max: int | None = None
    ) -> None:
        super().__init__(native, cache)
        self._n_pending_max = n_pending_max

    @property
    def n_spare_leaves(self) -> int:
        return self._native.n_batch

    def place_tree(self, batch: Batch, seq: int, tree: TokenTree) -> slice:
        """See ``TreeEncoder``."""
        self._check_new(seq, tree)
        check_room(batch, self._native.n_batch, len(tree))
        n_past = self.n_past(seq)
        self._pending[seq] = _PendingTree(n_past, tree.parents)
        return batch.add_nodes(tree.tokens, n_past + tree.depths, tree.parents, seq)

    def place(self, batch: Batch, seq: int, tokens: Int32, parents: Int32) -> slice:
        tree = self._pending.get(seq) or _PendingTree(self.n_past(seq))
        if tree.is_placed:
            raise undecoded(seq)
        n_old = tree.n_decoded
        check_nodes(tokens, parents, n_old)
        check_room(batch, self._native.n_batch, len(tokens))
        _check_count(seq, n_old, len(tokens))
        self._check_pending(len(tokens))
        joined = np.concatenate([tree.parents, parents]) if n_old else parents
        positions = tree.n_past + _depths(joined)[n_old:]
        self._pending[seq] = _PendingTree(tree.n_past, joined, n_old)
        return batch.add_nodes(tokens, positions, parents, seq)

    def decode_alone(self, seq: int, tree: TokenTree) -> None:
        """A pass over a tree of its own, without a batch; raises as ``NativeContext.decode``."""
        self._check_new(seq, tree)
        n_past = self._cache.pos_max(seq) + 1
        self._native.decode_one_tree(seq=seq, tree=tree)
        self._pending[seq] = _PendingTree(n_past, tree.parents, len(tree))

    def _check_new(self, seq: int, tree: TokenTree) -> None:
        if len(tree) == 0:  # all else a TokenTree has checked itself
            raise TreeError("the tree is empty; give at least one node")
        _check_count(seq, 0, len(tree))
        self._check_pending(len(tree))

    def _check_pending(self, n_new: int) -> None:
        if self._n_pending_max is None:
            return
        n_old = sum(len(tree.parents) for tree in self._pending.values())
        if n_old + n_new > self._n_pending_max:
            raise TreeError(
                f"{n_new} nodes next to {n_old} nodes that are pending: this model keeps a "
                f"recurrent state and holds {self._n_pending_max}; commit or discard, or make the "
                "context with a larger n_ubatch"
            )

    def confirm(self, seq: int) -> None:
        tree = self._pending[seq]
        tree.n_decoded = len(tree.parents)

    def undo(self, seq: int) -> None:
        """Nodes that failed have left no trace in the cache: only what was placed is forgotten."""
        tree = self._pending.get(seq)
        if tree is None:
            return
        tree.parents = tree.parents[: tree.n_decoded]
        if tree.n_decoded == 0:
            del self._pending[seq]

    def commit(self, seq: int, path: Sequence[int]) -> None:
        self._cache.commit(seq, checked_path(path, self.decoded(seq).parents))
        del self._pending[seq]

    def prune(self, seq: int, keep: Sequence[int]) -> Int32:
        tree = self.decoded(seq)
        stays, numbers = pruned(keep, tree.parents)
        self._cache.prune(seq, stays)
        parents = pruned_parents(tree.parents, stays, numbers)
        if len(parents):
            self._pending[seq] = _PendingTree(tree.n_past, parents, len(parents))
        else:
            del self._pending[seq]
        return numbers

    def discard(self, seq: int) -> None:
        self.undo(seq)
        if self._pending.pop(seq, None) is not None:
            self._cache.discard(seq)


def _depths(parents: Int32) -> Int32:
    """As ``tree.depths``, for parents that come first: some tens of nodes are faster in a list."""
    found: list[int] = []
    for parent in parents.tolist():
        found.append(found[parent] + 1 if parent >= 0 else 0)
    return np.array(found, np.int32)


def _check_count(seq: int, n_old: int, n_new: int) -> None:
    if n_old + n_new > N_NODES_MAX:
        raise TreeError(
            f"sequence {seq} would have {n_old + n_new} pending nodes, at most {N_NODES_MAX} are "
            "possible; truncate the tree, or commit a path first"
        )
