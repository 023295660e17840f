"""Passes: how a context runs batches, trees and single tokens."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pytreellama.context.ancestor_trees import AncestorTrees
from pytreellama.context.batch import Batch
from pytreellama.context.batch_check import POSITION_MAX, ContextLimits, check_batch
from pytreellama.context.cache import Cache
from pytreellama.context.native_context import NativeContext
from pytreellama.context.outputs import Outputs
from pytreellama.context.params import is_integer
from pytreellama.context.token_ids import check_tokens
from pytreellama.context.tree_encoding import TreeEncoder, require_no_pending
from pytreellama.errors import BatchError, MemoryStateError, TreeError, shown
from pytreellama.native.decode import TEXT
from pytreellama.tree import TokenTree

Int32 = NDArray[np.int32]


class Passes:
    """Checks what a pass is asked for, runs it, and keeps ``outputs`` and pending trees in step.

    The caller holds the context for its thread.
    """

    def __init__(
        self, native: NativeContext, cache: Cache, trees: TreeEncoder, outputs: Outputs
    ) -> None:
        self._native = native
        self._trees = trees
        self._pending = trees.pending_sequences
        self._outputs = outputs
        self._n_vocab, self._n_seq_max = outputs.n_vocab, native.n_seq_max
        self._limits = ContextLimits(native.n_batch, outputs.n_vocab, cache.ranges)
        self._scratch = Batch(native.n_batch)
        self._waiting_in: dict[int, Batch] = {}  # sequence -> the batch that holds its new nodes

    # -- text

    def prefill(
        self,
        ids: Int32,
        seq: int,
        start: int,
        logits: bool,
        progress: Callable[[float], None] | None,
    ) -> None:
        """Append checked ids to a sequence that ends at ``start``; see ``Context.prefill``."""
        self._check_text(seq, start + len(ids) - 1)
        for begin in range(0, len(ids), self._native.n_batch):
            part = ids[begin : begin + self._native.n_batch]
            end = begin + len(part)
            wants_last = logits and end == len(ids)
            self._scratch.fill_text(part, start + begin, seq, wants_last=wants_last)
            self._run(self._scratch)
            if progress is not None:
                progress(end / len(ids))

    def _check_text(self, seq: int, last: int) -> None:
        if not 0 <= seq < self._n_seq_max:
            raise BatchError(
                f"sequence id {shown(seq)} is out of range; this context has ids from 0 to "
                f"{self._n_seq_max - 1}"
            )
        if last > POSITION_MAX:
            raise BatchError(f"position {last} is beyond {POSITION_MAX}, the largest there is")

    def token(self, token: int, seq: int) -> None:
        """A plain step: the next token of a sequence, without a batch."""
        if not (0 <= token < self._n_vocab and 0 <= seq < self._n_seq_max):
            raise BatchError(
                f"invalid token={shown(token)}, seq={shown(seq)}: token ids are from 0 to "
                f"{self._n_vocab - 1}, sequences from 0 to {self._n_seq_max - 1}"
            )
        if seq in self._pending:
            require_no_pending(self._trees, "decode more of", seq)
        outputs = self._outputs
        outputs._n_rows = outputs._n_tokens = 0
        self._native.decode_one(seq=seq, token=token)
        outputs._n_rows = outputs._n_tokens = 1

    # -- trees

    def tree(self, tree: TokenTree, seq: int | None) -> None:
        """One tree, without a batch where its encoding can."""
        if seq is None:
            raise BatchError("invalid seq=None: expected the sequence of the tree, as in seq=0")
        if not isinstance(self._trees, AncestorTrees):
            self._scratch.clear()
            self.place(self._scratch, seq, tree)
            self.batch(self._scratch)
            return
        self._require_new_tree(seq)
        if len(tree) > self._native.n_batch:
            raise TreeError(
                f"a tree of {len(tree)} nodes does not fit into a pass, which has room for "
                f"{self._native.n_batch}; make the context with a larger n_batch"
            )
        if int(tree.tokens.max(initial=0)) >= self._n_vocab:
            check_tokens(tree.tokens, self._n_vocab, "tree")
        self._outputs._n_rows = self._outputs._n_tokens = 0
        self._trees.decode_alone(seq, tree)
        self._outputs._n_rows = self._outputs._n_tokens = len(tree)

    def place(self, batch: Batch, seq: int, tree: TokenTree) -> slice:
        """Append a new tree to a batch; returns where its nodes stand."""
        self._require_new_tree(seq)
        if seq in batch.tree_sequences:
            raise MemoryStateError(
                f"the batch holds nodes of sequence {seq} that were discarded; clear it first"
            )
        return self._placed(batch, seq, self._trees.place_tree(batch, seq, tree))

    def grow(self, seq: int, tokens: Int32, parents: Int32) -> None:
        """Run new nodes of a tree that is pending."""
        self._scratch.clear()
        self.place_nodes(self._scratch, seq, tokens, parents)
        self.batch(self._scratch)

    def place_nodes(self, batch: Batch, seq: int, tokens: Int32, parents: Int32) -> slice:
        """Append nodes of a tree that may be pending."""
        return self._placed(batch, seq, self._trees.place(batch, seq, tokens, parents))

    def _placed(self, batch: Batch, seq: int, where: slice) -> slice:
        batch.tree_sequences = (*batch.tree_sequences, seq)
        self._waiting_in[seq] = batch
        return where

    def _require_new_tree(self, seq: int) -> None:
        self._native.require_sequence(seq)
        if self._trees.is_pending(seq):
            raise MemoryStateError(
                f"sequence {seq} has pending nodes; grow, commit or discard them before a new tree"
            )

    # -- batches

    def batch(self, batch: Batch) -> None:
        """Text and placed trees; on failure none of the placed nodes is pending."""
        placed = batch.tree_sequences
        for seq in placed:
            if self._waiting_in.get(seq) is not batch or not self._trees.is_placed(seq):
                raise MemoryStateError(
                    f"the nodes of sequence {seq} in this batch were decoded or discarded already; "
                    "clear the batch and place a new tree"
                )
        try:
            self._require_settled_text(batch)
            check_batch(batch, self._limits, self._native.n_seq_ids if placed else self._n_seq_max)
            self._run(batch)
        except BaseException:
            for seq in placed:
                self._trees.undo(seq)
                del self._waiting_in[seq]
            raise
        for seq in placed:
            self._trees.confirm(seq)
            del self._waiting_in[seq]

    def _require_settled_text(self, batch: Batch) -> None:
        """No text may go behind pending nodes of another pass."""
        others = self._pending - set(batch.tree_sequences)
        if others:
            for seq in others & set(batch.sequences.flat.tolist()):
                require_no_pending(self._trees, "decode more of", seq)

    def _run(self, batch: Batch) -> None:
        """A pass over a batch that was checked."""
        self._outputs._n_rows = self._outputs._n_tokens = 0
        struct = batch.as_struct()
        if batch.tree_sequences and self._native.n_chain_max > 0:
            self._native.decode_chains(struct)
        elif (batch.parents == TEXT).all():
            self._native.decode(struct)
        else:
            self._native.decode_tree(struct, batch.parents)
        self._outputs._n_tokens = batch.n_tokens
        self._outputs._n_rows = batch.n_tokens if self._outputs.every_token else batch.n_outputs


def checked_token(token: object, seq: object) -> tuple[int, int]:
    """A token and its sequence as plain integers; ``BatchError`` for anything else."""
    if not is_integer(token):
        raise BatchError(
            f"invalid what={shown(token)}: expected a Batch, a TokenTree or one token id"
        )
    if not is_integer(seq):
        raise BatchError(
            f"invalid seq={shown(seq)}: expected the sequence of the token, as in seq=0"
        )
    return int(token), int(seq)
