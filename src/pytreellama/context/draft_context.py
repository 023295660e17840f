"""DraftContext: a context whose tokens come with a state each, for drafts that models carry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pytreellama.closing import Closing
from pytreellama.context.ancestor_trees import AncestorTrees
from pytreellama.context.batch import Batch
from pytreellama.context.cache import Cache
from pytreellama.context.context import Context
from pytreellama.context.memory import Memory
from pytreellama.context.native_context import NativeContext
from pytreellama.context.outputs import Outputs
from pytreellama.context.sequences import Sequences
from pytreellama.context.token_ids import check_tokens
from pytreellama.errors import BatchError, ContextError
from pytreellama.model.model import Model
from pytreellama.native.decode import TEXT
from pytreellama.native.drafts import draft_states, encode, keep_draft_states
from pytreellama.native.limits import N_SEQ_MAX

Int32 = NDArray[np.int32]
Float32 = NDArray[np.float32]


_N_UBATCH = 128  # buffers for logits grow with it; drafts of all requests have fewer nodes


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens of one sequence for a pass, each with the state that it is conditioned on.

    Attributes:
        tokens: ids, int32, shape (n,), n >= 1.
        states: float32, shape (n, n_embd).
        parents: of nodes, int32, shape (n,), as in ``Context.grow``; None for text.
    """

    seq: int
    tokens: Int32
    states: Float32
    parents: Int32 | None = None


class DraftContext(Closing):
    """A KV cache over NextN layers or an EAGLE-3 model.

    Its tokens come with a state each: of the target below the end of the text, of the draft's own
    beyond it. Nodes are trees by ancestors, as in ``Context``; they are always discarded, because
    text is read with the target's states.

    Attributes:
        native: the native context.
        memory, outputs, sequences: as in ``Context``.
        n_embd: width of the states.
        n_ctx, n_batch: the target's.

    Args:
        model: the target itself for its NextN layers, or an EAGLE-3 model.
        target: the context that it drafts for; it may be closed first.
        n_seq_max: sequences at once.
        is_mtp: run NextN layers.

    Raises:
        ContextError: llama.cpp refuses, or the memory of such a draft cannot hold trees.
    """

    def __init__(self, model: Model, target: Context, *, n_seq_max: int, is_mtp: bool) -> None:
        params = replace(
            target.params,
            n_ctx=target.n_ctx,
            n_ubatch=min(target.n_ubatch, _N_UBATCH),
            n_seq_max=min(n_seq_max, N_SEQ_MAX, target.n_batch),
            kv_unified=True,
            swa_full=True,
            embeddings=False,
        )
        self.native = native = NativeContext(model, params, target=target.native, is_mtp=is_mtp)
        if native.tree_refusal is not None:
            native.close()
            raise ContextError(
                f"the drafts of {model.path.name} ({model.architecture}) need a memory that cannot "
                "hold trees; draft with another drafter"
            )
        keep_draft_states(native.handle)
        self.n_ctx, self.n_batch = native.n_ctx, native.n_batch
        self.n_embd = native.n_embd_out
        self.n_text_max = min(native.n_ctx, model.n_positions or native.n_ctx)
        self._n_vocab = model.vocab.n_tokens
        cache = Cache(native)
        self._trees = AncestorTrees(native, cache)
        self.memory = Memory(native, cache, self._trees)
        self.outputs = Outputs(native, self._n_vocab, every_token=False)
        self.sequences = Sequences(native, self._trees, self.memory)
        self._batch = Batch(native.n_batch)

    @property
    def closed(self) -> bool:
        return self.native.closed

    def close(self) -> None:
        """Free the cache and buffers; a second call does nothing."""
        self.native.close()

    @property
    def is_batch_invariant(self) -> bool:
        """True where nothing in the graph depends on what else is in a pass."""
        return self.native.has_invariant_graph

    def encode(self, rows: Float32) -> Float32:
        """EAGLE-3's encoder: three layers' states side by side become states of the draft.

        Raises:
            DecodeError: the backend failed or was aborted.
        """
        with self.native.exclusive():
            return encode(self.native.handle, np.ascontiguousarray(rows), self.n_embd)

    def decode(self, pieces: Sequence[Piece], *, flagged: bool = True) -> list[slice]:
        """One pass over text and nodes of any sequences.

        Args:
            pieces: at most ``n_batch`` tokens in all, a piece a sequence.
            flagged: compute logits and states of all tokens; otherwise of none.

        Returns:
            Of each piece, its rows of ``outputs`` and ``states``.

        Raises:
            BatchError, TreeError: tokens or nodes that do not fit; nothing has changed.
            CacheFullError: no room in the KV cache; nothing has changed.
            DecodeError: the backend failed or was aborted.
        """
        n_tokens = sum(len(piece.tokens) for piece in pieces)
        if n_tokens > self.n_batch:
            raise BatchError(f"{n_tokens} tokens do not fit into a pass of {self.n_batch}")
        with self.native.exclusive():
            self._batch.clear()
            placed: list[int] = []
            try:
                places = [self._place(piece, flagged, placed) for piece in pieces]
                self._run(np.concatenate([piece.states for piece in pieces]))
            except BaseException:
                for seq in placed:
                    self._trees.undo(seq)
                raise
            for seq in placed:
                self._trees.confirm(seq)
            self.outputs._n_tokens = n_tokens
            self.outputs._n_rows = n_tokens if flagged else 0
        return places

    def states(self) -> Float32:
        """The draft's own states of the last flagged pass, float32, shape (n_tokens, n_embd)."""
        with self.native.exclusive():
            return draft_states(self.native.handle, self.outputs.n_rows, self.n_embd)

    def discard(self, seq: int) -> None:
        """Free all nodes of a sequence; without any it does nothing."""
        with self.native.exclusive():
            self._trees.discard(seq)

    def _place(self, piece: Piece, flagged: bool, placed: list[int]) -> slice:
        check_tokens(piece.tokens, self._n_vocab, "draft")
        if piece.states.shape != (len(piece.tokens), self.n_embd):
            raise BatchError(
                f"states of shape {piece.states.shape} for {len(piece.tokens)} tokens: expected "
                f"({len(piece.tokens)}, {self.n_embd})"
            )
        if piece.parents is not None:
            where = self._trees.place(self._batch, piece.seq, piece.tokens, piece.parents)
            placed.append(piece.seq)
            return where
        start = self._trees.n_past(piece.seq)
        positions = np.arange(start, start + len(piece.tokens))
        return self._batch.add(piece.tokens, positions, piece.seq, logits=flagged)

    def _run(self, states: Float32) -> None:
        self.outputs._n_rows = self.outputs._n_tokens = 0
        struct = self._batch.as_struct()
        struct.set_states(np.ascontiguousarray(states, np.float32))
        try:
            if (self._batch.parents == TEXT).all():
                self.native.decode(struct)
            else:
                self.native.decode_tree(struct, self._batch.parents)
        finally:
            struct.set_states(None)
