"""The successors' table of the recycling drafter, which is taught and asked at every step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytreellama.errors import DraftError
from pytreellama.native.grown import GrownNodes
from pytreellama.native.handle import Handle
from pytreellama.native.library import ffi, lib
from pytreellama.native.limits import (
    SUCCESSORS_N_CLASSES,
    SUCCESSORS_ORDER_MAX,
    SUCCESSORS_ROW_MAX,
)

Int32 = NDArray[np.int32]
Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Rows = tuple[NDArray[np.int64], Int32, Int32]
"""Keys, shape (n,), tokens and shares, both of shape (n, k), -1 for no token; the oldest first."""

COUNTS_SHAPE = (2, SUCCESSORS_ORDER_MAX, SUCCESSORS_N_CLASSES)

_N_FOUND = SUCCESSORS_ORDER_MAX * SUCCESSORS_ROW_MAX


def new_table(max_entries: int) -> Handle:
    """An empty table of at most so many contexts of each length."""
    pointer = lib.treellama_successors_new(max_entries)
    _require(pointer != ffi.NULL)
    return Handle(pointer, lib.treellama_successors_free, "table", DraftError)


def n_rows(table: Handle, length: int) -> int:
    """Contexts of a length that are known."""
    return int(lib.treellama_successors_size(table.pointer, length))


def learn(
    table: Handle,
    before: Sequence[int],
    nodes: Int32,
    parents: Int32,
    tokens: Int32,
    logits: Float32,
    n_top: int,
) -> None:
    """Keep ``n_top`` successors of every node of a tree.

    Args:
        before: the text before node 0.
        nodes, parents: shape (n,), the tree.
        tokens, logits: of each node's successors, shape (n, k), contiguous.
    """
    n_nodes, n_next = tokens.shape
    status = lib.treellama_successors_learn(
        table.pointer,
        before,
        len(before),
        _int32(nodes),
        _int32(parents),
        n_nodes,
        _int32(tokens),
        ffi.from_buffer("float[]", logits),
        n_next,
        n_top,
    )
    _require(status == 0)


def judge(table: Handle, text: Sequence[int], went_on: Sequence[int]) -> None:
    """Count which successors were right along the tokens that a text went on with."""
    lib.treellama_successors_judge(table.pointer, text, len(text), went_on, len(went_on))


def successors(table: Handle, text: Sequence[int], min_p: float) -> list[tuple[int, float]]:
    """What may follow a text, with probabilities of at least ``min_p``."""
    tokens, p = ffi.new("int32_t[]", _N_FOUND), ffi.new("double[]", _N_FOUND)
    n = lib.treellama_successors_of(table.pointer, text, len(text), min_p, tokens, p)
    return list(zip(ffi.unpack(tokens, n), ffi.unpack(p, n), strict=True)) if n else []


def grow(
    table: Handle, text: Sequence[int], n_nodes: int, max_depth: int, min_p: float
) -> tuple[list[int], list[int], list[float]]:
    """Tokens, parents and path probabilities of the likeliest nodes after a text; at least 1."""
    nodes = GrownNodes(n_nodes)
    n = lib.treellama_successors_grow(
        table.pointer, text, len(text), n_nodes, max_depth, min_p, *nodes.pointers
    )
    _require(n >= 0)
    return nodes.first(n)


# -- all of it


def counts(table: Handle, *, right: bool) -> Float64:
    """A view of how often successors were seen, or right, shape ``COUNTS_SHAPE``."""
    pointer = lib.treellama_successors_counts(table.pointer, right)
    buffer = ffi.buffer(pointer, 8 * int(np.prod(COUNTS_SHAPE)))
    return np.frombuffer(buffer, np.float64).reshape(COUNTS_SHAPE)


def rows(table: Handle, length: int) -> Rows:
    """The rows of all contexts of a length."""
    n, k = n_rows(table, length), int(lib.treellama_successors_max_row(table.pointer))
    found = np.empty(n, np.int64), np.empty((n, k), np.int32), np.empty((n, k), np.int32)
    lib.treellama_successors_get(table.pointer, length, k, *_row_pointers(found))
    return found


def set_rows(table: Handle, length: int, given: Rows) -> None:
    """Take checked rows in place of those of a length."""
    n, k = given[1].shape
    status = lib.treellama_successors_set(table.pointer, length, n, k, *_row_pointers(given))
    _require(status == 0)


def _row_pointers(given: Rows) -> tuple[Any, Any, Any]:
    keys, tokens, shares = given
    return ffi.from_buffer("int64_t[]", keys), _int32(tokens), _int32(shares)


def _int32(array: Int32) -> Any:
    return ffi.from_buffer("int32_t[]", array)


def _require(succeeded: bool) -> None:
    if not succeeded:
        raise MemoryError("there is no memory for the table of successors")
