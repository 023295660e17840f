"""One attention op by itself, on the CPU: the kernel that trees run on, open to the curious.

The kernel sums over cells in the order of their positions, so that what a query gets depends on
its own past alone; see docs/exactness.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pytreellama.context.params import CACHE_TYPES, CacheType
from pytreellama.errors import BatchError, DecodeError, not_one_of
from pytreellama.native.log import last_error
from pytreellama.native.tensors import ggml_type
from pytreellama.testing.library import ffi, lib

Int32 = NDArray[np.int32]
Float32 = NDArray[np.float32]

N_BLOCK = 64
"""Positions in which the kernel's running maximum stays the same."""

MAX_POSITION = 2**31 - 1

N_CHUNK = 256
"""Positions that the kernel sums up from nothing."""

_N_HEAD, _N_GROUP, _N_PART = 3, 7, 4  # numbers of the order's head, a group, a part


@dataclass(frozen=True, slots=True)
class CellGroup:
    """Queries that attend to the same cells: usually those of one sequence.

    Attributes:
        queries: which, int32, shape (n_queries,).
        cells: which, each once, int32, shape (n_cells,), in the order of their positions.
        positions: int32, shape (n_cells,), never falling. They may repeat, as those of siblings in
            a tree do; a query may see one cell of each position.
    """

    queries: Int32
    cells: Int32
    positions: Int32

    def __post_init__(self) -> None:
        if any(np.ndim(array) != 1 for array in (self.queries, self.cells, self.positions)):
            raise BatchError("queries, cells and positions of a group are lists")
        if len(self.cells) != len(self.positions) or (np.diff(self.positions) < 0).any():
            raise BatchError("give one position for each cell, and the cells in their order")
        if len(np.unique(self.cells)) != len(self.cells):
            raise BatchError("a cell is in the list of a group twice; name each once")


def cell_order(groups: Sequence[CellGroup]) -> Int32:
    """The order of cells as the kernel reads it (``ggml_flash_attn_ext_set_order``), int32 (n,).

    No group shares cells with others: of each, all are listed.
    """
    n_tokens = sum(len(group.queries) for group in groups)
    where = _N_HEAD + n_tokens + _N_GROUP * len(groups)
    first_chunk = np.zeros(n_tokens, np.int32)
    heads: list[int] = [len(groups), 0, sum(len(group.cells) for group in groups)]
    groups_at: list[int] = []
    parts_at = where + n_tokens
    cells_at = parts_at + _N_PART * len(groups)
    parts: list[int] = []
    for group in groups:
        n_queries, n_cells = len(group.queries), len(group.cells)
        in_block = np.bincount(group.positions // N_BLOCK).max(initial=0)
        chunks = [int(position) // N_CHUNK for position in group.positions]
        first, last = (chunks[0], chunks[-1]) if chunks else (0, -1)
        first_chunk[group.queries] = first
        groups_at += [n_queries, where, 1, parts_at + len(parts), first, last - first + 1]
        groups_at += [int(in_block)]
        parts += [0, n_queries, cells_at, n_cells]
        where += n_queries
        cells_at += n_cells
    lists = [[group.queries for group in groups], [np.array(parts, np.int32)]]
    lists += [[group.cells for group in groups], [group.positions for group in groups]]
    numbers = [
        np.array(heads),
        first_chunk,
        np.array(groups_at),
        *(a for one in lists for a in one),
    ]
    return np.concatenate(numbers).astype(np.int32)


def shared_order(
    groups: Int32, positions: Int32, seen: NDArray[np.bool_], n_numbers: int | None = None
) -> Int32:
    """The order that a graph gets where groups of queries share cells, int32 (n,).

    Args:
        groups: of each query, int32, shape (n_queries,); each group has one.
        positions: of each cell, int32, shape (n_cells,).
        seen: which group sees which cell, shape (n_groups, n_cells).
        n_numbers: room for it; by default as much as a graph has.
    """
    n_groups, n_cells = seen.shape
    room = lib.treellama_cell_order_size(n_groups, len(groups), n_cells)
    order = np.zeros(room if n_numbers is None else n_numbers, np.int32)
    status = lib.treellama_cell_order(
        n_groups,
        len(groups),
        ffi.from_buffer("int32_t[]", np.ascontiguousarray(groups, np.int32)),
        n_cells,
        ffi.from_buffer("int32_t[]", np.ascontiguousarray(positions, np.int32)),
        ffi.from_buffer("bool[]", np.ascontiguousarray(seen, np.bool_)),
        len(order),
        ffi.from_buffer("int32_t[]", order),
    )
    if status != 0:
        raise DecodeError(f"the order could not be made: {last_error()}")
    return order


def attention(
    q: Float32,
    k: Float32,
    v: Float32,
    mask: Float32,
    groups: Sequence[CellGroup] | None,
    *,
    sinks: Float32 | None = None,
    scale: float | None = None,
    max_bias: float = 0.0,
    softcap: float = 0.0,
    type_k: CacheType = "f16",
    type_v: CacheType = "f16",
    n_threads: int = 1,
    use_reference: bool = False,
    plain: bool = False,
    order: Int32 | None = None,
) -> Float32:
    """Softmax(q kᵀ scale + mask) v for each head, by llama.cpp's CPU backend.

    Args:
        q: float32, shape (n_queries, n_heads, n_embd_k).
        k: float32, shape (n_cells, n_heads_kv, n_embd_k); stored as ``type_k`` first.
        v: float32, shape (n_cells, n_heads_kv, n_embd_v); stored as ``type_v`` first.
        mask: float32, shape (n_queries, n_cells), rounded to F16: 0 or an ALiBi bias where a query
            sees a cell, minus infinity where it does not.
        groups: each query in one; None takes stock llama.cpp's kernels, which know no order.
        sinks: float32, shape (n_heads,): scores that take weight and give nothing.
        scale: of the scores; by default 1/sqrt(n_embd_k).
        max_bias: of ALiBi's slopes, 0 for none.
        softcap: scores become softcap·tanh(score/softcap); 0 for none.
        use_reference: ggml's reference code, whatever the groups.
        plain: the kernel's order of sums in plain loops, one row at a time. Needs groups.
        order: what the kernel is told, instead of the groups one by one; see ``shared_order``.

    Returns:
        float32, shape (n_queries, n_heads, n_embd_v).

    Raises:
        BatchError: shapes, types or groups that do not fit each other.
        DecodeError: the backend failed.
    """
    q, k, v, mask = (np.ascontiguousarray(array, dtype=np.float32) for array in (q, k, v, mask))
    _check(q, k, v, mask, groups, sinks)
    if order is None and groups is not None:
        order = cell_order(groups)
    params = ffi.new("struct treellama_attention_params *")
    params.n_tokens, params.n_head, params.n_embd_k = q.shape
    params.n_kv, params.n_head_kv, params.n_embd_v = v.shape
    params.n_streams = 1
    params.n_order = 0 if order is None else len(order)
    params.n_threads = n_threads
    params.type_k, params.type_v = _type(type_k, k), _type(type_v, v)
    params.scale = q.shape[2] ** -0.5 if scale is None else scale
    params.max_bias, params.softcap = max_bias, softcap
    params.use_ref = use_reference
    out = np.empty((*q.shape[:2], v.shape[2]), dtype=np.float32)
    sinks = None if sinks is None else np.ascontiguousarray(sinks, dtype=np.float32)
    if plain and order is None:
        raise BatchError("plain=True without groups: expected groups; give the order of cells")
    compute = lib.treellama_attention_plain if plain else lib.treellama_attention
    status = compute(
        params,
        *(ffi.from_buffer("float[]", array) for array in (q, k, v, mask)),
        ffi.NULL if order is None else ffi.from_buffer("int32_t[]", order),
        ffi.NULL if sinks is None else ffi.from_buffer("float[]", sinks),
        ffi.from_buffer("float[]", out),
    )
    if status != 0:
        raise DecodeError(f"the attention could not be computed: {last_error()}")
    return out


def _type(name: CacheType, values: Float32) -> int:
    if name not in CACHE_TYPES:
        raise BatchError(not_one_of("type", name, CACHE_TYPES))
    kind = ggml_type(name)
    block = lib.ggml_blck_size(kind)
    if values.shape[2] % block:
        raise BatchError(
            f"{values.shape[2]} channels of a head are no multiple of {name}'s {block}"
        )
    return kind


def _check(
    q: Float32,
    k: Float32,
    v: Float32,
    mask: Float32,
    groups: Sequence[CellGroup] | None,
    sinks: Float32 | None,
) -> None:
    fits = q.ndim == k.ndim == v.ndim == 3 and mask.shape == (len(q), len(k))
    if not (fits and q.size and k.size and v.size):
        raise BatchError(
            f"q {q.shape}, k {k.shape}, v {v.shape} and mask {mask.shape} make no attention; give "
            "(queries, heads, channels), twice (cells, heads, channels), and (queries, cells), "
            "none of them empty"
        )
    if k.shape[:2] != v.shape[:2] or k.shape[2] != q.shape[2] or q.shape[1] % k.shape[1]:
        raise BatchError(f"heads or channels of q {q.shape}, k {k.shape}, v {v.shape} do not fit")
    if sinks is not None and np.shape(sinks) != (q.shape[1],):
        raise BatchError(f"sinks of shape {np.shape(sinks)} do not fit {q.shape[1]} heads")
    if groups is None:
        return
    queries = np.concatenate([group.queries for group in groups]) if groups else np.empty(0)
    if sorted(queries.tolist()) != list(range(len(q))):
        raise BatchError("each query must be in exactly one group")
    for group in groups:
        cells, positions = group.cells, group.positions
        if len(cells) == 0:
            continue
        if cells.min() < 0 or cells.max() >= len(k):
            raise BatchError(f"cells must be from 0 to {len(k) - 1}")
        if positions[0] < 0 or positions[-1] > MAX_POSITION:
            raise BatchError(f"positions must be from 0 to {MAX_POSITION}")
