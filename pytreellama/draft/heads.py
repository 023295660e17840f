"""Heads: a file of Medusa heads beside the model that they belong to."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pytreellama.core.closing import Closing
from pytreellama.core.model_file import check_gguf
from pytreellama.draft.protocol import Float32Array, Int32Array
from pytreellama.errors import MedusaError, ModelLoadError
from pytreellama.native import drain_log, ffi, last_error, lib
from pytreellama.native.handle import Handle
from pytreellama.tree.grown import NOTHING, Grown

if TYPE_CHECKING:
    from pytreellama.core.model import Model

Sees = Literal["none", "root", "path"]
SEES: tuple[Sees, ...] = ("none", "root", "path")
"""What a head sees besides the hidden state; the order is treellama.h's."""


def n_seen(sees: Sees, head: int) -> int:
    """Tokens that a head sees besides the hidden state."""
    return {"none": 0, "root": 1, "path": 1 + head}[sees]


def model_hash(model: Model) -> str:
    """A name for a model's weights that quantising does not change: SHA-256 of its norms' weights.

    They are kept in F32 in every GGUF file, and every training changes them; so heads that were
    trained on a model's Q4_1 file know its F16 file, and refuse another model's.
    """
    pointer = model.handle.pointer
    norms = np.empty(max(int(lib.treellama_norms(pointer, ffi.NULL)), 0), np.float32)
    lib.treellama_norms(pointer, ffi.from_buffer("float[]", norms))
    return hashlib.sha256(norms.tobytes()).hexdigest()


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
        drain_log()
        pointer = lib.treellama_heads_load(
            os.fsencode(self.path), os.fsencode(model.path), self._model.pointer
        )
        if pointer == ffi.NULL:
            self._model.close()
            raise MedusaError(f"{self.path} cannot be used with {model.path.name}: {last_error()}")
        self._handle = Handle(
            pointer, lib.treellama_heads_free, "heads", MedusaError, needs=self._model
        )
        facts = lib.treellama_heads_get_facts(pointer)
        self.n_heads, self.n_layers = int(facts.n_heads), int(facts.n_layers)
        self.n_embd, self.n_rows = int(facts.n_embd), int(facts.n_rows)
        self.n_deep_rows = int(facts.n_deep_rows)
        self.sees: Sees = SEES[int(facts.sees)]
        self.has_output = bool(facts.has_output)
        self.has_shortlist = bool(facts.has_shortlist)
        self.logit_scale = float(facts.logit_scale)
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
    def pointer(self) -> Any:
        """cdata ``struct treellama_heads *``; raises after ``close``."""
        return self._handle.pointer

    @property
    def closed(self) -> bool:
        return self._handle.closed

    def close(self) -> None:
        """Free the heads; a second call does nothing."""
        self._handle.close()
        self._model.close()

    def meta(self, key: str) -> str | None:
        """A value of the file's metadata as text; None if there is none."""
        value = lib.treellama_heads_meta(self.pointer, key.encode())
        if value == ffi.NULL:
            return None
        text: bytes = ffi.string(value)
        return text.decode("utf-8", "replace")

    @property
    def tokens(self) -> Int32Array:
        """The token of each row of logits, int32, shape (n_rows,)."""
        tokens = np.empty(self.n_rows, np.int32)
        lib.treellama_heads_tokens(self.pointer, ffi.from_buffer("int32_t[]", tokens))
        return tokens

    def n_rows_of(self, head: int) -> int:
        """Tokens that a head can guess."""
        return self.n_rows if head == 0 else self.n_deep_rows

    def n_seen(self, head: int) -> int:
        """Tokens that a head sees."""
        return n_seen(self.sees, head)

    def logits(
        self, n_threads: int, head: int, state: Float32Array, seen: Sequence[Sequence[int]]
    ) -> Float32Array:
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
            raise MedusaError(f"head {head} was asked for; there are {self.n_heads}")
        columns = np.ascontiguousarray(seen, np.int32)
        if columns.ndim != 2 or columns.shape[1] != self.n_seen(head) or not len(columns):
            raise MedusaError(
                f"head {head} sees {self.n_seen(head)} tokens a column; {columns.shape} were given"
            )
        logits = np.empty((len(columns), self.n_rows_of(head)), np.float32)
        status = lib.treellama_heads_logits(
            self.pointer,
            n_threads,
            head,
            self._state(state),
            ffi.from_buffer("int32_t[]", columns),
            len(columns),
            ffi.from_buffer("float[]", logits),
        )
        _require(status)
        return logits

    def grow(
        self,
        n_threads: int,
        state: Float32Array,
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
        tokens, parents = ffi.new("int32_t[]", n_nodes), ffi.new("int32_t[]", n_nodes)
        p = ffi.new("double[]", n_nodes)
        n = lib.treellama_heads_grow(
            self.pointer,
            n_threads,
            self._state(state),
            root,
            n_nodes,
            top,
            width,
            min_p,
            tokens,
            parents,
            p,
        )
        _require(n)
        if n == 0:
            return NOTHING
        return Grown(ffi.unpack(tokens, n), ffi.unpack(parents, n), ffi.unpack(p, n))

    def fill(
        self,
        n_threads: int,
        state: Float32Array,
        root: int,
        parents: Int32Array,
        ranks: Int32Array,
    ) -> Grown:
        """The guesses of a tree of a given shape.

        Args:
            parents: int32, shape (n,), of each node, level by level; -1 for children of the root.
            ranks: int32, shape (n,): which of its parent's children a node is, the likeliest is 0.
        """
        n = len(parents)
        tokens, p = ffi.new("int32_t[]", n), ffi.new("double[]", n)
        _require(
            lib.treellama_heads_fill(
                self.pointer,
                n_threads,
                self._state(state),
                root,
                n,
                ffi.from_buffer("int32_t[]", parents),
                ffi.from_buffer("int32_t[]", ranks),
                tokens,
                p,
            )
        )
        return Grown(ffi.unpack(tokens, n), parents.tolist(), ffi.unpack(p, n))

    def _state(self, state: Float32Array) -> Any:
        if state.shape != (self.n_embd,) or state.dtype != np.float32:
            raise MedusaError(
                f"a state of shape {state.shape} and {state.dtype} was given; these heads read "
                f"float32 of shape ({self.n_embd},)"
            )
        return ffi.from_buffer("float[]", np.ascontiguousarray(state))


def _require(status: int) -> None:
    if status < 0:
        raise MedusaError(f"the heads failed: {last_error()}")
