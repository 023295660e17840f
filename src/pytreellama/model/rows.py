"""Rows of a model's matrices in float32, which heads are trained with."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pytreellama.model.model import Model
from pytreellama.native import weights

Int32 = NDArray[np.int32]
Float32 = NDArray[np.float32]


def output_rows(model: Model, tokens: Int32) -> Float32:
    """Rows of the output matrix, shape (n, n_embd_out). Raises ``MedusaError`` if it has none."""
    return weights.output_rows(model.path, tokens, model.n_embd_out)


def embedding_rows(model: Model, tokens: Int32) -> Float32:
    """Rows of the embedding matrix, shape (n, n_embd). Raises ``MedusaError`` if it has none."""
    return weights.embedding_rows(model.handle, tokens, model.n_embd)


def logit_scale(model: Model) -> float:
    """What the model multiplies its logits by."""
    return weights.logit_scale(model.handle)
