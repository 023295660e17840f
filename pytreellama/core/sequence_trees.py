"""Trees in stock llama.cpp: one sequence id a leaf.

A node carries the ids of all leaves under it, so a token sees exactly the cells of its own path:
those that carry its first id, at earlier positions. The first leaf uses the sequence's own id;
the others borrow ids beyond the user's, onto which the text's cells are copied first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pytreellama.core.batch import Batch, SequenceSets
from pytreellama.core.model import Model
from pytreellama.core.params import MAX_SEQ_IDS
from pytreellama.errors import MemoryStateError, TreeError
from pytreellama.tree import depths, leaves, sequence_sets

if TYPE_CHECKING:
    from pytreellama.core.context import Context

Int32 = NDArray[np.int32]
_NONE = np.empty(0, dtype=np.int32)


@dataclass(slots=True)
class _Growth:
    """Nodes that were placed in a batch and are not decoded yet."""

    tokens: Int32
    parents: Int32
    ids: Int32  # an id that passes through each new node
    leaves: dict[int, int]  # id -> the new node at which it ends
    borrowed: list[int]
    taken: dict[int, int]  # ids of pending nodes that went on -> the node where they ended


@dataclass(slots=True)
class _PendingTree:
    """The decoded nodes of a sequence that are neither committed nor discarded."""

    n_past: int
    before: bytes | None = None  # the state before the nodes, where no removal brings it back
    tokens: Int32 = field(default_factory=lambda: _NONE)
    parents: Int32 = field(default_factory=lambda: _NONE)
    ids: Int32 = field(default_factory=lambda: _NONE)
    ends: dict[int, int] = field(default_factory=dict)  # id -> the node at which it ends
    borrowed: list[int] = field(default_factory=list)
    growth: _Growth | None = None

    def depth(self, node: int) -> int:
        """Depth of a pending node; -1 for the end of the text."""
        depth = -1
        while node >= 0:
            node, depth = int(self.parents[node]), depth + 1
        return depth


class SequenceTrees:
    """The ``TreeEncoder`` of ``TreeEncoding.SEQUENCES``."""

    def __init__(self, context: Context, model: Model) -> None:
        self._context = context
        self._can_branch = model.can_branch
        self._window_drops_cells = model.n_swa > 0 and not context.params.swa_full
        self._trees: dict[int, _PendingTree] = {}
        # falling, so that the smallest is handed out first: llama.cpp's checks of a batch take
        # time that grows with the square of the largest id
        n_ids = MAX_SEQ_IDS if context.kv_unified else context.n_seq_max
        self._spare_ids = list(range(n_ids - 1, context.n_seq_max - 1, -1))

    @property
    def pending_sequences(self) -> frozenset[int]:
        return frozenset(self._trees)

    def is_pending(self, seq: int) -> bool:
        return seq in self._trees

    def n_past(self, seq: int) -> int:
        return self._trees[seq].n_past

    def place(self, batch: Batch, seq: int, tokens: Int32, parents: Int32) -> slice:
        n_past = self._context.n_past(seq)
        self._require_decoded(seq)
        tree = self._trees.get(seq) or _PendingTree(n_past, ends={seq: -1})
        n_old = len(tree.parents)
        self._check(tokens, parents, n_old)
        local = np.where(parents >= n_old, parents - n_old, -1).astype(np.int32)
        anchors = _anchors(local, parents)
        anchor_depths = {a: tree.depth(a) for a in set(anchors.tolist())}
        node_depths = depths(local) + np.array([anchor_depths[a] + 1 for a in anchors.tolist()])
        flat, offsets = sequence_sets(local)
        counts = np.diff(offsets).astype(np.int32)
        leaf_nodes = leaves(local)
        leaf_anchors = anchors[leaf_nodes]
        self._check_room(batch, len(tokens))
        self._check_spare_ids(leaf_anchors, tree)
        if not self._can_branch and n_past > 0:
            tree.before = self._context.memory.save(seq)
        growth = self._assign_ids(tree, tokens, parents, leaf_anchors, leaf_nodes)
        leaf_ids = np.array(list(growth.leaves), dtype=np.int32)
        growth.ids = leaf_ids[flat[offsets[:-1]]]
        self._trees[seq] = tree
        tree.growth = growth
        self._copy_ancestors(seq, tree, growth, leaf_anchors, anchor_depths)
        sets = SequenceSets(leaf_ids[flat], counts)
        try:
            return batch.add(tokens, n_past + node_depths, sets, logits=True)
        except BaseException:
            self.undo(seq)
            raise

    def confirm(self, seq: int) -> None:
        tree = self._trees[seq]
        growth, tree.growth = tree.growth, None
        if growth is None:
            return
        n_old = len(tree.parents)
        tree.tokens = np.concatenate([tree.tokens, growth.tokens])
        tree.parents = np.concatenate([tree.parents, growth.parents])
        tree.ids = np.concatenate([tree.ids, growth.ids])
        tree.borrowed += growth.borrowed
        for seq_id in growth.taken:
            tree.ends.pop(seq_id, None)
        tree.ends.update({seq_id: n_old + node for seq_id, node in growth.leaves.items()})

    def undo(self, seq: int) -> None:
        tree = self._trees.get(seq)
        if tree is None or tree.growth is None:
            return
        growth, tree.growth = tree.growth, None
        if not self._can_branch:
            self._restore(seq, tree)
            return
        for seq_id in growth.borrowed:
            self._context.memory.drop(seq_id)
        self._give_back(growth.borrowed)
        for seq_id, node in growth.taken.items():
            self._context.memory.drop(seq_id, tree.n_past + tree.depth(node) + 1, -1)
        if len(tree.parents) == 0:
            del self._trees[seq]

    def commit(self, seq: int, path: Sequence[int]) -> None:
        self._require_decoded(seq)
        tree = self._pending(seq)
        nodes = _checked_path(path, tree.parents)
        if not self._can_branch:
            self._commit_state(seq, tree, nodes)
            return
        end = tree.n_past + len(nodes)
        memory = self._context.memory
        chosen = int(tree.ids[nodes[-1]]) if nodes else seq
        if chosen == seq:
            memory.drop(seq, end, -1)
        else:
            memory.drop(seq, tree.n_past, -1)
            memory.share(chosen, seq, tree.n_past, end)
        self._release(seq, tree)

    def discard(self, seq: int) -> None:
        tree = self._trees.get(seq)
        if tree is None:
            return
        self.undo(seq)
        if seq not in self._trees:
            return
        if not self._can_branch:
            self._restore(seq, tree)
            return
        self._context.memory.drop(seq, tree.n_past, -1)
        self._release(seq, tree)

    def forget(self) -> None:
        for tree in self._trees.values():
            self._give_back(tree.borrowed)
            if tree.growth is not None:
                self._give_back(tree.growth.borrowed)
        self._trees.clear()

    def _pending(self, seq: int) -> _PendingTree:
        try:
            return self._trees[seq]
        except KeyError:
            raise MemoryStateError(
                f"sequence {seq} has no pending nodes; decode a tree first"
            ) from None

    def _require_decoded(self, seq: int) -> None:
        tree = self._trees.get(seq)
        if tree is not None and tree.growth is not None:
            raise MemoryStateError(
                f"sequence {seq} has nodes that were added to a batch and not decoded; decode "
                "them, or discard them first"
            )

    def _commit_state(self, seq: int, tree: _PendingTree, nodes: list[int]) -> None:
        """A recurrent state holds the whole chain: for a part of it, go back and decode that."""
        if len(nodes) == len(tree.parents):
            self._release(seq, tree)
            return
        self._restore(seq, tree)
        if nodes:
            batch = Batch(len(nodes))
            batch.add(tree.tokens[nodes], tree.n_past + np.arange(len(nodes)), seq)
            self._context.decode(batch)

    def _restore(self, seq: int, tree: _PendingTree) -> None:
        """Put a sequence back to where it was before its pending nodes."""
        self._release(seq, tree)
        self._context.memory.drop(seq)
        if tree.before is not None:
            self._context.memory.load(tree.before, seq)

    def _release(self, seq: int, tree: _PendingTree) -> None:
        for seq_id in tree.borrowed:
            self._context.memory.drop(seq_id)
        self._give_back(tree.borrowed)
        del self._trees[seq]

    def _give_back(self, seq_ids: list[int]) -> None:
        self._spare_ids = sorted(self._spare_ids + seq_ids, reverse=True)

    def _check(self, tokens: Int32, parents: Int32, n_old: int) -> None:
        if len(tokens) == 0:
            raise TreeError("the tree is empty; give at least one node")
        if len(tokens) != len(parents):
            raise TreeError(f"{len(tokens)} tokens and {len(parents)} parents make no tree")
        allowed = n_old + np.arange(len(parents))
        wrong = (parents < -1) | (parents >= allowed)
        if wrong.any():
            i = int(wrong.argmax())
            raise TreeError(
                f"node {n_old + i} has parent {parents[i]}; a parent stands before its child, "
                "-1 is the end of the text"
            )
        is_chain = n_old == 0 and len(np.unique(parents)) == len(parents)
        if not is_chain and not self._can_branch:
            raise TreeError(
                "this model keeps a recurrent state and cannot branch; give it a chain, in one pass"
            )
        if n_old + len(tokens) > 1 and self._window_drops_cells:
            raise TreeError(
                "with swa_full=False the sliding-window cache may drop cells that the text needs "
                "after a rollback; make the context with swa_full=True to decode trees"
            )

    def _check_room(self, batch: Batch, n_nodes: int) -> None:
        room = min(batch.capacity, self._context.n_batch) - batch.n_tokens
        if n_nodes > room:
            raise TreeError(
                f"a tree of {n_nodes} nodes does not fit into the batch, which has room for "
                f"{room}; make the context with a larger n_batch"
            )

    def _check_spare_ids(self, leaf_anchors: Int32, tree: _PendingTree) -> None:
        going_on = set(tree.ends.values()).intersection(leaf_anchors.tolist())
        needed = len(leaf_anchors) - len(going_on)
        if needed > len(self._spare_ids):
            hint = (
                f"{len(self._spare_ids)} of llama.cpp's {MAX_SEQ_IDS} sequence ids are free"
                if self._context.kv_unified
                else "without kv_unified only chains are possible"
            )
            raise TreeError(
                f"a tree with {len(leaf_anchors)} leaves needs {needed} more sequence ids, but "
                f"{hint}; truncate the tree"
            )

    def _assign_ids(
        self,
        tree: _PendingTree,
        tokens: Int32,
        parents: Int32,
        leaf_anchors: Int32,
        leaf_nodes: Int32,
    ) -> _Growth:
        """An id for each new leaf: the one that ends where it hangs, or a borrowed one."""
        ending = {node: seq_id for seq_id, node in tree.ends.items()}
        growth = _Growth(tokens, parents, _NONE, {}, [], {})
        for anchor, leaf in zip(leaf_anchors.tolist(), leaf_nodes.tolist(), strict=True):
            if anchor in ending:
                seq_id = ending.pop(anchor)
                growth.taken[seq_id] = anchor
            else:
                seq_id = self._spare_ids.pop()
                growth.borrowed.append(seq_id)
            growth.leaves[seq_id] = leaf
        return growth

    def _copy_ancestors(
        self,
        seq: int,
        tree: _PendingTree,
        growth: _Growth,
        leaf_anchors: Int32,
        anchor_depths: dict[int, int],
    ) -> None:
        """Let each borrowed id see the text and the pending ancestors of its leaf."""
        for seq_id, anchor in zip(growth.leaves, leaf_anchors.tolist(), strict=True):
            if seq_id in growth.taken:
                continue
            source = int(tree.ids[anchor]) if anchor >= 0 else seq
            end = tree.n_past + anchor_depths[anchor] + 1
            if end > 0:
                self._context.memory.share(source, seq_id, 0, end)


def _anchors(local: Int32, parents: Int32) -> Int32:
    """For each new node, the pending node (or -1) that the root of its new part hangs on."""
    root = np.arange(len(local), dtype=np.int32)
    above = np.where(local >= 0, local, root)
    while True:
        higher = above[above]
        if (higher == above).all():
            return np.asarray(parents[above], dtype=np.int32)
        above = higher


def _checked_path(path: Sequence[int], parents: Int32) -> list[int]:
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
