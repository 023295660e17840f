"""Whether a context fits into the memory of this machine and its GPUs, asked before llama.cpp.

Linux hands out more memory than it has and kills the process that fills it, so a KV cache that
is far too large would end the process instead of failing.
"""

from __future__ import annotations

from collections.abc import Iterator

from pytreellama.context.params import ContextParams
from pytreellama.errors import ContextError
from pytreellama.model.model import Model
from pytreellama.native.devices import check_cache_types, kv_bytes
from pytreellama.native.system import devices


def kv_cache_bytes(model: Model, params: ContextParams) -> int:
    """Bytes of the KV cache: an upper bound, as if no layer had a sliding window."""
    n_ctx = params.n_ctx or model.n_ctx_train
    return kv_bytes(model.handle, n_ctx, params.type_k, params.type_v)


def require_types_for(model: Model, params: ContextParams) -> None:
    """Raise ``ContextError`` if a GPU cannot hold a cache of these types, or attend to it."""
    if model.devices and params.offload_kv:
        check_cache_types(
            model.handle,
            params.type_k,
            params.type_v,
            offload=True,
            flash=params.flash_attention is True,
        )


def require_memory_for(model: Model, params: ContextParams) -> None:
    """Raise ``ContextError`` if the cache cannot fit into the memory that is available."""
    if model.is_recurrent:
        return
    n_ctx = params.n_ctx or model.n_ctx_train
    for where, needed, available in _parts(model, params, n_ctx):
        if needed > available:
            fits = int(n_ctx * available / needed * 0.9)
            raise ContextError(
                f"n_ctx = {n_ctx} needs {needed / 2**30:.1f} GiB for the KV cache{where}, "
                f"{available / 2**30:.1f} GiB are available; ask for at most about {fits}, or for "
                "smaller type_k and type_v"
            )


def available_bytes(model: Model, params: ContextParams) -> int:
    """Bytes that recurrent states can take, wherever their layers are."""
    gpus = [device for device in model.devices if device.total] if params.offload_kv else []
    is_whole = not 0 <= model.placement.n_gpu_layers <= model.n_layer  # the output layer counts
    on_host = 0 if gpus and is_whole else _host_available()
    return on_host + sum(device.free for device in gpus)


def _parts(model: Model, params: ContextParams, n_ctx: int) -> Iterator[tuple[str, int, int]]:
    """Where the cache will be: in words, bytes needed, bytes available."""
    types = params.type_k, params.type_v
    gpus = model.devices if params.offload_kv else ()
    if not gpus:
        yield "", kv_bytes(model.handle, n_ctx, *types), _host_available()
        return
    for gpu in gpus:
        if gpu.total:
            yield (
                f" on {gpu.name}",
                kv_bytes(model.handle, n_ctx, *types, device=gpu.name),
                gpu.free,
            )
    cpu = next(device.name for device in devices() if device.kind == "cpu")
    on_host = kv_bytes(model.handle, n_ctx, *types, device=cpu)
    yield " in the host's memory", on_host, _host_available()


def _host_available() -> int:
    import psutil

    return int(psutil.virtual_memory().available)
