"""Target: what training needs of the model whose heads are trained."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pytreellama.model.heads import model_hash
from pytreellama.model.model import Model
from pytreellama.model.rows import embedding_rows, logit_scale, output_rows

Float32 = NDArray[np.float32]
Int32 = NDArray[np.int32]


class Target:
    """A model's name, its hash, and rows of its matrices in float32.

    Args:
        model: it must stay open.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self.path = model.path
        self.n_ctx_train = model.n_ctx_train
        self.name = model.name
        self.hash = model_hash(model)
        self.licence = model.metadata.get("general.license", "")
        self.n_vocab = model.vocab.n_tokens
        self.n_embd = model.n_embd_out
        self.logit_scale = logit_scale(model)
        self.rope_base = self._number("rope.freq_base", 10000.0)
        self.norm_eps = self._number("attention.layer_norm_rms_epsilon", 1e-5)

    def _number(self, key: str, default: float) -> float:
        return float(self._model.metadata.get(f"{self._model.architecture}.{key}", default))

    def output_rows(self, tokens: Int32) -> Float32:
        """Rows of the output matrix, shape (n, n_embd). Raises MedusaError if it has none."""
        return output_rows(self._model, tokens)

    def embeddings(self) -> Float32:
        """Of all tokens, each divided by its root mean square, shape (n_vocab, n_embd)."""
        return normalised(self.embedding_rows())

    def embedding_rows(self) -> Float32:
        """The embedding matrix, shape (n_vocab, n_embd). Raises MedusaError if it has none."""
        return embedding_rows(self._model, np.arange(self.n_vocab, dtype=np.int32))


def normalised(rows: Float32) -> Float32:
    """Rows divided by their root mean squares."""
    size = np.sqrt(np.mean(np.square(rows, dtype=np.float64), axis=1, keepdims=True))
    return np.asarray(rows / np.maximum(size, 1e-6), np.float32)
