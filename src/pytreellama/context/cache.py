"""Cache: llama.cpp's KV cache as it is.

No check that a caller could want to leave out stands here: ``Memory`` has those for users, and
the encodings of trees work below them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pytreellama.context.native_context import NativeContext
from pytreellama.errors import MemoryStateError
from pytreellama.native import chain as native_chain
from pytreellama.native import memory
from pytreellama.native import tree as native_tree
from pytreellama.native.memory import Sharing

Int32 = NDArray[np.int32]

EVERYTHING = -1
"""Instead of a sequence id: the whole cache."""


class Cache:
    """The cells of a context. Ranges of positions are half open; a negative bound is none."""

    def __init__(self, native: NativeContext) -> None:
        self._native = native

    @property
    def can_shift(self) -> bool:
        return memory.can_shift(self._native.handle)

    def pos_min(self, seq: int) -> int:
        """Smallest position of a sequence, -1 if it is empty."""
        self._check_id(seq)
        return memory.pos_min(self._native.handle, seq)

    def pos_max(self, seq: int) -> int:
        """Largest position of a sequence, -1 if it is empty."""
        self._check_id(seq)
        return memory.pos_max(self._native.handle, seq)

    def ranges(self, seq_ids: Int32) -> tuple[Int32, Int32]:
        """Smallest and largest position of many sequences, int32, -1 where empty."""
        return memory.ranges(self._native.handle, seq_ids)

    def n_used(self, seq: int = 0) -> int | None:
        """Cells in use, by text and pending nodes, of the cache that holds a sequence."""
        self._check_id(seq)
        return memory.n_cells_used(self._native.handle, seq)

    def is_shared(self, seq: int) -> bool:
        """True if cells of a sequence are cells of others too."""
        self._check_id(seq)
        return memory.is_shared(self._native.handle, seq)

    def would_mix(self, source: int, target: int, first: int, last: int) -> bool:
        """True if cells of the target's own stand among those of the source in [first, last]."""
        return memory.would_mix(self._native.handle, source, target, first, last)

    def clear(self, data: bool) -> None:
        memory.clear(self._native.handle, data)

    def rm(self, seq: int, p0: int = -1, p1: int = -1) -> None:
        memory.remove(self._native.handle, seq, p0, p1)

    def cp(self, source: int, target: int, p0: int = -1, p1: int = -1) -> None:
        memory.copy(self._native.handle, source, target, p0, p1)

    def keep(self, seq: int) -> None:
        """Remove all other sequences, in all streams: llama.cpp looks at one alone."""
        memory.keep(self._native.handle, seq)
        if not self._native.kv_unified:
            for other in range(self._native.n_seq_max):
                if other != seq:
                    self.rm(other)

    def add(self, seq: int, p0: int, p1: int, delta: int) -> None:
        memory.add(self._native.handle, seq, p0, p1, delta)

    def div(self, seq: int, p0: int, p1: int, divisor: int) -> None:
        memory.divide(self._native.handle, seq, p0, p1, divisor)

    def empty(self, seq: int) -> None:
        """Forget a sequence, or ``EVERYTHING``."""
        if seq == EVERYTHING:
            self.clear(data=True)
        else:
            self.rm(seq)

    def commit(self, seq: int, path: Sequence[int]) -> None:
        """Make a path of pending nodes text, and free all others."""
        native_tree.commit(self._native.handle, seq, path)

    def prune(self, seq: int, keep: NDArray[np.bool_]) -> None:
        """Free the pending nodes that are not kept; the parent of one that is kept is kept."""
        native_tree.prune(self._native.handle, seq, keep)

    def discard(self, seq: int) -> None:
        """Free all pending nodes of a sequence."""
        native_tree.discard(self._native.handle, seq)

    def roll_back(self, seq: int, *, n_past: int, n_tokens: int, n_keep: int) -> None:
        """Keep the first tokens of a chain, and take back the others; see ``native.chain``."""
        native_chain.commit(
            self._native.handle, seq, n_past=n_past, n_tokens=n_tokens, n_keep=n_keep
        )

    @property
    def state_bytes(self) -> int:
        """Bytes of the recurrent states of one sequence; 0 if there are none."""
        return native_chain.state_bytes(self._native.handle)

    # -- prefixes

    @property
    def sharing(self) -> Sharing:
        return memory.sharing(self._native.handle)

    @property
    def window_is_small(self) -> bool:
        """True if a sliding window's cache has room for the window alone."""
        return memory.window_is_small(self._native.handle)

    def holds_prefix(self, seq: int, n: int) -> bool:
        """True if the first n tokens of a sequence can be shared as they are."""
        self._check_id(seq)
        return memory.holds_prefix(self._native.handle, seq, n)

    def checkpoint(self, seq: int) -> bytes:
        """The part of a sequence's state that ``cp`` cannot share at any position."""
        memory.update(self._native.handle)
        return memory.state(self._native.handle, seq, partial=True)

    def set_checkpoint(self, seq: int, data: bytes) -> None:
        """Put a checkpoint back, beside the cells that ``cp`` has shared; as ``set_state``."""
        memory.update(self._native.handle)
        self._load(seq, data, partial=True)

    # -- states

    def state(self, seq: int) -> bytes:
        """The state of a sequence, or of ``EVERYTHING``."""
        memory.update(self._native.handle)
        return memory.state(self._native.handle, seq)

    def set_state(self, seq: int, data: bytes) -> None:
        """Put a state back. What stood there is gone, also if the state is refused."""
        memory.update(self._native.handle)
        self.empty(seq)  # llama.cpp leaves the old text where the saved one is empty
        self._load(seq, data)

    def _load(self, seq: int, data: bytes, *, partial: bool = False) -> None:
        handle = self._native.handle
        why_not = memory.set_state(handle, seq, data, partial=partial) if data else "they are empty"
        if why_not is not None:
            self.empty(seq)
            raise MemoryStateError(
                f"these {len(data)} bytes are not a state that this context can take ({why_not}); "
                "use a state saved with the same model and cache types"
            )

    def _check_id(self, seq: int) -> None:
        """What follows ends the process on any other id."""
        if not 0 <= seq < self._native.n_seq_ids:
            raise MemoryStateError(f"this cache has no sequence {seq}")
