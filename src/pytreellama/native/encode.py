"""Encoders: passes over whole texts, and the scores of a classifier."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pytreellama.errors import ContextError
from pytreellama.native.batch import BatchStruct
from pytreellama.native.decode import raise_for
from pytreellama.native.handle import Handle
from pytreellama.native.library import ffi, lib
from pytreellama.native.log import drain_log

Float32 = NDArray[np.float32]


def is_encoder(model: Handle) -> bool:
    """True for encoders whose hidden states can be read."""
    return bool(lib.treellama_model_is_encoder(model.pointer))


def n_class(model: Handle) -> int:
    """Outputs of the model's classifier, as of a reranker; 0 without one."""
    return int(lib.treellama_model_n_class(model.pointer))


def encode(context: Handle, batch: BatchStruct) -> None:
    """A pass over whole texts, each a sequence of its own; raises as ``decode.decode``."""
    status = lib.treellama_encode(context.pointer, batch.pointer)
    if status != 0:
        raise_for(status, context, batch.n_tokens)
    drain_log()


def class_scores(context: Handle, n_texts: int, n_class: int) -> Float32:
    """The classifier's outputs for the texts of the last pass, float32, shape (n_texts, n_class).

    Raises:
        ContextError: the last pass left none.
    """
    scores = np.empty((n_texts, n_class), np.float32)
    out = ffi.from_buffer("float[]", scores)
    if lib.treellama_class_scores(context.pointer, n_texts, out) != 0:
        raise ContextError("the last pass left no scores")
    return scores
