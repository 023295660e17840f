"""Pooling: how the hidden states of a text's tokens become its embedding."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pytreellama.model.model import Model

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Pooling = Literal["mean", "last", "cls"]
POOLINGS: tuple[Pooling, ...] = ("mean", "last", "cls")


def own_pooling(model: Model) -> Pooling:
    """The pooling that a model's file asks for; by default the mean.

    A reranker's file asks for its classifier, which reads the first token's state.
    """
    if model.pooling == "last":
        return "last"
    return "cls" if model.pooling in ("cls", "rank") else "mean"


def pooled(states: Float32, pooling: Pooling) -> Float64:
    """The sum of all states, or one of them, float64, shape (n_embd_out,).

    Args:
        states: of a text's tokens in order, shape (n_tokens, n_embd_out).
    """
    if pooling == "mean":
        total: Float64 = states.sum(axis=0, dtype=np.float64)
        return total
    row: Float64 = states[0 if pooling == "cls" else -1].astype(np.float64)
    return row


def unit_vector(vector: Float64) -> Float32:
    """The vector at length 1, float32, shape (n,); zeros stay zeros."""
    return (vector / (float(np.linalg.norm(vector)) or 1.0)).astype(np.float32)
