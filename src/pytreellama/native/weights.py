"""Rows of a model's matrices in float32."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pytreellama.errors import MedusaError
from pytreellama.native.checks import check
from pytreellama.native.handle import Handle
from pytreellama.native.library import ffi, lib

Int32 = NDArray[np.int32]
Float32 = NDArray[np.float32]

_FAILED = "the model cannot be read for training"


def norms(model: Handle) -> Float32:
    """The weights of all norms, one after another."""
    weights = np.empty(max(int(lib.treellama_norms(model.pointer, ffi.NULL)), 0), np.float32)
    lib.treellama_norms(model.pointer, ffi.from_buffer("float[]", weights))
    return weights


def output_rows(path: Path, tokens: Int32, n_embd: int) -> Float32:
    """Rows of the output matrix in a model's file, shape (n, n_embd). Raises ``MedusaError``."""
    ids = np.ascontiguousarray(tokens, np.int32)
    rows = np.empty((len(ids), n_embd), np.float32)
    status = lib.treellama_output_rows(
        os.fsencode(path),
        ffi.from_buffer("int32_t[]", ids),
        len(ids),
        n_embd,
        ffi.from_buffer("float[]", rows),
    )
    check(status, MedusaError, _FAILED)
    return rows


def embedding_rows(model: Handle, tokens: Int32, n_embd: int) -> Float32:
    """Rows of the embedding matrix, shape (n, n_embd). Raises ``MedusaError``."""
    ids = np.ascontiguousarray(tokens, np.int32)
    rows = np.empty((len(ids), n_embd), np.float32)
    status = lib.treellama_embedding_rows(
        model.pointer,
        ffi.from_buffer("int32_t[]", ids),
        len(ids),
        ffi.from_buffer("float[]", rows),
    )
    check(status, MedusaError, _FAILED)
    return rows


def logit_scale(model: Handle) -> float:
    """What the model multiplies its logits by."""
    return float(lib.treellama_logit_scale(model.pointer))
