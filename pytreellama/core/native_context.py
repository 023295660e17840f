"""The native context: how it is made, its true sizes, who may use it, and its end."""

from __future__ import annotations

import threading
import time
from contextlib import AbstractContextManager
from typing import Any

from pytreellama.core.handle import Handle
from pytreellama.core.model import Model
from pytreellama.core.params import MAX_SEQ_IDS, ContextParams, default_n_threads, is_integer
from pytreellama.errors import ContextError, MemoryStateError, shown
from pytreellama.native import drain_log, ffi, last_error, lib
from pytreellama.process import ProcessWatch
from pytreellama.tree import TokenTree

_EXIT_S = 30.0  # a pass that no abort ends (a backend that does not ask) may take so long at exit
_AGAIN_S = 0.01


class NativeContext:
    """Owns a ``struct llama_context``; what works on its cache shares this object.

    Attributes:
        n_ctx, n_batch, n_ubatch, n_seq_max, n_threads: the sizes that hold; llama.cpp rounds some.

    Args:
        model: whose weights it runs; they stay in memory as long as it does.
        params: what was asked for.
        probe: cdata ``struct treellama_probe *`` or NULL.

    Raises:
        ContextError: llama.cpp refuses.
    """

    def __init__(self, model: Model, params: ContextParams, probe: Any) -> None:
        self._lock = _Exclusive()
        self._is_inherited = False
        self._model = model.handle.share()
        self._abort_flag = ffi.new("int32_t *", 0)
        pointer = _make(self._model.pointer, params, probe, self._abort_flag)
        self._handle = Handle(pointer, lib.llama_free, "context", ContextError, needs=self._model)
        self._threads = _attach_threads(pointer)
        _contexts.add(self)
        self.kv_unified = params.kv_unified
        self.n_ctx = int(lib.llama_n_ctx(pointer))
        self.n_batch = int(lib.llama_n_batch(pointer))
        self.n_ubatch = int(lib.llama_n_ubatch(pointer))
        self.n_seq_max = int(lib.llama_n_seq_max(pointer))
        self.n_threads = int(lib.llama_n_threads(pointer))
        self.n_embd_out = int(lib.llama_model_n_embd_out(self._model.pointer))

    @property
    def pointer(self) -> Any:
        """cdata ``struct llama_context *``; raises after ``close``."""
        return self._handle.pointer

    @property
    def memory_pointer(self) -> Any:
        """cdata ``llama_memory_t``; raises after ``close``."""
        return lib.llama_get_memory(self.pointer)

    @property
    def has_trees(self) -> bool:
        """True if the cells of this memory can know their nodes."""
        return bool(lib.treellama_tree_supported(self.pointer))

    @property
    def n_seq_ids(self) -> int:
        """Sequence ids that llama.cpp takes: a unified cache has more than the user's own."""
        return MAX_SEQ_IDS if self.kv_unified else self.n_seq_max

    def require_sequence(self, seq: int) -> None:
        """Raise ``MemoryStateError`` unless this is a sequence that a user may name."""
        if not is_integer(seq) or not 0 <= seq < self.n_seq_max:
            raise MemoryStateError(
                f"sequence id {shown(seq)} is out of range; this context has ids from 0 to "
                f"{self.n_seq_max - 1}"
            )

    @property
    def closed(self) -> bool:
        return self._handle.closed

    def close(self) -> None:
        """Free the context; a second call does nothing."""
        if self._is_inherited:
            return
        with self.exclusive():
            self._handle.close()
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
        for handle in (self._handle, self._threads):
            if handle is not None:
                handle.disown()

    def exclusive(self) -> AbstractContextManager[None]:
        """Hold the context for this thread; another thread's call meanwhile raises."""
        return self._lock

    def abort(self) -> None:
        """Let the pass that is running end, where the backend asks."""
        self._abort_flag[0] = 1

    def decode(self, batch: Any) -> int:
        """One ``llama_decode``; an abort that was asked for earlier does not count."""
        self._abort_flag[0] = 0
        return int(lib.treellama_decode(self.pointer, batch))

    def decode_tree(self, batch: Any, parents: Any) -> int:
        """As ``decode``; parents is cdata ``int32_t *``, one a token."""
        self._abort_flag[0] = 0
        return int(lib.treellama_tree_decode(self.pointer, batch, parents))

    def decode_one_tree(self, seq: int, tree: TokenTree) -> int:
        """A pass over one tree, with logits at all nodes; otherwise as ``decode``."""
        self._abort_flag[0] = 0
        arrays = (tree.tokens, tree.parents, tree.depths)
        pointers = [ffi.from_buffer("int32_t[]", array) for array in arrays]
        return int(lib.treellama_tree_decode_one(self.pointer, seq, *pointers, len(tree)))

    def decode_one(self, token: int, seq: int) -> int:
        """A pass over the next token of a sequence, with logits; otherwise as ``decode``."""
        self._abort_flag[0] = 0
        return int(lib.treellama_decode_one(self.pointer, token, seq))


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


def _make(model: Any, params: ContextParams, probe: Any, abort_flag: Any) -> Any:
    native = _native_params(params)
    native.abort_callback = ffi.addressof(lib, "treellama_abort_if")
    native.abort_callback_data = abort_flag
    drain_log()
    pointer = lib.treellama_context_init(model, native, probe)
    reasons = drain_log(errors_only=True)
    if pointer == ffi.NULL:
        why = "; ".join(reasons) or last_error() or "llama.cpp gives no reason"
        raise ContextError(f"cannot make a context with {params}: {why}")
    return pointer


def _attach_threads(pointer: Any) -> Handle | None:
    """Threads that wait from pass to pass; without them ggml makes new ones for every graph."""
    threads = lib.treellama_threads_attach(pointer)
    if threads == ffi.NULL:
        if why := last_error():
            raise ContextError(
                f"the threads of the context cannot be started ({why}); give a smaller n_threads, "
                "or let this process have more threads or memory"
            )
        return None
    return Handle(threads, lib.treellama_threads_release, "threads", ContextError)


def _native_params(params: ContextParams) -> Any:
    n_threads = params.n_threads or default_n_threads()
    native = ffi.new("struct llama_context_params *", lib.llama_context_default_params())
    native.n_ctx = params.n_ctx
    native.n_batch = params.n_batch
    native.n_ubatch = min(params.n_ubatch, params.n_batch)
    native.n_seq_max = params.n_seq_max
    native.n_threads = n_threads
    native.n_threads_batch = params.n_threads_batch or n_threads
    native.type_k = ggml_type(params.type_k)
    native.type_v = ggml_type(params.type_v)
    native.flash_attn_type = _FLASH_ATTENTION[params.flash_attention]
    native.kv_unified = params.kv_unified
    native.offload_kqv = params.offload_kv
    native.swa_full = params.swa_full
    native.embeddings = params.embeddings
    native.pooling_type = lib.LLAMA_POOLING_TYPE_NONE
    native.rope_freq_base = params.rope_freq_base
    native.rope_freq_scale = params.rope_freq_scale
    return native


_FLASH_ATTENTION = {
    None: lib.LLAMA_FLASH_ATTN_TYPE_AUTO,
    False: lib.LLAMA_FLASH_ATTN_TYPE_DISABLED,
    True: lib.LLAMA_FLASH_ATTN_TYPE_ENABLED,
}


def ggml_type(name: str) -> int:
    """ggml's number for a type of tensor, such as ``q8_0``."""
    return int(getattr(lib, f"GGML_TYPE_{name.upper()}"))
