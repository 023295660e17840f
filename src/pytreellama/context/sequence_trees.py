"""Trees in stock llama.cpp: one sequence id a leaf.

A node carries the ids of all leaves under it, so a token sees exactly the cells of its own path:
those that carry its first id, at earlier positions. The first leaf uses the sequence's own id;
the others borrow ids beyond the user's, onto which the text's cells are copied first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pytreellama.context.batch import Batch, SequenceSets
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
from pytreellama.native.limits import N_SEQ_MAX
from pytreellama.tree import depths, leaves, sequence_sets

Int32 = NDArray[np.int32]
_NONE = np.empty(0, dtype=np.int32)


@dataclass(slots=True)
class _Growth:
    """Nodes that were placed in a batch and are not decoded yet."""

    parents: Int32
    ids: Int32  # an id that passes through each new node
    ends: dict[int, int] = field(default_factory=dict)  # id -> the new node at which it ends
    borrowed: list[int] = field(default_factory=list)
    taken: dict[int, int] = field(default_factory=dict)  # id that went on -> where it ended


@dataclass(slots=True)
class _PendingTree:
    """The decoded nodes of a sequence that are neither committed nor discarded."""

    n_past: int
    ends: dict[int, int]  # id -> the node at which it ends
    parents: Int32 = field(default_factory=lambda: _NONE)
    ids: Int32 = field(default_factory=lambda: _NONE)
    borrowed: list[int] = field(default_factory=list)
    growth: _Growth | None = None

    @property
    def is_placed(self) -> bool:
        return self.growth is not None

    def depth(self, node: int) -> int:
        """Depth of a pending node; -1 for the end of the text."""
        depth = -1
        while node >= 0:
            node, depth = int(self.parents[node]), depth + 1
        return depth

    def end_id(self, node: int) -> int | None:
        """The id that ends at a node, if none of its children took it."""
        return next((seq_id for seq_id, end in self.ends.items() if end == node), None)


class SequenceTrees(PendingBook[_PendingTree]):
    """The ``TreeEncoder`` of ``TreeEncoding.SEQUENCES``."""

    def __init__(self, native: NativeContext, cache: Cache, window_drops_cells: bool) -> None:
        super().__init__(native, cache)
        self._window_drops_cells = window_drops_cells
        # falling, so that the smallest is handed out first: llama.cpp's checks of a batch take
        # time that grows with the square of the largest id
        self._spare_ids = list(range(native.n_seq_ids - 1, native.n_seq_max - 1, -1))

    @property
    def n_spare_leaves(self) -> int:
        return len(self._spare_ids)

    def place(self, batch: Batch, seq: int, tokens: Int32, parents: Int32) -> slice:
        tree = self._pending.get(seq) or _PendingTree(self.n_past(seq), {seq: -1})
        n_old = len(tree.parents)
        self._check(batch, seq, tree, tokens, parents)
        first = int(parents[0])
        seq_id = tree.end_id(first)
        is_run = seq_id is not None and _is_run(parents, n_old)
        self._pending[seq] = tree
        try:
            if is_run and seq_id is not None:
                tree.growth = _run_growth(parents, seq_id, first)
                start = tree.n_past + tree.depth(first) + 1
                positions = np.arange(start, start + len(parents), dtype=np.int32)
                return batch.add(tokens, positions, seq_id, logits=True)
            positions, sets = self._branch(seq, tree, parents)
            return batch.add(tokens, positions, sets, logits=True)
        except BaseException:
            self.undo(seq)
            if len(tree.parents) == 0:
                self._pending.pop(seq, None)
            raise

    def confirm(self, seq: int) -> None:
        tree = self._pending[seq]
        growth, tree.growth = tree.growth, None
        if growth is None:
            return
        n_old = len(tree.parents)
        tree.parents = np.concatenate([tree.parents, growth.parents]) if n_old else growth.parents
        tree.ids = np.concatenate([tree.ids, growth.ids]) if n_old else growth.ids
        tree.borrowed += growth.borrowed
        for seq_id in growth.taken:
            del tree.ends[seq_id]
        tree.ends.update({seq_id: n_old + node for seq_id, node in growth.ends.items()})

    def undo(self, seq: int) -> None:
        tree = self._pending.get(seq)
        if tree is None or tree.growth is None:
            return
        growth, tree.growth = tree.growth, None
        for seq_id in growth.borrowed:
            self._cache.rm(seq_id)
        self._give_back(growth.borrowed)
        for seq_id, node in growth.taken.items():
            self._cache.rm(seq_id, tree.n_past + tree.depth(node) + 1, -1)
        if len(tree.parents) == 0:
            del self._pending[seq]

    def commit(self, seq: int, path: Sequence[int]) -> None:
        tree = self.decoded(seq)
        nodes = checked_path(path, tree.parents)
        end = tree.n_past + len(nodes)
        chosen = int(tree.ids[nodes[-1]]) if nodes else seq
        if chosen != seq:
            self._cache.rm(seq, tree.n_past, -1)
            self._cache.cp(chosen, seq, tree.n_past, end)
        elif len(nodes) < len(tree.parents):
            self._cache.rm(seq, end, -1)
        self._release(seq, tree)

    def prune(self, seq: int, keep: Sequence[int]) -> Int32:
        tree = self.decoded(seq)
        stays, numbers = pruned(keep, tree.parents)
        if not stays.any():
            self.discard(seq)
            return numbers
        parents = pruned_parents(tree.parents, stays, numbers)
        leaf_nodes = leaves(parents)
        leaf_ids = tree.ids[stays][leaf_nodes]
        ends = dict(zip(leaf_ids.tolist(), leaf_nodes.tolist(), strict=True))
        depth = depths(parents)
        for seq_id in [seq, *tree.borrowed]:
            if seq_id in ends:
                self._cache.rm(seq_id, tree.n_past + int(depth[ends[seq_id]]) + 1, -1)
            elif seq_id == seq:
                self._cache.rm(seq, tree.n_past, -1)
                ends[seq] = -1
            else:
                self._cache.rm(seq_id)
        dropped = [seq_id for seq_id in tree.borrowed if seq_id not in ends]
        self._give_back(dropped)
        borrowed = [seq_id for seq_id in tree.borrowed if seq_id in ends]
        flat, offsets = sequence_sets(parents)
        ids = leaf_ids[flat[offsets[:-1]]]
        self._pending[seq] = _PendingTree(tree.n_past, ends, parents, ids, borrowed)
        return numbers

    def discard(self, seq: int) -> None:
        self.undo(seq)
        tree = self._pending.get(seq)
        if tree is not None:
            self._cache.rm(seq, tree.n_past, -1)
            self._release(seq, tree)

    def forget(self) -> None:
        for tree in self._pending.values():
            self._give_back(tree.borrowed)
            if tree.growth is not None:
                self._give_back(tree.growth.borrowed)
        super().forget()

    def _release(self, seq: int, tree: _PendingTree) -> None:
        for seq_id in tree.borrowed:
            self._cache.rm(seq_id)
        self._give_back(tree.borrowed)
        del self._pending[seq]

    def _give_back(self, seq_ids: list[int]) -> None:
        if seq_ids:
            self._spare_ids = sorted(self._spare_ids + seq_ids, reverse=True)

    def _check(
        self, batch: Batch, seq: int, tree: _PendingTree, tokens: Int32, parents: Int32
    ) -> None:
        if tree.is_placed:
            raise undecoded(seq)
        n_old = len(tree.parents)
        check_nodes(tokens, parents, n_old)
        check_room(batch, self._native.n_batch, len(tokens))
        if n_old + len(tokens) > 1 and self._window_drops_cells:
            raise TreeError(
                "with swa_full=False the sliding-window cache may drop cells that the text needs "
                "after a rollback; make the context with swa_full=True to decode trees"
            )

    def _branch(self, seq: int, tree: _PendingTree, parents: Int32) -> tuple[Int32, SequenceSets]:
        """Positions and sequence sets of nodes that hang on several places, or branch."""
        n_old = len(tree.parents)
        local = np.where(parents >= n_old, parents - n_old, -1).astype(np.int32)
        anchors = _anchors(local, parents)
        leaf_nodes = leaves(local)
        leaf_anchors = anchors[leaf_nodes].tolist()
        growth = _Growth(parents, _NONE)
        tree.growth = growth
        self._assign_ids(tree, growth, leaf_anchors, leaf_nodes.tolist())

        depth_of = {anchor: tree.depth(anchor) for anchor in set(anchors.tolist())}
        self._copy_ancestors(seq, tree, growth, leaf_anchors, depth_of)

        flat, offsets = sequence_sets(local)
        leaf_ids = np.array(list(growth.ends), dtype=np.int32)
        growth.ids = leaf_ids[flat[offsets[:-1]]]
        anchor_depths = np.array([depth_of[anchor] for anchor in anchors.tolist()], dtype=np.int32)
        positions = tree.n_past + anchor_depths + 1 + depths(local)
        return positions.astype(np.int32), SequenceSets(leaf_ids[flat], np.diff(offsets))

    def _assign_ids(
        self, tree: _PendingTree, growth: _Growth, leaf_anchors: list[int], leaf_nodes: list[int]
    ) -> None:
        """An id for each new leaf: the one that ends where it hangs, or a borrowed one."""
        ending = {node: seq_id for seq_id, node in tree.ends.items()}
        self._check_spare_ids(len(leaf_anchors), len(ending.keys() & set(leaf_anchors)))
        for anchor, leaf in zip(leaf_anchors, leaf_nodes, strict=True):
            if anchor in ending:
                seq_id = ending.pop(anchor)
                growth.taken[seq_id] = anchor
            else:
                seq_id = self._spare_ids.pop()
                growth.borrowed.append(seq_id)
            growth.ends[seq_id] = leaf

    def _check_spare_ids(self, n_leaves: int, n_going_on: int) -> None:
        needed = n_leaves - n_going_on
        if needed <= len(self._spare_ids):
            return
        hint = (
            f"{len(self._spare_ids)} of llama.cpp's {N_SEQ_MAX} sequence ids are free"
            if self._native.kv_unified
            else "without kv_unified only chains are possible"
        )
        raise TreeError(
            f"a tree with {n_leaves} leaves needs {needed} more sequence ids, but {hint}; "
            "truncate the tree"
        )

    def _copy_ancestors(
        self,
        seq: int,
        tree: _PendingTree,
        growth: _Growth,
        leaf_anchors: list[int],
        depth_of: dict[int, int],
    ) -> None:
        """Let each borrowed id see the text and the pending ancestors of its leaf."""
        for seq_id, anchor in zip(growth.ends, leaf_anchors, strict=True):
            end = tree.n_past + depth_of[anchor] + 1
            if seq_id not in growth.taken and end > 0:
                source = int(tree.ids[anchor]) if anchor >= 0 else seq
                self._cache.cp(source, seq_id, 0, end)


def _is_run(parents: Int32, n_old: int) -> bool:
    """True if each new node but the first is the child of the one before."""
    n_new = len(parents)
    return n_new == 1 or bool((parents[1:] == np.arange(n_old, n_old + n_new - 1)).all())


def _run_growth(parents: Int32, seq_id: int, anchor: int) -> _Growth:
    ids = np.full(len(parents), seq_id, dtype=np.int32)
    return _Growth(parents, ids, {seq_id: len(parents) - 1}, [], {seq_id: anchor})


def _anchors(local: Int32, parents: Int32) -> Int32:
    """For each new node, the pending node (or -1) that the root of its new part hangs on."""
    root = np.arange(len(local), dtype=np.int32)
    above = np.where(local >= 0, local, root)
    while True:
        higher = above[above]
        if (higher == above).all():
            return np.asarray(parents[above], dtype=np.int32)
        above = higher
