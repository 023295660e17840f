"""Context: a model at work, with its KV cache; decodes batches and trees."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from pytreellama.closing import Closing
from pytreellama.context.batch import Batch
from pytreellama.context.cache import Cache
from pytreellama.context.deprecated import DeprecatedNames
from pytreellama.context.encoders import choose_encoding, make_encoder
from pytreellama.context.memory import Memory
from pytreellama.context.memory_check import require_memory_for, require_types_for
from pytreellama.context.native_context import NativeContext
from pytreellama.context.outputs import Outputs
from pytreellama.context.params import ContextParams
from pytreellama.context.passes import Passes, checked_token
from pytreellama.context.sequences import Sequences
from pytreellama.context.token_ids import check_tokens, token_array
from pytreellama.context.tree_encoding import TreeEncoding, require_no_pending
from pytreellama.errors import BatchError, ContextError, did_you_mean, shown
from pytreellama.model.lora import AdapterSet, Lora, adapter_set
from pytreellama.model.model import Model
from pytreellama.native.context import n_reused_graphs
from pytreellama.system import cpu_features, devices, has_invariant_products
from pytreellama.tree import TokenTree

Int32 = NDArray[np.int32]

DraftShape = Literal["trees", "chains", "plain"]


class Context(DeprecatedNames, Closing):
    """A KV cache over a model, and the passes that fill it.

    A context belongs to one thread at a time: a call from a second thread during a call of the
    first raises ``ContextError``. The GIL is released while a pass runs.

    Attributes:
        memory: operations on the KV cache by sequence and position.
        outputs: logits and hidden states of the last pass.
        sequences: the sequence ids, and what each holds.
        can_roll_back: draft nodes can be removed without a copy of the memory before each tree.
        n_nodes_max: most nodes that certainly fit into one pass next to full texts: what a cache
            of a sliding window's own size (``swa_full=False``) has beyond the windows.
        tree_encoding: the one in use.
        devices: the GPUs that compute a part of its passes, with their memory before it was made.

    Args:
        model: the model; it may be closed before the context.
        params: sizes and types; or give them by name, as in ``Context(model, n_ctx=8192)``.
        tree_encoding: how the cache tells the nodes of a tree apart; by default by their
            ancestors, or by sequence ids where the model's memory takes no others.

    Raises:
        ContextError: sizes that do not fit the model or this machine's memory, a model that is
            not a decoder, or a tree encoding that its memory cannot hold.

    Example:
        >>> with Context(model, n_ctx=4096) as context:
        ...     seq = context.prefill([1, 2, 3])
        ...     logits = context.decode(tree, seq=seq).logits  # float32, (n_nodes, n_vocab)
        ...     context.commit(seq, path=[0, 1])
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
        _require_decoder(model)
        self.params = params or _params_by_name(options)
        require_types_for(model, self.params)
        require_memory_for(model, self.params)
        self.model, self.devices = model, model.devices
        self.n_vocab = model.vocab.n_tokens
        self.native = native = NativeContext(model, self.params)
        self.kv_unified = native.kv_unified
        self.n_ctx, self.n_batch, self.n_ubatch = native.n_ctx, native.n_batch, native.n_ubatch
        self.n_seq_max, self.n_threads = native.n_seq_max, native.n_threads
        window_drops_cells = model.n_swa > 0 and not self.params.swa_full
        self.tree_encoding = choose_encoding(model, native, tree_encoding)
        by_ancestors = self.tree_encoding is TreeEncoding.ANCESTORS
        rolls_back = native.n_chain_max > 0 or (model.can_branch and not window_drops_cells)
        self.can_roll_back = by_ancestors or rolls_back
        in_one_part = window_drops_cells or not model.can_branch
        room = min(self.n_batch, self.n_ubatch) if in_one_part else self.n_batch
        has_states = by_ancestors and not model.can_branch  # which hold no more than a pass
        self.n_nodes_max = room if has_states else max(room, self.n_seq_max)
        self._cache = Cache(native)
        self._trees = make_encoder(
            model, self._cache, native, self.tree_encoding, window_drops_cells, self.decode
        )
        self.memory = Memory(native, self._cache, self._trees)
        self.outputs = Outputs(native, self.n_vocab, self.params.embeddings)
        self.sequences = Sequences(native, self._trees, self.memory)
        self._passes = Passes(native, self._cache, self._trees, self.outputs)

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

    def exclusive(self) -> AbstractContextManager[None]:
        """Hold the context for this thread; another thread's call meanwhile raises."""
        return self.native.exclusive()

    def abort(self) -> None:
        """End the pass that another thread is waiting for: its ``decode`` raises ``DecodeError``.

        Works where the backend asks (the CPU does). The next pass runs as usual.
        """
        self.native.abort()

    @property
    def is_batch_invariant(self) -> bool:
        """True where a token's logits do not depend on what else is in its pass, to the last bit.

        On CPUs whose products have such bits, for models whose attention is flash attention over
        cells in the order of positions, and of which no GPU computes a part.
        ``docs/exactness.md`` lists exceptions.
        """
        on_cpu = not self.devices and not any(one.kind == "accelerator" for one in devices())
        has_products = on_cpu and has_invariant_products(cpu_features())
        return has_products and self.native.has_invariant_graph

    @property
    def can_branch(self) -> bool:
        """True if trees with branches can be evaluated; False if only chains can."""
        return self.sequences.n_spare_leaves > 0

    @property
    def n_tree_max(self) -> int:
        """Most nodes of one sequence's tree that need no copy of its state."""
        return self.native.n_chain_max or self.n_batch

    @property
    def draft_shape(self) -> DraftShape:
        """What an engine drafts: "trees", "chains", or nothing: "plain"."""
        if not self.can_roll_back:
            return "plain"
        return "trees" if self.can_branch else "chains"

    @property
    def node_bytes(self) -> int:
        """Bytes of recurrent state that a pending node holds; of a tree, once one was decoded."""
        return self._cache.state_bytes if self.native.n_chain_max else self.native.node_bytes

    @property
    def n_text_max(self) -> int:
        """Tokens of the longest text: what the cache holds, and the model has positions for."""
        return min(self.n_ctx, self.model.n_positions or self.n_ctx)

    @property
    def n_reused_graphs(self) -> int:
        """Passes that could use the graph of the pass before."""
        return n_reused_graphs(self.native.handle)

    # -- passes

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
            seq: the sequence to append to; a new one by default.
            logits: compute the logits of the last token (row 0 of ``outputs``).
            progress: called after each pass with the share of the tokens that is done.

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
            check_tokens(ids, self.n_vocab, "text")
            target = self.sequences.new() if seq is None else seq
            start = self._trees.n_past(target)
            try:
                self._passes.prefill(ids, target, start, logits, progress)
            except BaseException:
                if seq is None:
                    self.sequences.free(target)
                else:
                    self._cache.rm(target, start, -1)
                raise
            return target

    @overload
    def decode(self, what: Batch) -> Outputs: ...

    @overload
    def decode(self, what: TokenTree | int, *, seq: int) -> Outputs: ...

    def decode(self, what: Batch | TokenTree | int, *, seq: int | None = None) -> Outputs:
        """Run the model over a batch, a tree or one token, in one pass.

        Text joins the KV cache. The nodes of trees stay pending: each sees its sequence's committed
        text and its own ancestors, nothing else, and stands at position ``n_past + depth``.
        Afterwards ``commit`` a path, ``grow`` the tree, ``prune`` it, or ``discard`` it.

        Args:
            what: a ``Batch`` of text and placed trees of any sequences; or a ``TokenTree`` or the
                id of the next token, for which logits are computed at every node.
            seq: the sequence of a tree or token; a batch knows its own.

        Returns:
            ``outputs``: row i is the i-th token of the batch whose logits were asked for,
                or node i of the tree.

        Raises:
            BatchError: what llama.cpp must not see, such as ids out of range.
            TreeError: a tree that is empty or too large, or one with branches where the model
                cannot branch.
            MemoryStateError: a sequence with pending nodes, or placed nodes that were discarded.
            CacheFullError: no room in the KV cache.
            DecodeError: the backend failed or was aborted. Text in passes of ``n_ubatch`` tokens
                that were already done remains in the cache.

            After all but the last nothing has changed, and after any error no node of this pass
            is pending.
        """
        with self.native.exclusive():
            if type(what) is int and type(seq) is int:  # first: every plain step comes here
                self._passes.token(what, seq)
            elif isinstance(what, Batch):
                if seq is not None:
                    raise BatchError(
                        f"invalid seq={shown(seq)}: expected None, a batch has its own"
                    )
                self._passes.batch(what)
            elif isinstance(what, TokenTree):
                self._passes.tree(what, seq)
            else:
                self._passes.token(*checked_token(what, seq))
        return self.outputs

    @property
    def adapters(self) -> AdapterSet:
        """LoRA adapters of the next pass, each with its scale."""
        return self.native.adapters

    def use_adapters(self, adapters: Iterable[tuple[Lora, float]] = ()) -> None:
        """From the next pass on, use these LoRA adapters and no others.

        What is in the KV cache stays as it was computed: continue a sequence with the adapters
        that it began with.

        Args:
            adapters: each with its scale; scale 0 leaves it out.

        Raises:
            ModelLoadError: a scale that is no number, or an adapter that is closed or another
                model's.
            MemoryStateError: a sequence has pending nodes, which belong to the adapters before.
            ContextError: no memory for their graphs.

        Example:
            >>> context.use_adapters([(model.load_lora("style.gguf"), 0.5)])
        """
        wanted = adapters if isinstance(adapters, tuple) else adapter_set(adapters)
        if wanted == self.native.adapters:
            return
        with self.exclusive():
            for seq in self._trees.pending_sequences:
                require_no_pending(self._trees, "change the adapters of", seq)
            for adapter, _ in wanted:
                adapter.require_for(self.model)
            self.native.use_adapters(adapter_set(wanted))

    # -- trees

    def place(self, batch: Batch, seq: int, tree: TokenTree) -> slice:
        """Append a tree to a batch, which ``decode`` then runs.

        Several sequences' trees may share one batch, hence one pass over the weights.

        Returns:
            Where the nodes stand in the batch, which is also where their rows of ``outputs`` are if
            the logits of all the batch's tokens are asked for.

        Raises:
            TreeError, MemoryStateError: as ``decode`` of a tree; the batch is as it was.
        """
        self.native.require_sequence(seq)
        with self.exclusive():
            return self._passes.place(batch, seq, tree)

    def place_nodes(
        self,
        batch: Batch,
        seq: int,
        tokens: Sequence[int] | Int32,
        parents: Sequence[int] | Int32,
    ) -> slice:
        """As ``place``, for nodes of a tree that may be pending; ``parents`` as in ``grow``.

        So one pass adds a level to the trees of many sequences.
        """
        self.native.require_sequence(seq)
        with self.exclusive():
            ids, above = token_array(tokens), token_array(parents)
            return self._passes.place_nodes(batch, seq, ids, above)

    def grow(
        self, seq: int, tokens: Sequence[int] | Int32, parents: Sequence[int] | Int32
    ) -> Outputs:
        """Add nodes to a pending tree in a further pass.

        Args:
            tokens: ids of the new nodes, shape (n,).
            parents: the parent of each: an index into all pending nodes, the new ones counted on
                from the old; -1 is the end of the committed text.

        Returns:
            ``outputs``, with a row for each new node.

        Raises:
            As ``decode``; the nodes that were pending before stay so.
        """
        self.native.require_sequence(seq)
        with self.exclusive():
            self._passes.grow(seq, token_array(tokens), token_array(parents))
            return self.outputs

    def commit(self, seq: int, path: Sequence[int]) -> None:
        """Make a path of the pending tree part of the text, and free all other nodes.

        Args:
            path: node indices from a root downwards, each the parent of the next; may be empty.

        Where the model keeps a recurrent state, a part of a chain is decoded again, so the rows
        of ``outputs`` are gone then.

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
            >>> context.decode(TokenTree.from_parents([5, 6, 7], [-1, -1, 0]), seq=seq)
            >>> context.prune(seq, [2])
            array([ 0, -1,  1], dtype=int32)
        """
        with self.exclusive():
            return self._trees.prune(seq, keep)

    def discard(self, seq: int) -> None:
        """Free all pending nodes of a sequence; without any it does nothing."""
        with self.exclusive():
            self._trees.discard(seq)


def _require_decoder(model: Model) -> None:
    if model.vocab_only:
        raise ContextError(f"{model.path.name} was loaded with vocab_only; load its weights too")
    if not model.can_generate:
        raise ContextError(
            f"{model.path.name} ({model.architecture}) generates no text: {model.refusal}; load a "
            "decoder model"
        )


def _params_by_name(options: dict[str, Any]) -> ContextParams:
    known = ContextParams.__dataclass_fields__
    unknown = [name for name in options if name not in known]
    if unknown:
        raise ContextError(
            f"a context has no parameter {', '.join(unknown)}; it has {', '.join(known)}"
            f"{did_you_mean(unknown[0], known)}"
        )
    return ContextParams(**options)
