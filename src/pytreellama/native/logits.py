"""Rows of logits in C memory: copied out, or reduced in C where a row is too long for NumPy.

A row has 49k to 256k values; argmax and log-sum-exp over it take NumPy up to a millisecond. Rows
are cdata ``float *``, valid until the next pass of their context.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytreellama.native.handle import Handle
from pytreellama.native.library import ffi, lib

Int32 = NDArray[np.int32]
Float32 = NDArray[np.float32]

_FLOAT_BYTES = 4


def logits_row(context: Handle, row: int, n_vocab: int) -> Any:
    """A row of the last pass, and those after it; it must exist."""
    return lib.llama_get_logits(context.pointer) + row * n_vocab


def copy_floats(pointer: Any, *shape: int) -> Float32:
    """A float32 copy of C memory."""
    return np.array(float_rows(pointer, *shape))


def float_rows(pointer: Any, *shape: int) -> Float32:
    """C memory itself as a float32 array, valid as long as the memory is."""
    size = int(np.prod(shape))
    if size == 0:
        return np.empty(shape, dtype=np.float32)
    buffer = ffi.buffer(pointer, size * _FLOAT_BYTES)
    return np.frombuffer(buffer, dtype=np.float32).reshape(shape)


NO_ROWS = ffi.NULL
"""Where a pass left no rows."""


def float_row(values: Float32) -> Any:
    """An array as a row; it must be contiguous, and live as long as the row is used."""
    return ffi.from_buffer("float[]", values)


def logit(row: Any, token: int) -> float:
    """One value of a row; it must exist."""
    return float(row[token])


def argmax_rows(pointer: Any, n_rows: int, n_vocab: int) -> Int32:
    """The likeliest token of each row, int32, shape (n_rows,); the smallest id of equals."""
    tokens = np.empty(n_rows, dtype=np.int32)
    lib.treellama_argmax(pointer, n_rows, n_vocab, ffi.from_buffer("llama_token[]", tokens))
    return tokens


def top_k_rows(
    pointer: Any, n_rows: int, n_vocab: int, k: int, *, normalise: bool = True
) -> tuple[Int32, Float32]:
    """The k likeliest tokens of each row, falling, ties by id.

    Returns:
        tokens int32 and float32 values, both of shape (n_rows, k): log-probabilities (natural
        logarithm, softmax at temperature 1), or without ``normalise`` logits, which a row of 49k
        has several times sooner.
    """
    tokens = np.empty((n_rows, k), dtype=np.int32)
    values = np.empty((n_rows, k), dtype=np.float32)
    lib.treellama_top_k(
        pointer,
        n_rows,
        n_vocab,
        k,
        normalise,
        ffi.from_buffer("llama_token[]", tokens),
        ffi.from_buffer("float[]", values),
    )
    return tokens, values


def logp_rows(pointer: Any, n_rows: int, n_vocab: int, tokens: Int32) -> Float32:
    """Log-probability of one token a row, float32, shape (n_rows,)."""
    ids = np.ascontiguousarray(tokens, dtype=np.int32)
    logp = np.empty(n_rows, dtype=np.float32)
    lib.treellama_logp(
        pointer,
        n_rows,
        n_vocab,
        ffi.from_buffer("llama_token[]", ids),
        ffi.from_buffer("float[]", logp),
    )
    return logp


def top_logp_row(row: Any, n_vocab: int, token: int, k: int) -> tuple[float, Int32, Float32]:
    """``logp_rows`` and ``top_k_rows`` of one row in one call, which reads it once for both."""
    tokens, logps = np.empty(k, dtype=np.int32), np.empty(k, dtype=np.float32)
    logp = ffi.new("float *")
    lib.treellama_top_logp(
        row,
        n_vocab,
        token,
        logp,
        k,
        ffi.from_buffer("llama_token[]", tokens),
        ffi.from_buffer("float[]", logps),
    )
    return float(logp[0]), tokens, logps
