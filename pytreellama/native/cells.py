"""The cells of a KV cache, read for tests and pictures."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pytreellama.native.handle import Handle
from pytreellama.native.library import ffi, lib
from pytreellama.native.limits import N_SEQ_MAX

Int32 = NDArray[np.int32]

_WORDS_PER_CELL = N_SEQ_MAX // 32


def read_cells(
    context: Handle, seq: int, *, sliding: bool
) -> tuple[Int32, Int32, NDArray[np.bool_]] | None:
    """Positions, nodes and sequences of the cells of the cache that holds a sequence.

    Args:
        sliding: of the sliding-window layers' cache.

    Returns:
        int32, int32, both of shape (n_cells,), -1 for none, and bool of shape (n_cells, 256);
        None if the model has no such cache.
    """
    pointer = context.pointer
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
    return positions, nodes, bits.astype(np.bool_)
