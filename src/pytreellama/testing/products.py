"""One matrix product by itself, on the CPU, and its weights in every type that a GGUF file has."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pytreellama.errors import BatchError, DecodeError, not_one_of
from pytreellama.native.limits import N_THREADS_MAX
from pytreellama.native.log import last_error
from pytreellama.native.tensors import ggml_type
from pytreellama.testing.library import ffi, lib

Int32 = NDArray[np.int32]
Float32 = NDArray[np.float32]
Bytes = NDArray[np.uint8]

# fmt: off
WeightType = Literal[
    "f32", "f16", "bf16",
    "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "q2_0", "q1_0", "mxfp4", "nvfp4", "iq4_nl",
    "q6_k", "q5_k", "q4_k", "q3_k", "q2_k", "tq2_0", "tq1_0",
    "iq4_xs", "iq3_s", "iq3_xxs", "iq2_s", "iq2_xs", "iq2_xxs", "iq1_m", "iq1_s",
]
# fmt: on

WEIGHT_TYPES: tuple[WeightType, ...] = get_args(WeightType)


def encode_weights(values: Float32, type_w: WeightType) -> Bytes:
    """Weights as a GGUF file holds them, rounded without an importance matrix.

    Args:
        values: float32, shape (..., n_in), finite.
        type_w: of ``WEIGHT_TYPES`` all but iq2_xxs, iq2_xs and iq1_s.

    Returns:
        uint8, shape (..., bytes of a row).

    Raises:
        BatchError: an unknown type, one that needs an importance matrix, rows that are no multiple
            of its block, or values that it cannot hold.
    """
    values = np.ascontiguousarray(values, dtype=np.float32)
    if values.size == 0:
        raise BatchError(f"weights of shape {values.shape} were given; give (..., n_in), not empty")
    data = np.empty((*values.shape[:-1], row_bytes(type_w, values.shape[-1])), dtype=np.uint8)
    kind = ggml_type(type_w)
    if lib.ggml_quantize_requires_imatrix(kind):
        raise BatchError(f"invalid type={type_w!r}: it needs an importance matrix; give bytes")
    if not np.isfinite(values).all():
        raise BatchError("weights with infinities or NaN were given; allowed is what is finite")
    n_in = values.shape[-1]
    arrays = ffi.from_buffer("float[]", values), ffi.from_buffer("char[]", data)
    if lib.treellama_quantize_rows(kind, arrays[0], values.size // n_in, n_in, arrays[1]) != 0:
        raise BatchError(f"the weights cannot be stored as {type_w}: {last_error()}")
    return data


def decode_weights(data: Bytes, type_w: WeightType, n_in: int) -> Float32:
    """What stored weights are worth.

    Args:
        data: uint8, shape (..., bytes of a row).

    Returns:
        float32, shape (..., n_in).

    Raises:
        BatchError: an unknown type, or rows that are not ``n_in`` weights of it.
    """
    data = np.ascontiguousarray(data, dtype=np.uint8)
    _require_row(data, type_w, n_in)
    values = np.empty((*data.shape[:-1], n_in), dtype=np.float32)
    arrays = ffi.from_buffer("char[]", data), ffi.from_buffer("float[]", values)
    kind, n_rows = ggml_type(type_w), values.size // n_in
    if lib.treellama_dequantize_rows(kind, arrays[0], n_rows, n_in, arrays[1]) != 0:
        raise DecodeError(f"the weights could not be read as {type_w}: {last_error()}")
    return values


def block_size(type_w: WeightType) -> int:
    """Weights of a type that are stored together; a row has a multiple of it.

    Raises:
        BatchError: an unknown type.
    """
    if type_w not in WEIGHT_TYPES:
        raise BatchError(not_one_of("type", type_w, WEIGHT_TYPES))
    return int(lib.ggml_blck_size(ggml_type(type_w)))


def row_bytes(type_w: WeightType, n_in: int) -> int:
    """Bytes of a row of stored weights.

    Raises:
        BatchError: an unknown type, or no multiple of its block.
    """
    block = block_size(type_w)
    if n_in < 1 or n_in % block:
        raise BatchError(f"invalid n_in={n_in}: rows of {type_w} have multiples of {block} values")
    return int(lib.ggml_row_size(ggml_type(type_w), n_in))


def matmul(
    w: Float32 | Bytes,
    x: Float32,
    ids: Int32 | None = None,
    *,
    type_w: WeightType = "f32",
    packed: bool = True,
    n_threads: int = 1,
    use_reference: bool = False,
) -> Float32:
    """X wᵀ, with one matrix for all tokens or with each token's own experts, by llama.cpp's CPU
    backend (``GGML_OP_MUL_MAT``, ``GGML_OP_MUL_MAT_ID``).

    Args:
        w: shape (n_out, n_in), of experts (n_experts, n_out, n_in): float32, stored as ``type_w``
            first, or uint8 with bytes of a row in place of n_in, as ``encode_weights`` gives them.
        x: float32, shape (n_tokens, n_in). Where experts get different rows, (n_tokens, n_rows,
            n_in): they take them in turn, so n_rows divides n_used.
        ids: each token's experts, int32, shape (n_tokens, n_used), from 0 to n_experts - 1, none
            twice for a token.
        packed: hold the weights in memory as a model that is loaded does, in the CPU backend's own
            layout where it has one for them (for AMX, or with rows interleaved), not as in a file.
        use_reference: ggml's reference code; weights that are packed may know none.

    Returns:
        float32, shape (n_tokens, n_out), with experts (n_tokens, n_used, n_out).

    Raises:
        BatchError: shapes, types or ids that do not fit each other.
        DecodeError: the backend failed.
    """
    x = np.ascontiguousarray(x, dtype=np.float32)
    ids = None if ids is None else _checked_ids(ids)
    _check_shapes(np.shape(w), x, ids)
    if not 1 <= n_threads <= N_THREADS_MAX:
        raise BatchError(f"invalid n_threads={n_threads}: expected 1 to {N_THREADS_MAX}")
    data = _stored(np.asarray(w), type_w, x.shape[-1])
    _check_experts(ids, len(data))
    params = ffi.new("struct treellama_matmul_params *")
    params.n_in, params.n_out, params.n_tokens = x.shape[-1], data.shape[-2], len(x)
    params.n_experts = 1 if ids is None else len(data)
    params.n_used = 1 if ids is None else ids.shape[1]
    params.n_inputs = x.shape[1] if x.ndim == 3 else 1
    params.n_threads = n_threads
    params.type = ggml_type(type_w)
    params.packed, params.use_ref = packed, use_reference
    out = np.empty((*(x.shape[:1] if ids is None else ids.shape), data.shape[-2]), dtype=np.float32)
    status = lib.treellama_matmul(
        params,
        ffi.from_buffer("char[]", data),
        ffi.from_buffer("float[]", x),
        ffi.NULL if ids is None else ffi.from_buffer("int32_t[]", ids),
        ffi.from_buffer("float[]", out),
    )
    if status != 0:
        raise DecodeError(f"the product could not be computed: {last_error()}")
    return out


def _stored(w: NDArray[np.generic], type_w: WeightType, n_in: int) -> Bytes:
    if w.dtype == np.uint8:
        data = np.ascontiguousarray(w, dtype=np.uint8)
        _require_row(data, type_w, n_in)
        return data
    if w.shape[-1] != n_in:
        raise BatchError(f"rows of {w.shape[-1]} weights do not fit rows of {n_in} in x")
    return encode_weights(w.astype(np.float32, copy=False), type_w)


def _require_row(data: Bytes, type_w: WeightType, n_in: int) -> None:
    n_bytes = row_bytes(type_w, n_in)
    if data.size == 0 or data.shape[-1] != n_bytes:
        raise BatchError(
            f"stored weights of shape {data.shape} were given; {n_in} of type {type_w} take "
            f"(..., {n_bytes}) bytes, not empty"
        )


def _checked_ids(ids: ArrayLike) -> Int32:
    array = np.asarray(ids)
    if array.ndim != 2 or array.size == 0 or array.dtype.kind not in "iu":
        raise BatchError(
            f"ids of shape {array.shape} and type {array.dtype} were given; give integers of shape "
            "(tokens, experts used), not empty"
        )
    limits = np.iinfo(np.int32)
    return np.ascontiguousarray(np.clip(array, limits.min, limits.max), dtype=np.int32)


def _check_shapes(w: tuple[int, ...], x: Float32, ids: Int32 | None) -> None:
    if 0 in w or x.size == 0:
        raise BatchError(f"w {w} and x {x.shape} were given; neither may be empty")
    if ids is None:
        if len(w) != 2 or x.ndim != 2:
            raise BatchError(
                f"w {w} and x {x.shape} were given; without ids, give (outputs, inputs) and "
                "(tokens, inputs)"
            )
        return
    if len(w) != 3 or x.ndim not in (2, 3) or len(x) != len(ids):
        raise BatchError(
            f"w {w}, x {x.shape} and ids {ids.shape} were given; give (experts, outputs, inputs), "
            "(tokens, inputs) or (tokens, rows, inputs), and (tokens, experts used)"
        )
    if x.ndim == 3 and ids.shape[1] % x.shape[1]:
        raise BatchError(
            f"{x.shape[1]} rows of a token were given for its {ids.shape[1]} experts; their number "
            "must divide that of the experts"
        )


def _check_experts(ids: Int32 | None, n_experts: int) -> None:
    if ids is None:
        return
    if ids.min() < 0 or ids.max() >= n_experts:
        raise BatchError(
            f"invalid experts {ids.min()} to {ids.max()}: expected 0 to {n_experts - 1}"
        )
    if (np.diff(np.sort(ids, axis=1), axis=1) == 0).any():
        raise BatchError("a token has an expert twice; name each once")
