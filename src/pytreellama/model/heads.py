"""Heads: a file of Medusa heads beside the model that they belong to."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pytreellama.closing import Closing
from pytreellama.errors import MedusaError, ModelLoadError
from pytreellama.model.file import check_gguf
from pytreellama.model.model import Model
from pytreellama.native import heads as native_heads
from pytreellama.native.heads import SEES, Sees
from pytreellama.native.weights import norms
from pytreellama.tree.grown import NOTHING, Grown

__all__ = ["SEES", "Heads", "Sees", "model_hash", "n_seen"]

Int32 = NDArray[np.int32]
Float32 = NDArray[np.float32]


def n_seen(sees: Sees, head: int) -> int:
    """Tokens that a head sees besides the hidden state."""
    return {"none": 0, "root": 1, "path": 1 + head}[sees]


def model_hash(model: Model) -> str:
    """A name for a model's weights that quantising does not change: SHA-256 of its norms' weights.

    They are kept in F32 in every GGUF file, and every training changes them; so heads that were
    trained on a model's Q4_1 file know its F16 file, and refuse another model's.
    """
    return hashlib.sha256(norms(model.handle).tobytes()).hexdigest()


class Heads(Closing):
    """Medusa heads, loaded for one model; what they compute, they compute on its device.

    A head is ``n_layers`` blocks ``x + silu(w x + b)`` and the model's output matrix, or one of its
    own; see docs/medusa.md for the file. They belong to one thread at a time.

    Args:
        path: a GGUF file of heads.
        model: whose hidden states they read; it may be closed while they go on.
        any_model: take heads that were made for another model's weights, if the sizes fit.

    Attributes:
        n_heads: head i guesses the token i + 2 places behind the last one in the cache.
        n_rows: tokens that a head can guess.
        n_deep_rows: the first of them, that heads after the first can guess.

    Raises:
        MedusaError: not a file of heads, damaged, weights that are no numbers, or of another model.
    """

    def __init__(
        self, path: str | os.PathLike[str], model: Model, *, any_model: bool = False
    ) -> None:
        self.path = Path(path)
        try:
            check_gguf(self.path)
        except ModelLoadError as error:
            raise MedusaError(f"these are no heads: {error}") from error
        # the rows of a shortlist and the embeddings are the model's
        self._model = model.handle.share()
        try:
            self._handle = native_heads.load_heads(self.path, model.path, self._model)
        except MedusaError:
            self._model.close()
            raise
        facts = native_heads.facts(self._handle)
        self.n_heads, self.n_layers = facts.n_heads, facts.n_layers
        self.n_embd, self.n_rows = facts.n_embd, facts.n_rows
        self.n_deep_rows = facts.n_deep_rows
        self.sees = facts.sees
        self.has_output = facts.has_output
        self.has_shortlist = facts.has_shortlist
        self.logit_scale = facts.logit_scale
        if not any_model:
            self._require_same_model(model)

    def _require_same_model(self, model: Model) -> None:
        wanted, found = self.meta("medusa.model.hash"), model_hash(model)
        name = self.meta("medusa.model.name") or "another model"
        if wanted != found:
            self.close()
            raise MedusaError(
                f"{self.path.name} was made for {name}"
                f" (norms {(wanted or 'unknown')[:12]}), and {model.path.name} has other weights "
                f"({found[:12]}); train heads for it: pytreellama medusa train {model.path.name} "
                "-o HEADS.gguf"
            )

    @property
    def closed(self) -> bool:
        return self._handle.closed

    def close(self) -> None:
        """Free the heads; a second call does nothing."""
        self._handle.close()
        self._model.close()

    def meta(self, key: str) -> str | None:
        """A value of the file's metadata as text; None if there is none."""
        return native_heads.meta(self._handle, key)

    @property
    def tokens(self) -> Int32:
        """The token of each row of logits, int32, shape (n_rows,)."""
        return native_heads.tokens(self._handle, self.n_rows)

    def n_rows_of(self, head: int) -> int:
        """Tokens that a head can guess."""
        return self.n_rows if head == 0 else self.n_deep_rows

    def n_seen(self, head: int) -> int:
        """Tokens that a head sees."""
        return n_seen(self.sees, head)

    def logits(
        self, n_threads: int, head: int, state: Float32, seen: Sequence[Sequence[int]]
    ) -> Float32:
        """What one head makes of a state, for several columns of tokens that it sees.

        Args:
            n_threads: those of a context that has as many are used, if there is one.
            state: float32, shape (n_embd,).
            seen: shape (n, n_seen(head)), n >= 1.

        Returns:
            float32, shape (n, n_rows_of(head)).

        Raises:
            MedusaError: no such head, or other shapes.
        """
        if not 0 <= head < self.n_heads:
            raise MedusaError(f"invalid head={head}: this file has heads 0 to {self.n_heads - 1}")
        columns = np.ascontiguousarray(seen, np.int32)
        if columns.ndim != 2 or columns.shape[1] != self.n_seen(head) or not len(columns):
            raise MedusaError(
                f"head {head} sees {self.n_seen(head)} tokens a column; {columns.shape} were given"
            )
        return native_heads.logits(
            self._handle, n_threads, head, self._state(state), columns, self.n_rows_of(head)
        )

    def grow(
        self,
        n_threads: int,
        state: Float32,
        root: int,
        n_nodes: int,
        *,
        top: int,
        width: int,
        min_p: float,
    ) -> Grown:
        """The likeliest guesses behind a token that was drawn from a state.

        Args:
            state: float32, shape (n_embd,), from which ``root`` was drawn.
            n_nodes: most guesses; at least 1.
            top: children of a node that are considered; at least 1.
            width: nodes of a level that are followed up, where that takes a product; at least 1.
            min_p: guesses whose path probability is lower are left out.
        """
        tokens, parents, p = native_heads.grow(
            self._handle,
            n_threads,
            self._state(state),
            root,
            n_nodes,
            top=top,
            width=width,
            min_p=min_p,
        )
        return Grown(tokens, parents, p) if tokens else NOTHING

    def fill(
        self,
        n_threads: int,
        state: Float32,
        root: int,
        parents: Int32,
        ranks: Int32,
    ) -> Grown:
        """The guesses of a tree of a given shape.

        Args:
            parents: int32, shape (n,), of each node, level by level; -1 for children of the root.
            ranks: int32, shape (n,): which of its parent's children a node is, the likeliest is 0.
        """
        state = self._state(state)
        tokens, p = native_heads.fill(self._handle, n_threads, state, root, parents, ranks)
        return Grown(tokens, parents.tolist(), p)

    def _state(self, state: Float32) -> Float32:
        if state.shape != (self.n_embd,) or state.dtype != np.float32:
            raise MedusaError(
                f"a state of shape {state.shape} and {state.dtype} was given; these heads read "
                f"float32 of shape ({self.n_embd},)"
            )
        return np.ascontiguousarray(state)
