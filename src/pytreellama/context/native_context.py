"""The native context: how it is made, its true sizes, who may use it, and its end."""

from __future__ import annotations

import threading
import time
from contextlib import AbstractContextManager

from pytreellama.context.kept_states import n_kept_states
from pytreellama.context.params import ContextParams, default_n_threads, is_integer
from pytreellama.errors import ContextError, MemoryStateError, shown
from pytreellama.model.model import Model
from pytreellama.native import chain as native_chain
from pytreellama.native import context as native_context
from pytreellama.native import decode as native_decode
from pytreellama.native import tree as native_tree
from pytreellama.native.batch import BatchStruct
from pytreellama.native.context import AbortFlag, ContextFields
from pytreellama.native.decode import Int32
from pytreellama.native.handle import Handle
from pytreellama.native.limits import N_SEQ_MAX
from pytreellama.process import ProcessWatch
from pytreellama.tree import TokenTree

_EXIT_S = 30.0  # a pass that no abort ends (a backend that does not ask) may take so long at exit
_AGAIN_S = 0.01


class NativeContext:
    """Owns a ``struct llama_context``; what works on its cache shares this object.

    Attributes:
        handle: the native object; its use raises after ``close``.
        n_ctx, n_batch, n_ubatch, n_seq_max, n_threads: the sizes that hold; llama.cpp rounds some.
        n_passes: passes that were begun.
        no_hidden: why hidden states cannot be had; None if they can.
        n_chain_max: most tokens of a chain that a recurrent state can be rolled back over.

    Args:
        model: whose weights it runs; they stay in memory as long as it does.
        params: what was asked for.
        target: the context that this one drafts for; it stays in memory as long as this one.
        is_mtp: run the model's NextN layers instead of the others.

    Raises:
        ContextError: llama.cpp refuses.
    """

    def __init__(
        self,
        model: Model,
        params: ContextParams,
        *,
        target: NativeContext | None = None,
        is_mtp: bool = False,
    ) -> None:
        self._lock = _Exclusive()
        self._is_inherited = False
        self._model = model.handle.share()
        self._abort = AbortFlag()
        self.handle = self._made(model, params, target, is_mtp)
        self.no_hidden = _no_hidden(model, self.handle)
        if params.embeddings and self.no_hidden is not None:
            self.handle.close()
            raise ContextError(f"invalid embeddings=True: {self.no_hidden}")
        self.n_passes = 0
        self.n_chain_max = native_chain.n_max(self.handle)
        self._threads = native_context.attach_threads(self.handle)
        _contexts.add(self)
        self.kv_unified = params.kv_unified
        sizes = native_context.sizes(self.handle)
        self.n_ctx, self.n_batch, self.n_ubatch = sizes.n_ctx, sizes.n_batch, sizes.n_ubatch
        self.n_seq_max, self.n_threads = sizes.n_seq_max, sizes.n_threads
        self.n_embd_out = model.n_embd_out
        self.has_invariant_graph = native_context.is_batch_invariant(self.handle)

    def _made(
        self, model: Model, params: ContextParams, target: NativeContext | None, is_mtp: bool
    ) -> Handle:
        """The native object; made again where it is to keep states behind the tokens of chains."""

        def make(n_rs_seq: int) -> Handle:
            return native_context.make_context(
                self._model,
                _fields(params, n_rs_seq),
                self._abort,
                str(params),
                target=None if target is None else target.handle,
                is_mtp=is_mtp,
            )

        handle = make(0)
        try:
            n_states = n_kept_states(model, params, handle)
        except BaseException:
            handle.close()
            raise
        if n_states == 0:
            return handle
        handle.close()
        return make(n_states)

    @property
    def tree_refusal(self) -> str | None:
        """Why this memory cannot hold trees by ancestors; None if it can."""
        return native_tree.tree_refusal(self.handle)

    @property
    def node_bytes(self) -> int:
        """Bytes that trees on recurrent states keep of a node; 0 before the first."""
        return native_tree.node_bytes(self.handle)

    @property
    def n_seq_ids(self) -> int:
        """Sequence ids that llama.cpp takes: a unified cache has more than the user's own."""
        return N_SEQ_MAX if self.kv_unified else self.n_seq_max

    def require_sequence(self, seq: int) -> None:
        """Raise ``MemoryStateError`` unless this is a sequence that a user may name."""
        if not is_integer(seq) or not 0 <= seq < self.n_seq_max:
            raise MemoryStateError(
                f"sequence id {shown(seq)} is out of range; this context has ids from 0 to "
                f"{self.n_seq_max - 1}"
            )

    def require_open(self) -> None:
        """Raise ``ContextError`` after ``close``."""
        self.handle.pointer  # noqa: B018

    @property
    def closed(self) -> bool:
        return self.handle.closed

    def close(self) -> None:
        """Free the context; a second call does nothing."""
        if self._is_inherited:
            return
        with self.exclusive():
            self.handle.close()
            if self._threads is not None:
                self._threads.close()
            self._model.close()

    def stop_at_exit(self) -> None:
        """End the pass that runs, and refuse all others: static objects go next."""
        deadline = time.monotonic() + _EXIT_S
        while time.monotonic() < deadline:
            self.abort()  # a pass that just begins forgets an abort that came before
            if self._lock.refuse_all("the program ends", wait_s=_AGAIN_S):
                return

    def disown_after_fork(self) -> None:
        """Refuse all use: the threads that a pass needs are the parent's, as is the memory."""
        self._is_inherited = True
        self._lock = _Exclusive()
        self._lock.refuse_all(
            "this context was made before the process forked, and works in the parent alone; "
            "make a context in the child"
        )
        for handle in (self.handle, self._threads):
            if handle is not None:
                handle.disown()

    def exclusive(self) -> AbstractContextManager[None]:
        """Hold the context for this thread; another thread's call meanwhile raises."""
        return self._lock

    def abort(self) -> None:
        """Let the pass that is running end, where the backend asks."""
        self._abort.set()

    def _begin_pass(self) -> None:
        self._abort.clear()
        self.n_passes += 1

    def decode(self, batch: BatchStruct) -> None:
        """One ``llama_decode``; an abort that was asked for earlier does not count.

        Raises:
            BatchError, CacheFullError, DecodeError: see ``native.decode``.
        """
        self._begin_pass()
        native_decode.decode(self.handle, batch)

    def decode_tree(self, batch: BatchStruct, parents: Int32) -> None:
        """As ``decode``; parents: one a token, or ``TEXT``."""
        self._begin_pass()
        native_decode.decode_tree(self.handle, batch, parents)

    def decode_chains(self, batch: BatchStruct) -> None:
        """As ``decode``, of a batch with chains: after an error, sequences are what they were."""
        self._begin_pass()
        native_chain.decode(self.handle, batch)

    def decode_one_tree(self, *, seq: int, tree: TokenTree) -> None:
        """A pass over one tree, with logits at all nodes; otherwise as ``decode``."""
        self._begin_pass()
        native_decode.decode_one_tree(
            self.handle, seq=seq, tokens=tree.tokens, parents=tree.parents, depths=tree.depths
        )

    def decode_one(self, *, seq: int, token: int) -> None:
        """A pass over the next token of a sequence, with logits; otherwise as ``decode``."""
        self._begin_pass()
        native_decode.decode_one(self.handle, seq=seq, token=token)


_contexts: ProcessWatch[NativeContext] = ProcessWatch()


class _Exclusive:
    """A lock that raises instead of waiting. A class, because it is taken at every step."""

    __slots__ = ("_lock", "_why_not")

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._why_not: str | None = None

    def __enter__(self) -> None:
        if self._why_not is not None:
            raise ContextError(self._why_not)
        if not self._lock.acquire(blocking=False):
            raise ContextError(
                "this context is in use by another thread; give each thread a context of its own, "
                "or take turns with a lock"
            )

    def __exit__(self, *failure: object) -> None:
        self._lock.release()

    def refuse_all(self, why_not: str, wait_s: float = 0.0) -> bool:
        """Let nobody in any more; False if somebody is still inside after ``wait_s`` seconds."""
        self._why_not = why_not
        # never released: somebody may have asked just before
        return self._lock.acquire(timeout=wait_s)


def _no_hidden(model: Model, handle: Handle) -> str | None:
    if native_context.can_keep_hidden(handle):
        return None
    return f"llama.cpp cannot return the hidden states of {model.architecture}"


def _fields(params: ContextParams, n_rs_seq: int) -> ContextFields:
    n_threads = params.n_threads or default_n_threads()
    return {
        "n_ctx": params.n_ctx,
        "n_batch": params.n_batch,
        "n_ubatch": min(params.n_ubatch, params.n_batch),
        "n_seq_max": params.n_seq_max,
        "n_rs_seq": n_rs_seq,
        "n_threads": n_threads,
        "n_threads_batch": params.n_threads_batch or n_threads,
        "type_k": params.type_k,
        "type_v": params.type_v,
        "flash_attn_type": params.flash_attention,
        "kv_unified": params.kv_unified,
        "offload_kqv": params.offload_kv,
        "swa_full": params.swa_full,
        "embeddings": params.embeddings,
        "rope_freq_base": params.rope_freq_base,
        "rope_freq_scale": params.rope_freq_scale,
    }
