"""One attention op by itself, on the CPU: the kernel that trees run on, open to the curious.

The kernel sums over cells in the order of their positions, so that what a query gets depends on
its own past alone; see docs/exactness.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pytreellama.core.params import CACHE_TYPES, CacheType
from pytreellama.errors import BatchError, DecodeError
from pytreellama.native.log import last_error
from pytreellama.native.tensors import ggml_type
from pytreellama.testing.library import ffi, lib

Int32 = NDArray[np.int32]
Float32 = NDArray[np.float32]

N_BLOCK = 64
"""Positions in which the kernel's running maximum stays the same."""

MAX_POSITION = 2**31 - 1

_N_HEAD = 5  # numbers that describe a group


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
    """The order of cells as the kernel reads it (``ggml_flash_attn_ext_set_order``), int32 (n,)."""
    where = 1 + _N_HEAD * len(groups)
    heads: list[int] = [len(groups)]
    lists: list[Int32] = []
    for group in groups:
        n_queries, n_cells = len(group.queries), len(group.cells)
        in_block = np.bincount(group.positions // N_BLOCK).max(initial=0)
        heads += [n_queries, where, n_cells, where + n_queries, int(in_block)]
        lists += [group.queries, group.cells, group.positions]
        where += n_queries + 2 * n_cells
    return np.concatenate([np.array(heads, dtype=np.int32), *lists]).astype(np.int32)


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

    Returns:
        float32, shape (n_queries, n_heads, n_embd_v).

    Raises:
        BatchError: shapes, types or groups that do not fit each other.
        DecodeError: the backend failed.
    """
    q, k, v, mask = (np.ascontiguousarray(array, dtype=np.float32) for array in (q, k, v, mask))
    _check(q, k, v, mask, groups, sinks)
    order = None if groups is None else cell_order(groups)
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
        raise BatchError(f"type {name} was asked for; allowed is {', '.join(CACHE_TYPES)}")
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
