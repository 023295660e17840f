"""Contexts: how they are made, their true sizes, and the threads of their passes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypedDict

from pytreellama.errors import ContextError
from pytreellama.native.checks import check_pointer
from pytreellama.native.handle import Handle
from pytreellama.native.library import ffi, lib
from pytreellama.native.log import drain_log, last_error
from pytreellama.native.tensors import ggml_type
from pytreellama.process import awaited_calls


class ContextFields(TypedDict):
    """Fields of ``llama_context_params``, by their names there.

    ``type_k`` and ``type_v`` are names of types, such as ``f16``; ``flash_attn_type`` is None
    where llama.cpp shall choose.
    """

    n_ctx: int
    n_batch: int
    n_ubatch: int
    n_seq_max: int
    n_rs_seq: int
    n_threads: int
    n_threads_batch: int
    type_k: str
    type_v: str
    flash_attn_type: bool | None
    kv_unified: bool
    offload_kqv: bool
    swa_full: bool
    embeddings: bool
    rope_freq_base: float
    rope_freq_scale: float


_FLASH_ATTENTION = {
    None: lib.LLAMA_FLASH_ATTN_TYPE_AUTO,
    False: lib.LLAMA_FLASH_ATTN_TYPE_DISABLED,
    True: lib.LLAMA_FLASH_ATTN_TYPE_ENABLED,
}


class AbortFlag:
    """What a pass looks at while it runs; raised, it ends the pass where the backend asks."""

    __slots__ = ("pointer",)

    def __init__(self) -> None:
        self.pointer: Any = ffi.new("int32_t *", 0)

    def set(self) -> None:
        """End the pass that runs."""
        self.pointer[0] = 1

    def clear(self) -> None:
        """Let the next pass run."""
        self.pointer[0] = 0


@dataclass(frozen=True, slots=True)
class ContextSizes:
    """The sizes that hold; llama.cpp rounds some that are asked for."""

    n_ctx: int
    n_batch: int
    n_ubatch: int
    n_seq_max: int
    n_threads: int


def make_context(
    model: Handle,
    fields: ContextFields,
    abort: AbortFlag,
    what: str,
    *,
    target: Handle | None = None,
    is_mtp: bool = False,
    ranks: bool = False,
) -> Handle:
    """A context, which is freed before its model.

    Args:
        abort: must live as long as the context.
        what: the context in words, for the error.
        target: the context that it drafts for, whose weights it may use; it is freed after it.
        is_mtp: run the model's NextN layers.
        ranks: passes end in the model's classifier, instead of hidden states.

    Raises:
        ContextError: llama.cpp refuses.
    """
    params = ffi.new("struct llama_context_params *", lib.llama_context_default_params())
    for name, value in fields.items():
        setattr(params, name, value if name not in _CONVERTED else _CONVERTED[name](value))
    pooling = lib.LLAMA_POOLING_TYPE_RANK if ranks else lib.LLAMA_POOLING_TYPE_NONE
    params.pooling_type = pooling
    params.abort_callback = ffi.addressof(lib, "treellama_abort_if")
    params.abort_callback_data = abort.pointer
    if target is not None:
        params.ctx_other = target.pointer
    if is_mtp:
        params.ctx_type = lib.LLAMA_CONTEXT_TYPE_MTP
    drain_log()
    with awaited_calls:
        pointer = lib.treellama_context_init(model.pointer, params)
    check_pointer(pointer, ContextError, f"cannot make a context with {what}", with_log=True)
    drain_log(errors_only=True)
    needs = [model] if target is None else [model, target]
    return Handle(pointer, lib.treellama_context_free, "context", ContextError, needs=needs)


_CONVERTED: dict[str, Any] = {
    "type_k": ggml_type,
    "type_v": ggml_type,
    "flash_attn_type": _FLASH_ATTENTION.__getitem__,
}


def attach_threads(context: Handle) -> Handle | None:
    """Threads that wait from pass to pass; without them ggml makes new ones for every graph.

    Returns:
        None where the backend has no threads.

    Raises:
        ContextError: they cannot be started.
    """
    threads = lib.treellama_threads_attach(context.pointer)
    if threads == ffi.NULL:
        if why := last_error():
            raise ContextError(
                f"the threads of the context cannot be started ({why}); give a smaller n_threads, "
                "or let this process have more threads or memory"
            )
        return None
    return Handle(threads, lib.treellama_threads_release, "threads", ContextError)


def sizes(context: Handle) -> ContextSizes:
    """The sizes of a context."""
    pointer = context.pointer
    return ContextSizes(
        n_ctx=int(lib.llama_n_ctx(pointer)),
        n_batch=int(lib.llama_n_batch(pointer)),
        n_ubatch=int(lib.llama_n_ubatch(pointer)),
        n_seq_max=int(lib.llama_n_seq_max(pointer)),
        n_threads=int(lib.llama_n_threads(pointer)),
    )


def is_batch_invariant(context: Handle) -> bool:
    """True if nothing in the graph of a pass depends on what else is in it.

    That is: attention in the order of positions, and no product of two computed tensors. What the
    CPU's products and other devices do is another matter. Valid until the first pass.
    """
    return bool(lib.treellama_is_batch_invariant(context.pointer))


def can_keep_hidden(context: Handle) -> bool:
    """True if llama.cpp can return the hidden states of a pass. Valid until the first pass."""
    return bool(lib.treellama_hidden_can_keep(context.pointer))


def n_reused_graphs(context: Handle) -> int:
    """Passes that could use the graph of the pass before."""
    return int(lib.llama_perf_context(context.pointer).n_reused)
