"""Whether a context fits into this machine's memory, asked before llama.cpp touches it.

Linux hands out more memory than it has and kills the process that fills it, so a KV cache that
is far too large would end the process instead of failing.
"""

from __future__ import annotations

from pytreellama.context.params import ContextParams
from pytreellama.errors import ContextError
from pytreellama.model.model import Model
from pytreellama.native import model as native_model
from pytreellama.native.system import has_gpu


def kv_cache_bytes(model: Model, params: ContextParams) -> int:
    """Bytes of the KV cache: an upper bound, as if no layer had a sliding window."""
    n_ctx = params.n_ctx or model.n_ctx_train
    return native_model.kv_cache_bytes(model.handle, n_ctx, params.type_k, params.type_v)


def require_memory_for(model: Model, params: ContextParams) -> None:
    """Raise ``ContextError`` if the cache cannot fit into the memory that is available."""
    if model.is_recurrent or (params.offload_kv and has_gpu()):
        return
    import psutil

    needed, available = kv_cache_bytes(model, params), psutil.virtual_memory().available
    if needed > available:
        n_ctx = params.n_ctx or model.n_ctx_train
        fits = int(n_ctx * available / needed * 0.9)
        raise ContextError(
            f"n_ctx = {n_ctx} needs {needed / 2**30:.1f} GiB for the KV cache, "
            f"{available / 2**30:.1f} GiB are available; ask for at most about {fits}, or for "
            "smaller type_k and type_v"
        )
