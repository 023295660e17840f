"""The cells of a KV cache: what they hold, and where a path is left on a device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pytreellama.context.context import Context
from pytreellama.errors import MemoryStateError
from pytreellama.native.checks import check
from pytreellama.native.limits import N_SEQ_MAX
from pytreellama.testing.library import ffi, lib

Int32 = NDArray[np.int32]

_WORDS_PER_CELL = N_SEQ_MAX // 32


@dataclass(frozen=True, slots=True)
class Cells:
    """What the cells of a cache hold.

    Attributes:
        positions: int32, shape (n_cells,), -1 where a cell is empty.
        nodes: int32, shape (n_cells,): the pending node that a cell holds, -1 where it is text or
            empty. Known with ``TreeEncoding.ANCESTORS`` alone.
        members: bool, shape (n_cells, 256): the sequences that a cell belongs to.
    """

    positions: Int32
    nodes: Int32
    members: NDArray[np.bool_]


def read_cells(context: Context, seq: int = 0, *, sliding: bool = False) -> Cells | None:
    """The cells of the cache that holds a sequence; None if the model has no such cache.

    Args:
        sliding: of the sliding-window layers' cache.

    Raises:
        MemoryStateError: seq out of range.
    """
    context.native.require_sequence(seq)
    with context.exclusive():
        return _read(context.native.handle.pointer, seq, sliding)


def _read(pointer: object, seq: int, sliding: bool) -> Cells | None:
    count = lib.treellama_cells(pointer, sliding, seq, ffi.NULL, ffi.NULL, ffi.NULL)
    if count < 0:
        return None
    positions, nodes = np.empty(count, dtype=np.int32), np.empty(count, dtype=np.int32)
    words = np.empty((count, _WORDS_PER_CELL), dtype="<u4")
    lib.treellama_cells(
        pointer,
        sliding,
        seq,
        ffi.from_buffer("llama_pos[]", positions),
        ffi.from_buffer("int32_t[]", nodes),
        ffi.from_buffer("uint32_t[]", words),
    )
    bits = np.unpackbits(words.view(np.uint8), axis=1, bitorder="little")
    return Cells(positions, nodes, bits.astype(np.bool_))


def commit_in_place(context: Context, seq: int, path: Sequence[int]) -> None:
    """Make a path of pending nodes text, as on a device: its cells stay where they are.

    The context does not learn of it: ask its cache alone afterwards.

    Raises:
        MemoryStateError: it is no path of pending nodes.
    """
    status = lib.treellama_tree_commit_in_place(
        context.native.handle.pointer, seq, list(path), len(path)
    )
    check(status, MemoryStateError, "the KV cache refused the operation", with_log=True)
