"""Cache: llama.cpp's KV cache as it is, its statuses turned into exceptions.

No check that a caller could want to leave out stands here: ``Memory`` has those for users, and
the encodings of trees work below them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pytreellama.core.native_context import NativeContext
from pytreellama.errors import MemoryStateError
from pytreellama.native import drain_log, ffi, last_error, lib

Int32 = NDArray[np.int32]

EVERYTHING = -1
"""Instead of a sequence id: the whole cache."""

_WORDS_PER_CELL = 256 // 32


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


class Cache:
    """The cells of a context. Ranges of positions are half open; a negative bound is none."""

    def __init__(self, native: NativeContext) -> None:
        self._native = native

    @property
    def can_shift(self) -> bool:
        return bool(lib.treellama_memory_can_shift(self._native.pointer))

    def pos_min(self, seq: int) -> int:
        """Smallest position of a sequence, -1 if it is empty."""
        self._check_id(seq)
        return int(lib.llama_memory_seq_pos_min(self._native.memory_pointer, seq))

    def pos_max(self, seq: int) -> int:
        """Largest position of a sequence, -1 if it is empty."""
        self._check_id(seq)
        return int(lib.llama_memory_seq_pos_max(self._native.memory_pointer, seq))

    def ranges(self, seq_ids: Int32) -> tuple[Int32, Int32]:
        """Smallest and largest position of many sequences, int32, -1 where empty."""
        ids = np.ascontiguousarray(seq_ids, dtype=np.int32)
        smallest, largest = np.empty_like(ids), np.empty_like(ids)
        self._succeed(
            lib.treellama_memory_ranges(
                self._native.pointer,
                ffi.from_buffer("llama_seq_id[]", ids),
                len(ids),
                ffi.from_buffer("llama_pos[]", smallest),
                ffi.from_buffer("llama_pos[]", largest),
            )
        )
        return smallest, largest

    def n_used(self, seq: int = 0) -> int | None:
        """Cells in use, by text and pending nodes, of the cache that holds a sequence."""
        self._check_id(seq)
        n_used = int(lib.treellama_n_cells_used(self._native.pointer, seq))
        return n_used if n_used >= 0 else None

    def clear(self, data: bool) -> None:
        self._succeed(lib.treellama_memory_clear(self._native.pointer, data))

    def rm(self, seq: int, p0: int = -1, p1: int = -1) -> None:
        status = lib.treellama_memory_seq_rm(self._native.pointer, seq, p0, p1)
        if status == 1:
            raise MemoryStateError(
                f"positions [{p0}, {p1}) of sequence {seq} cannot be removed: this model keeps a "
                "recurrent state, of which only the whole can be removed"
            )
        self._succeed(status)

    def cp(self, source: int, target: int, p0: int = -1, p1: int = -1) -> None:
        self._succeed(lib.treellama_memory_seq_cp(self._native.pointer, source, target, p0, p1))

    def keep(self, seq: int) -> None:
        """Remove all other sequences, in all streams: llama.cpp looks at one alone."""
        self._succeed(lib.treellama_memory_seq_keep(self._native.pointer, seq))
        if not self._native.kv_unified:
            for other in range(self._native.n_seq_max):
                if other != seq:
                    self.rm(other)

    def add(self, seq: int, p0: int, p1: int, delta: int) -> None:
        self._succeed(lib.treellama_memory_seq_add(self._native.pointer, seq, p0, p1, delta))

    def div(self, seq: int, p0: int, p1: int, divisor: int) -> None:
        self._succeed(lib.treellama_memory_seq_div(self._native.pointer, seq, p0, p1, divisor))

    def empty(self, seq: int) -> None:
        """Forget a sequence, or ``EVERYTHING``."""
        if seq == EVERYTHING:
            self.clear(data=True)
        else:
            self.rm(seq)

    def commit(self, seq: int, path: Sequence[int]) -> None:
        """Make a path of pending nodes text, and free all others."""
        self._succeed(
            lib.treellama_tree_commit(self._native.pointer, seq, list(path), len(path), False)
        )

    def discard(self, seq: int) -> None:
        """Free all pending nodes of a sequence."""
        self._succeed(lib.treellama_tree_discard(self._native.pointer, seq))

    def state(self, seq: int) -> bytes:
        """The state of a sequence, or of ``EVERYTHING``."""
        self._settle()
        size = lib.treellama_state_size(self._native.pointer, seq)
        data = bytearray(size)
        n_bytes = lib.treellama_state_get(
            self._native.pointer, seq, ffi.from_buffer("uint8_t[]", data), size
        )
        if n_bytes == 0 or n_bytes > size:
            raise MemoryStateError(f"the state could not be saved: {_reason()}")
        return bytes(data[:n_bytes])

    def set_state(self, seq: int, data: bytes) -> None:
        """Put a state back. What stood there is gone, also if the state is refused."""
        self._settle()
        self.empty(seq)  # llama.cpp leaves the old text where the saved one is empty
        n_bytes = 0
        if data:
            n_bytes = lib.treellama_state_set(
                self._native.pointer, seq, ffi.from_buffer("uint8_t[]", data), len(data)
            )
        if not data or n_bytes != len(data):
            reason = _reason()
            self.empty(seq)
            raise MemoryStateError(
                f"these {len(data)} bytes are not a state that this context can take ({reason}); "
                "use a state saved with the same model and cache types"
            )

    def cells(self, seq: int = 0, *, sliding: bool = False) -> Cells | None:
        """The cells of the cache that holds a sequence; None if the model has no such cache."""
        self._check_id(seq)
        pointer = self._native.pointer
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

    def _check_id(self, seq: int) -> None:
        """What follows ends the process on any other id."""
        if not 0 <= seq < self._native.n_seq_ids:
            raise MemoryStateError(f"this cache has no sequence {seq}")

    def _settle(self) -> None:
        """Do now what llama.cpp leaves to the next pass: shifts, and copies between streams."""
        self._succeed(lib.treellama_memory_update(self._native.pointer))

    def _succeed(self, status: int) -> None:
        if status != 0:
            raise MemoryStateError(f"the KV cache refused the operation: {_reason()}")


def _reason() -> str:
    said = [*drain_log(errors_only=True), last_error()]
    return "; ".join(filter(None, said)) or "no reason given"
