"""Context: a model at work, with its KV cache; decodes batches and trees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytreellama.context.ancestor_trees import AncestorTrees
from pytreellama.context.batch import Batch
from pytreellama.context.batch_check import check_batch
from pytreellama.context.cache import Cache
from pytreellama.context.memory import Memory
from pytreellama.context.memory_check import require_memory_for
from pytreellama.context.native_context import NativeContext
from pytreellama.context.outputs import Float32, Outputs, token_array
from pytreellama.context.params import ContextParams
from pytreellama.context.sequence_trees import SequenceTrees
from pytreellama.context.state_chains import StateChains
from pytreellama.context.tree_encoding import TreeEncoder, TreeEncoding, require_no_pending
from pytreellama.errors import BatchError, ContextError, MemoryStateError
from pytreellama.model.model import Model
from pytreellama.native.context import n_reused_graphs
from pytreellama.native.decode import TEXT
from pytreellama.system import cpu_features, devices, has_invariant_products
from pytreellama.tree import TokenTree

Int32 = NDArray[np.int32]


class Context(Outputs):
    """A KV cache over a model, and the passes that fill it.

    A context belongs to one thread at a time: a second thread that calls it meanwhile gets a
    ``ContextError``. While a pass runs the GIL is released.

    Attributes:
        can_roll_back: guesses can be taken back without a copy of the memory before each tree.
        n_nodes_max: most nodes that certainly find room in one pass beside full texts: what a cache
            of a sliding window's own size (``swa_full=False``) has beyond the windows.
        tree_encoding: the one that is used.

    Args:
        model: the model; it may be closed while the context goes on.
        params: sizes and types; or give them by name, as in ``Context(model, n_ctx=8192)``.
        tree_encoding: how the nodes of a tree are told apart in the cache; by default by their
            ancestors, or by sequence ids where the model's memory takes no others.

    Raises:
        ContextError: sizes that do not fit the model or this machine's memory, a model that is
            not a decoder, or a tree encoding that its memory cannot hold.
    """

    def __init__(
        self,
        model: Model,
        params: ContextParams | None = None,
        *,
        tree_encoding: TreeEncoding | None = None,
        **options: Any,
    ) -> None:
        if params is not None and options:
            raise ContextError(f"give params or {', '.join(options)} by name, not both")
        if model.vocab_only:
            raise ContextError(
                f"{model.path.name} was loaded with vocab_only; load its weights too"
            )
        if not model.can_generate:
            raise ContextError(
                f"{model.path.name} ({model.architecture}) generates no text: {model.refusal}; "
                "load a decoder model"
            )
        self.params = params or _params_by_name(options)
        require_memory_for(model, self.params)
        self.model = model
        native = NativeContext(model, self.params)
        super().__init__(native, model.vocab.n_tokens, self.params.embeddings)
        self.kv_unified = native.kv_unified
        self.n_ctx, self.n_batch, self.n_ubatch = native.n_ctx, native.n_batch, native.n_ubatch
        self.n_seq_max, self.n_threads = native.n_seq_max, native.n_threads
        window_drops_cells = model.n_swa > 0 and not self.params.swa_full
        self.tree_encoding = _encoding_for(model, native, tree_encoding)
        by_ancestors = self.tree_encoding is TreeEncoding.ANCESTORS
        self.can_roll_back = by_ancestors or (model.can_branch and not window_drops_cells)
        room = min(self.n_batch, self.n_ubatch) if window_drops_cells else self.n_batch
        self.n_nodes_max = max(room, self.n_seq_max)
        self._cache = Cache(native)
        self._trees: TreeEncoder
        if not (model.can_branch or by_ancestors):
            self._trees = StateChains(native, self._cache, self.decode)
        elif by_ancestors:
            self._trees = AncestorTrees(native, self._cache)
        else:
            self._trees = SequenceTrees(native, self._cache, window_drops_cells)
        self.memory = Memory(native, self._cache, self._trees)
        self._free_ids = list(range(self.n_seq_max))
        self._scratch = Batch(self.n_batch)

    # -- life

    @property
    def closed(self) -> bool:
        return self.native.closed

    def close(self) -> None:
        """Free the cache and buffers; a second call does nothing."""
        self.native.close()

    def __repr__(self) -> str:
        if self.closed:
            return "<Context: closed>"
        return (
            f"<Context on {self.model.path.name}: n_ctx {self.n_ctx}, n_seq_max {self.n_seq_max}>"
        )

    def abort(self) -> None:
        """End the pass that another thread is waiting for: its ``decode`` raises ``DecodeError``.

        Works where the backend asks (the CPU does). The next pass runs as usual.
        """
        self.native.abort()

    @property
    def is_batch_invariant(self) -> bool:
        """True where a token's logits do not depend on what else is in its pass, to the last bit.

        On CPUs whose products have such bits, for models whose attention is flash attention over
        cells in the order of positions; on no GPU yet. ``docs/exactness.md`` lists exceptions.
        """
        on_cpu = all(device.kind == "cpu" for device in devices())
        has_products = on_cpu and has_invariant_products(cpu_features())
        return has_products and self.native.has_invariant_graph

    # -- sequences

    def new_sequence(self) -> int:
        """An unused sequence id.

        Raises:
            ContextError: all ``n_seq_max`` ids are in use.
        """
        with self.exclusive():
            for seq in self._free_ids:
                # an id that was filled by name, or by loading a state, is in use too
                if self._trees.n_past(seq) == 0 and not self._trees.is_pending(seq):
                    self._free_ids.remove(seq)
                    return seq
        raise ContextError(
            f"all {self.n_seq_max} sequences of this context are in use; free one, or make "
            "the context with a larger n_seq_max"
        )

    def free_sequence(self, seq: int) -> None:
        """Forget a sequence, pending nodes too, and give its id back."""
        self.native.require_sequence(seq)
        with self.exclusive():
            self.discard(seq)
            self.memory.rm(seq)
            if seq not in self._free_ids:
                self._free_ids.append(seq)
                self._free_ids.sort()

    def n_past(self, seq: int) -> int:
        """The position after a sequence's committed text."""
        self.native.require_sequence(seq)
        with self.exclusive():
            return self._trees.n_past(seq)

    def prefill(
        self,
        tokens: Sequence[int] | Int32,
        seq: int | None = None,
        *,
        logits: bool = False,
        progress: Callable[[float], None] | None = None,
    ) -> int:
        """Append a text to a sequence, in passes of at most ``n_batch`` tokens.

        Args:
            tokens: ids, shape (n,), n >= 1.
            seq: the sequence to go on with; a new one by default.
            logits: compute the logits of the last token (row 0 of ``logits``).
            progress: called with the share done after each pass.

        Returns:
            The sequence id.

        Raises:
            BatchError: empty, or ids out of range.
            MemoryStateError: a sequence with pending nodes.
            CacheFullError, DecodeError: the sequence is then as it was before (of a recurrent
                model: if it was empty; otherwise ``MemoryStateError`` says that it is not).
        """
        ids = token_array(tokens)
        if len(ids) == 0:
            raise BatchError("an empty text cannot be prefilled; give at least one token")
        with self.exclusive():
            require_no_pending(self._trees, "prefill", seq)
            target = self.new_sequence() if seq is None else seq
            start = self._trees.n_past(target)
            try:
                self._prefill(ids, target, start, logits, progress)
            except BaseException:
                if seq is None:
                    self.free_sequence(target)
                else:
                    self._cache.rm(target, start, -1)
                raise
            return target

    def _prefill(
        self,
        ids: Int32,
        seq: int,
        start: int,
        logits: bool,
        progress: Callable[[float], None] | None,
    ) -> None:
        batch = self._scratch
        for begin in range(0, len(ids), self.n_batch):
            part = ids[begin : begin + self.n_batch]
            end = begin + len(part)
            flags = np.zeros(len(part), dtype=np.bool_)
            flags[-1] = logits and end == len(ids)
            batch.clear()
            batch.add(part, np.arange(start + begin, start + end), seq, flags)
            self.decode(batch)
            if progress is not None:
                progress(end / len(ids))

    # -- passes

    def decode(self, batch: Batch) -> None:
        """Run the model over a batch; its tokens join the cache.

        The logits of the flagged tokens are then rows of ``logits``, in the batch's order.

        Raises:
            BatchError: what llama.cpp must not see; nothing has changed.
            CacheFullError: no room in the cache; nothing has changed.
            DecodeError: the backend failed or was aborted. Passes of ``n_ubatch`` tokens that
                were already done remain in the cache.
        """
        with self.exclusive():
            for seq in self._trees.pending_sequences.intersection(batch.sequences.flat.tolist()):
                require_no_pending(self._trees, "decode more of", seq)
            self._run(batch, self.n_seq_max)

    def decode_one(self, seq: int, token: int) -> None:
        """Run the model over the next token of a sequence: a plain step, without a batch.

        Its logits are then the one row of ``logits``.

        Raises:
            BatchError: an id out of range; nothing has changed.
            MemoryStateError: the sequence has pending nodes.
            CacheFullError, DecodeError: as ``decode``.
        """
        with self.exclusive():
            if not (0 <= token < self.n_vocab and 0 <= seq < self.n_seq_max):
                raise BatchError(
                    f"token {token} of sequence {seq} was asked for; token ids are from 0 to "
                    f"{self.n_vocab - 1}, sequences from 0 to {self.n_seq_max - 1}"
                )
            require_no_pending(self._trees, "decode more of", seq)
            self._n_outputs = 0
            self.native.decode_one(seq, token)
            self._n_outputs = 1

    def _run(self, batch: Batch, n_seq_ids: int) -> None:
        with self.exclusive():
            check_batch(batch, self, n_seq_ids)
            self._n_outputs = 0
            struct = batch.as_struct()
            if (batch.parents == TEXT).all():
                self.native.decode(struct)
            else:
                self.native.decode_tree(struct, batch.parents)
            self._n_outputs = batch.n_tokens if self.params.embeddings else batch.n_outputs

    # -- trees

    def decode_tree(self, seq: int, tree: TokenTree) -> Float32:
        """Run the model over a whole tree in one pass; its nodes stay pending.

        Each node sees the sequence's committed text and its own ancestors, nothing else; it
        stands at position ``n_past + depth``. Then ``commit`` a path, or ``discard`` all.

        Returns:
            Logits, float32, shape (n_nodes, n_vocab): a copy. Row i belongs to node i.

        Raises:
            TreeError: empty, too large, or with branches where the model cannot branch.
            MemoryStateError: the sequence has pending nodes already; use ``grow_tree``.
            BatchError, CacheFullError, DecodeError: as ``decode``; no nodes are then pending.
        """
        with self.exclusive():
            batch = self._scratch
            batch.clear()
            self.add_tree(batch, seq, tree)
            self.decode_trees(batch, [seq])
            return self.logits

    def grow_tree(
        self, seq: int, tokens: Sequence[int] | Int32, parents: Sequence[int] | Int32
    ) -> Float32:
        """Add nodes to a pending tree in a further pass.

        Args:
            tokens: ids of the new nodes, shape (n,).
            parents: the parent of each: an index into all pending nodes, the new ones counted on
                from the old; -1 is the end of the committed text.

        Returns:
            Logits of the new nodes, float32, shape (n, n_vocab): a copy.

        Raises:
            As ``decode_tree``; the nodes that were pending before stay so.
        """
        self.native.require_sequence(seq)
        with self.exclusive():
            batch = self._scratch
            batch.clear()
            self._trees.place(batch, seq, token_array(tokens), token_array(parents))
            self.decode_trees(batch, [seq])
            return self.logits

    def add_tree(self, batch: Batch, seq: int, tree: TokenTree) -> slice:
        """Append a tree to a batch that will be decoded with ``decode_trees``.

        Several sequences' trees may share one batch, hence one pass over the weights.

        Returns:
            Where the nodes stand in the batch, which is also where their rows of logits are if
            the batch holds nothing but trees.
        """
        self.native.require_sequence(seq)
        with self.exclusive():
            if self._trees.is_pending(seq):
                raise MemoryStateError(
                    f"sequence {seq} has pending nodes; grow, commit or discard them before a new "
                    "tree"
                )
            return self._trees.place(batch, seq, tree.tokens, tree.parents)

    def decode_one_tree(self, seq: int, tree: TokenTree) -> None:
        """As ``add_tree`` and ``decode_trees`` for one tree alone, without a batch where possible.

        Its nodes' logits are then the rows of ``logits``; on failure nothing has changed.
        """
        if not isinstance(self._trees, AncestorTrees):
            self._scratch.clear()
            self.add_tree(self._scratch, seq, tree)
            self.decode_trees(self._scratch, [seq])
            return
        self.native.require_sequence(seq)
        with self.exclusive():
            require_no_pending(self._trees, "decode a new tree of", seq)
            if len(tree) > self.n_batch or int(tree.tokens.max(initial=0)) >= self.n_vocab:
                raise BatchError(
                    f"a tree of {len(tree)} nodes with tokens up to {tree.tokens.max(initial=0)} "
                    f"was given; a pass takes {self.n_batch} at most, and token ids are from 0 to "
                    f"{self.n_vocab - 1}"
                )
            self._n_outputs = 0
            self._trees.decode_one(seq, tree)
            self._n_outputs = len(tree)

    def decode_trees(self, batch: Batch, seqs: Sequence[int]) -> None:
        """``decode`` for a batch made by ``add_tree``; on failure none of its nodes is pending."""
        with self.exclusive():
            for seq in seqs:
                if not self._trees.is_pending(seq):
                    raise MemoryStateError(
                        f"sequence {seq} has no nodes in this batch; use add_tree"
                    )
            try:
                self._run(batch, self.native.n_seq_ids)
            except BaseException:
                for seq in seqs:
                    self._trees.undo(seq)
                raise
            for seq in seqs:
                self._trees.confirm(seq)

    def commit(self, seq: int, path: Sequence[int]) -> None:
        """Make a path of the pending tree part of the text, and free all other nodes.

        Args:
            path: node indices from a root downwards, each the parent of the next; may be empty.

        Where the model keeps a recurrent state, a part of a chain is decoded again, so the rows
        of ``logits`` are gone then.

        Raises:
            TreeError: not such a path.
            MemoryStateError: the sequence has no pending nodes.
            DecodeError: that further pass failed (recurrent models only).
        """
        with self.exclusive():
            self._trees.commit(seq, path)

    def prune(self, seq: int, keep: Sequence[int]) -> Int32:
        """Free all pending nodes except some and their ancestors.

        What stays can be grown and committed as before, so a search may go on for as long as the
        cache and 1,024 pending nodes hold what it still needs.

        Args:
            keep: nodes that stay, with all their ancestors; empty discards the tree.

        Returns:
            The new number of each node, int32, shape (n_nodes,); -1 for nodes that are gone.
            Nodes that stay keep their order.

        Raises:
            TreeError: not a pending node, or a model that cannot branch.
            MemoryStateError: the sequence has no pending nodes.

        Example:
            >>> context.decode_tree(seq, TokenTree.from_parents([5, 6, 7], [-1, -1, 0]))
            >>> context.prune(seq, [2])
            array([ 0, -1,  1], dtype=int32)
        """
        with self.exclusive():
            return self._trees.prune(seq, keep)

    def discard(self, seq: int) -> None:
        """Free all pending nodes of a sequence; without any it does nothing."""
        with self.exclusive():
            self._trees.discard(seq)

    @property
    def n_text_max(self) -> int:
        """Tokens of the longest text: what the cache holds, and the model has positions for."""
        return min(self.n_ctx, self.model.n_positions or self.n_ctx)

    @property
    def n_spare_leaves(self) -> int:
        """Leaves that trees may have beyond the first of each, in all sequences together."""
        return self._trees.n_spare_leaves

    def is_pending(self, seq: int) -> bool:
        """True while a sequence has nodes that were neither committed nor discarded."""
        return self._trees.is_pending(seq)

    # -- for tests

    @property
    def n_reused_graphs(self) -> int:
        """Passes that could use the graph of the pass before."""
        return n_reused_graphs(self.native.handle)

    # -- what batch_check asks

    def position_ranges(self, seq_ids: Int32) -> tuple[Int32, Int32]:
        """Smallest and largest position in the cache of each sequence, -1 where empty."""
        return self._cache.ranges(seq_ids)


def _encoding_for(model: Model, native: NativeContext, wanted: TreeEncoding | None) -> TreeEncoding:
    if wanted is TreeEncoding.ANCESTORS and model.can_branch and not native.has_trees:
        raise ContextError(
            "this model's memory cannot hold trees by ancestors; leave tree_encoding out, or take "
            "TreeEncoding.SEQUENCES"
        )
    default = TreeEncoding.ANCESTORS if native.has_trees else TreeEncoding.SEQUENCES
    return wanted or default


def _params_by_name(options: dict[str, Any]) -> ContextParams:
    known = ContextParams.__dataclass_fields__
    unknown = [name for name in options if name not in known]
    if unknown:
        raise ContextError(
            f"a context has no parameter {', '.join(unknown)}; it has {', '.join(known)}"
        )
    return ContextParams(**options)
