"""Target: what training needs of the model whose heads are trained."""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

from pytreellama.core.model import Model
from pytreellama.draft.heads import model_hash
from pytreellama.errors import MedusaError
from pytreellama.native import ffi, last_error, lib

Float32 = NDArray[np.float32]
Int32 = NDArray[np.int32]


class Target:
    """A model's name, its hash, and rows of its matrices in float32.

    Args:
        model: it must stay open.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self.name = model.name
        self.hash = model_hash(model)
        self.licence = model.metadata.get("general.license", "")
        self.n_vocab = model.vocab.n_tokens
        self.n_embd = model.n_embd_out
        self.logit_scale = float(lib.treellama_logit_scale(model.handle.pointer))

    def output_rows(self, tokens: Int32) -> Float32:
        """Rows of the output matrix, shape (n, n_embd). Raises MedusaError if it has none."""
        rows = np.empty((len(tokens), self.n_embd), np.float32)
        path = os.fsencode(self._model.path)
        _require(
            lib.treellama_output_rows(path, _ids(tokens), len(tokens), self.n_embd, _floats(rows))
        )
        return rows

    def embeddings(self) -> Float32:
        """Of all tokens, each divided by its root mean square, shape (n_vocab, n_embd)."""
        tokens = np.arange(self.n_vocab, dtype=np.int32)
        rows = np.empty((self.n_vocab, self._model.n_embd), np.float32)
        pointer = self._model.handle.pointer
        _require(lib.treellama_embedding_rows(pointer, _ids(tokens), len(tokens), _floats(rows)))
        return normalised(rows)


def normalised(rows: Float32) -> Float32:
    """Rows divided by their root mean squares."""
    size = np.sqrt(np.mean(np.square(rows, dtype=np.float64), axis=1, keepdims=True))
    return np.asarray(rows / np.maximum(size, 1e-6), np.float32)


def _ids(tokens: Int32) -> object:
    return ffi.from_buffer("int32_t[]", np.ascontiguousarray(tokens, np.int32))


def _floats(rows: Float32) -> object:
    return ffi.from_buffer("float[]", rows)


def _require(status: int) -> None:
    if status != 0:
        raise MedusaError(f"the model cannot be read for training: {last_error()}")
