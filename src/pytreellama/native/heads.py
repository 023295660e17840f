"""Medusa heads: their files, and what they compute."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pytreellama.errors import MedusaError
from pytreellama.native.checks import check_count, check_pointer
from pytreellama.native.grown import GrownNodes
from pytreellama.native.handle import Handle
from pytreellama.native.library import ffi, lib
from pytreellama.native.log import drain_log
from pytreellama.process import awaited_calls

Int32 = NDArray[np.int32]
Float32 = NDArray[np.float32]
Sees = Literal["none", "root", "path"]

_SEES: dict[int, Sees] = {
    lib.TREELLAMA_HEADS_SEES_NONE: "none",
    lib.TREELLAMA_HEADS_SEES_ROOT: "root",
    lib.TREELLAMA_HEADS_SEES_PATH: "path",
}

SEES: tuple[Sees, ...] = tuple(_SEES.values())
"""What a head sees besides the hidden state."""

_FAILED = "the heads failed"


@dataclass(frozen=True, slots=True)
class HeadsFacts:
    """What a file of heads holds; see ``model.heads.Heads``."""

    n_heads: int
    n_layers: int
    n_embd: int
    n_rows: int
    n_deep_rows: int
    sees: Sees
    has_output: bool
    has_shortlist: bool
    logit_scale: float


def load_heads(path: Path, model_path: Path, model: Handle) -> Handle:
    """The heads of a checked GGUF file, freed before the model that they are used with.

    Raises:
        MedusaError: not heads, damaged, or sizes that are not the model's.
    """
    drain_log()
    with awaited_calls:
        pointer = lib.treellama_heads_load(
            os.fsencode(path), os.fsencode(model_path), model.pointer
        )
    check_pointer(pointer, MedusaError, f"{path} cannot be used with {model_path.name}")
    return Handle(pointer, lib.treellama_heads_free, "heads", MedusaError, needs=[model])


def facts(heads: Handle) -> HeadsFacts:
    """What they are."""
    found = lib.treellama_heads_get_facts(heads.pointer)
    return HeadsFacts(
        n_heads=int(found.n_heads),
        n_layers=int(found.n_layers),
        n_embd=int(found.n_embd),
        n_rows=int(found.n_rows),
        n_deep_rows=int(found.n_deep_rows),
        sees=_SEES[int(found.sees)],
        has_output=bool(found.has_output),
        has_shortlist=bool(found.has_shortlist),
        logit_scale=float(found.logit_scale),
    )


def meta(heads: Handle, key: str) -> str | None:
    """A value of the file's metadata as text; None if there is none."""
    value = lib.treellama_heads_meta(heads.pointer, key.encode())
    if value == ffi.NULL:
        return None
    text: bytes = ffi.string(value)
    return text.decode("utf-8", "replace")


def tokens(heads: Handle, n_rows: int) -> Int32:
    """The token of each row of logits, int32, shape (n_rows,)."""
    found = np.empty(n_rows, np.int32)
    lib.treellama_heads_tokens(heads.pointer, _int32(found))
    return found


def logits(
    heads: Handle, n_threads: int, head: int, state: Float32, seen: Int32, n_rows: int
) -> Float32:
    """One head's logits, float32, shape (n, n_rows).

    Args:
        state: float32, shape (n_embd,), contiguous.
        seen: int32, shape (n, tokens that the head sees), contiguous.
    """
    out = np.empty((len(seen), n_rows), np.float32)
    status = lib.treellama_heads_logits(
        heads.pointer, n_threads, head, _floats(state), _int32(seen), len(seen), _floats(out)
    )
    check_count(status, MedusaError, _FAILED)
    return out


def grow(
    heads: Handle,
    n_threads: int,
    state: Float32,
    root: int,
    n_nodes: int,
    *,
    top: int,
    width: int,
    min_p: float,
) -> tuple[list[int], list[int], list[float]]:
    """Tokens, parents and path probabilities of the likeliest nodes below a token."""
    nodes = GrownNodes(n_nodes)
    n = lib.treellama_heads_grow(
        heads.pointer,
        n_threads,
        _floats(state),
        root,
        n_nodes,
        top,
        width,
        min_p,
        *nodes.pointers,
    )
    return nodes.first(check_count(n, MedusaError, _FAILED))


def fill(
    heads: Handle, n_threads: int, state: Float32, root: int, parents: Int32, ranks: Int32
) -> tuple[list[int], list[float]]:
    """Tokens and path probabilities of a tree of a given shape."""
    n = len(parents)
    tokens, p = ffi.new("int32_t[]", n), ffi.new("double[]", n)
    status = lib.treellama_heads_fill(
        heads.pointer,
        n_threads,
        _floats(state),
        root,
        n,
        _int32(parents),
        _int32(ranks),
        tokens,
        p,
    )
    check_count(status, MedusaError, _FAILED)
    return ffi.unpack(tokens, n), ffi.unpack(p, n)


def _int32(array: Int32) -> Any:
    return ffi.from_buffer("int32_t[]", array)


def _floats(array: Float32) -> Any:
    return ffi.from_buffer("float[]", array)
