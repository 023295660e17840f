"""One of RWKV's recurrent ops by itself, on the CPU: over texts, and over a tree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from pytreellama.errors import BatchError, DecodeError, not_one_of
from pytreellama.native.log import last_error
from pytreellama.testing.library import ffi, lib

Float32 = NDArray[np.float32]

WkvOp = Literal["wkv6", "wkv7", "gla"]

WKV_OPS: tuple[WkvOp, ...] = get_args(WkvOp)

N_INPUTS: dict[WkvOp, int] = {"wkv6": 4, "wkv7": 6, "gla": 4}
"""k, v, r, decay of WKV6; r, w, k, v, a, b of WKV7; k, v, q, g of gated linear attention."""

GLA_SCALE = 0.5
"""Factor of the queries of gated linear attention."""


def wkv(
    op: WkvOp,
    inputs: Float32,
    bonus: Float32,
    states: Float32,
    *,
    parents: Sequence[int] | None = None,
    n_threads: int = 1,
    use_reference: bool = False,
) -> tuple[Float32, Float32]:
    """Run an op over texts of one length, or over the tokens of trees.

    Args:
        inputs: float32, shape (n_inputs, n_tokens, n_heads, n_embd); text after text.
        bonus: of WKV6, float32, shape (n_heads, n_embd).
        states: float32, shape (n_states, n_heads, n_embd, n_embd), one for each text; those that
            a tree's tokens may begin with.
        parents: of each token: one before it, -1 for no state, -2 - i for state i.
        use_reference: ggml's reference code, for texts.

    Returns:
        The outputs, shape (n_tokens, n_heads, n_embd), and the states after the texts; with
        ``parents``, zeros.

    Raises:
        BatchError: an unknown op, or shapes that do not fit each other.
        DecodeError: the backend failed.
    """
    if op not in WKV_OPS:
        raise BatchError(not_one_of("op", op, WKV_OPS))
    inputs, bonus, states = (np.ascontiguousarray(a, np.float32) for a in (inputs, bonus, states))
    _, n_tokens, n_heads, n_embd = inputs.shape
    shapes = inputs.shape[0], bonus.shape, states.shape[1:]
    if shapes != (N_INPUTS[op], (n_heads, n_embd), (n_heads, n_embd, n_embd)):
        raise BatchError(f"inputs, bonus and states have shapes that do not fit: {shapes}")
    if n_tokens % len(states) and parents is None:
        raise BatchError(f"{n_tokens} tokens cannot be {len(states)} texts of one length")
    params = ffi.new("struct treellama_wkv_params *")
    params.kind = WKV_OPS.index(op)
    params.n_embd, params.n_head = n_embd, n_heads
    params.n_tokens, params.n_states = n_tokens, len(states)
    params.n_threads, params.use_ref = n_threads, use_reference
    out, after = np.empty(inputs.shape[1:], np.float32), np.zeros_like(states)
    where = None if parents is None else np.array(parents, np.int32)
    status = lib.treellama_wkv(
        params,
        *(ffi.from_buffer("float[]", array) for array in (inputs, bonus, states)),
        ffi.NULL if where is None else ffi.from_buffer("int32_t[]", where),
        ffi.from_buffer("float[]", out),
        ffi.from_buffer("float[]", after),
    )
    if status != 0:
        raise DecodeError(f"the op could not be computed: {last_error()}")
    return out, after
