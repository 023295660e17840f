"""The KV cache: sequences, positions and states. Ranges are half open; a negative bound is none.

Sequence ids must exist where a function does not raise: llama.cpp ends the process otherwise.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pytreellama.errors import MemoryStateError
from pytreellama.native.checks import check, reason
from pytreellama.native.handle import Handle
from pytreellama.native.library import ffi, lib

Int32 = NDArray[np.int32]

Sharing = Literal["none", "cells", "checkpoints"]
_SHARING: dict[int, Sharing] = {
    lib.TREELLAMA_PREFIXES_NONE: "none",
    lib.TREELLAMA_PREFIXES_CELLS: "cells",
    lib.TREELLAMA_PREFIXES_STATE: "checkpoints",
}

_RECURRENT = 1  # the status of treellama_memory_seq_rm where only the whole can be removed


def _succeed(status: int) -> None:
    check(status, MemoryStateError, "the KV cache refused the operation", with_log=True)


# -- what is there


def pos_min(context: Handle, seq: int) -> int:
    """Smallest position of a sequence, -1 if it is empty."""
    return int(lib.llama_memory_seq_pos_min(lib.llama_get_memory(context.pointer), seq))


def pos_max(context: Handle, seq: int) -> int:
    """Largest position of a sequence, -1 if it is empty."""
    return int(lib.llama_memory_seq_pos_max(lib.llama_get_memory(context.pointer), seq))


def ranges(context: Handle, seq_ids: Int32) -> tuple[Int32, Int32]:
    """Smallest and largest position of many sequences, int32, -1 where empty."""
    ids = np.ascontiguousarray(seq_ids, dtype=np.int32)
    smallest, largest = np.empty_like(ids), np.empty_like(ids)
    status = lib.treellama_memory_ranges(
        context.pointer,
        ffi.from_buffer("llama_seq_id[]", ids),
        len(ids),
        ffi.from_buffer("llama_pos[]", smallest),
        ffi.from_buffer("llama_pos[]", largest),
    )
    _succeed(status)
    return smallest, largest


def n_cells_used(context: Handle, seq: int) -> int | None:
    """Cells in use of the cache that holds a sequence; None where the memory has no cells."""
    n_used = int(lib.treellama_n_cells_used(context.pointer, seq))
    return n_used if n_used >= 0 else None


def is_shared(context: Handle, seq: int) -> bool:
    """True if cells of a sequence are cells of others too."""
    return bool(lib.treellama_memory_is_shared(context.pointer, seq))


def would_mix(context: Handle, source: int, target: int, first: int, last: int) -> bool:
    """True if cells of the target's own stand among those of the source in [first, last].

    Also where the model has no cells of which that could be known.
    """
    return bool(lib.treellama_memory_would_mix(context.pointer, source, target, first, last))


def can_shift(context: Handle) -> bool:
    """True if positions can be changed."""
    return bool(lib.treellama_memory_can_shift(context.pointer))


# -- prefixes


def sharing(context: Handle) -> Sharing:
    """How the memory of a context can share a prefix of a sequence."""
    return _SHARING[lib.treellama_prefixes(context.pointer)]


def holds_prefix(context: Handle, seq: int, n: int) -> bool:
    """True if the first n tokens of a sequence can be shared as they are."""
    return bool(lib.treellama_prefix_is_held(context.pointer, seq, n))


def window_is_small(context: Handle) -> bool:
    """True if a sliding window's cache has room for the window alone."""
    return bool(lib.treellama_window_is_small(context.pointer))


# -- operations: each raises MemoryStateError if llama.cpp refuses


def clear(context: Handle, data: bool) -> None:
    """Forget all sequences; the cells' data too where ``data``."""
    _succeed(lib.treellama_memory_clear(context.pointer, data))


def remove(context: Handle, seq: int, p0: int, p1: int) -> None:
    """Remove a range of positions of a sequence."""
    status = lib.treellama_memory_seq_rm(context.pointer, seq, p0, p1)
    if status == _RECURRENT:
        raise MemoryStateError(
            f"positions [{p0}, {p1}) of sequence {seq} cannot be removed: this model keeps a "
            "recurrent state, of which only the whole can be removed"
        )
    _succeed(status)


def copy(context: Handle, source: int, target: int, p0: int, p1: int) -> None:
    """Let a sequence share a range of positions of another one."""
    _succeed(lib.treellama_memory_seq_cp(context.pointer, source, target, p0, p1))


def keep(context: Handle, seq: int) -> None:
    """Remove all other sequences in the stream of this one."""
    _succeed(lib.treellama_memory_seq_keep(context.pointer, seq))


def add(context: Handle, seq: int, p0: int, p1: int, delta: int) -> None:
    """Add to the positions of a range."""
    _succeed(lib.treellama_memory_seq_add(context.pointer, seq, p0, p1, delta))


def divide(context: Handle, seq: int, p0: int, p1: int, divisor: int) -> None:
    """Divide the positions of a range."""
    _succeed(lib.treellama_memory_seq_div(context.pointer, seq, p0, p1, divisor))


def update(context: Handle) -> None:
    """Do now what llama.cpp leaves to the next pass: shifts, and copies between streams."""
    _succeed(lib.treellama_memory_update(context.pointer))


# -- states


def state(context: Handle, seq: int, *, partial: bool = False) -> bytes:
    """The state of a sequence, or of all for -1. Raises ``MemoryStateError``.

    Args:
        partial: without the keys and values of full attention, which ``copy`` can share.
    """
    size = lib.treellama_state_size(context.pointer, seq, partial)
    data = bytearray(size)
    pointer = ffi.from_buffer("uint8_t[]", data)
    n_bytes = lib.treellama_state_get(context.pointer, seq, partial, pointer, size)
    if n_bytes == 0 or n_bytes > size:
        raise MemoryStateError(f"the state could not be saved: {reason(with_log=True)}")
    return bytes(memoryview(data)[:n_bytes])


def set_state(context: Handle, seq: int, data: bytes, *, partial: bool = False) -> str | None:
    """Put a state back, into an empty sequence, or what ``partial`` left out of it into any.

    Returns:
        Why it was refused, or None. Refused data may leave a part behind: empty the sequence.
    """
    pointer = ffi.from_buffer("uint8_t[]", data)
    n_bytes = lib.treellama_state_set(context.pointer, seq, partial, pointer, len(data))
    return None if n_bytes == len(data) else reason(with_log=True)
