"""Memory: the KV cache of a context, by sequence and position."""

from __future__ import annotations

import os
import tempfile
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pytreellama.core.probe import read_cells
from pytreellama.errors import MemoryStateError
from pytreellama.native import drain_log, ffi, last_error, lib

if TYPE_CHECKING:
    from pytreellama.core.context import Context

Int32 = NDArray[np.int32]

_ALL = -1
_MOVE = "move cells that may belong to"


class Memory:
    """Operations on the KV cache; ``Context.memory``.

    Ranges of positions are half open: [p0, p1), and a negative bound means no bound. Operations
    refuse a sequence that has pending tree nodes, where the result would be wrong: commit or
    discard them first.
    """

    def __init__(self, context: Context) -> None:
        self._context = context

    @property
    def can_shift(self) -> bool:
        """True if positions can be moved afterwards (``add`` and ``div``)."""
        return bool(lib.llama_memory_can_shift(lib.llama_get_memory(self._context.pointer)))

    def pos_min(self, seq: int) -> int:
        """Smallest position of a sequence in the cache, -1 if it is empty.

        Not 0 where a sliding window has dropped the beginning.
        """
        return int(self.ranges(self._checked_ids(seq))[0][0])

    def pos_max(self, seq: int) -> int:
        """Largest position of a sequence in the cache, -1 if it is empty."""
        return int(self.ranges(self._checked_ids(seq))[1][0])

    def ranges(self, seq_ids: Int32) -> tuple[Int32, Int32]:
        """Smallest and largest position of many sequences, int32, -1 where empty."""
        ids = np.ascontiguousarray(seq_ids, dtype=np.int32)
        smallest, largest = np.empty_like(ids), np.empty_like(ids)
        self._succeed(
            lib.treellama_memory_ranges(
                self._context.pointer,
                ffi.from_buffer("llama_seq_id[]", ids),
                len(ids),
                ffi.from_buffer("llama_pos[]", smallest),
                ffi.from_buffer("llama_pos[]", largest),
            )
        )
        return smallest, largest

    def clear(self, *, data: bool = True) -> None:
        """Forget everything, pending nodes as well.

        Args:
            data: overwrite the keys and values with zeros too.
        """
        with self._context.exclusive():
            self._context.forget_pending()
            self._succeed(lib.treellama_memory_clear(self._context.pointer, data))

    def rm(self, seq: int, p0: int = -1, p1: int = -1) -> None:
        """Remove a sequence's positions [p0, p1).

        Raises:
            MemoryStateError: seq out of range or with pending nodes, or a recurrent model, whose
                state has no parts that could be taken out.
        """
        with self._settled(seq):
            self.drop(seq, p0, p1)

    def cp(self, source: int, target: int, p0: int = -1, p1: int = -1) -> None:
        """Let ``target`` see the positions [p0, p1) of ``source``; nothing is copied if unified.

        Raises:
            MemoryStateError: ids out of range or with pending nodes, a target that holds such
                positions already, or, where each sequence has a stream of its own
                (``kv_unified=False``), a part of a sequence or a target that is not empty.
        """
        with self._settled(source), self._settled(target):
            if source == target:
                return
            if self._context.kv_unified:
                self._require_disjoint(source, target, p0, p1)
                self.share(source, target, p0, p1)
            else:
                self._require_whole(source, target, p0, p1)
                self.share(source, target)

    def keep(self, seq: int) -> None:
        """Remove all other sequences."""
        with self._settled(seq):
            self._context.require_no_pending("keep")
            self._succeed(lib.treellama_memory_seq_keep(self._context.pointer, seq))
            if not self._context.kv_unified:
                self._clear_other_streams(seq)

    def add(self, seq: int, p0: int, p1: int, delta: int) -> None:
        """Move positions [p0, p1) by ``delta``; what falls below 0 is removed.

        Cells that other sequences share move for them as well.

        Raises:
            MemoryStateError: seq out of range or with pending nodes, or positions that this model
                cannot move.
        """
        with self._settled(seq):
            self._require_shift("add")
            self._context.require_no_pending(_MOVE)
            if max(self.pos_max(seq), p1, 0) + delta > np.iinfo(np.int32).max:
                raise MemoryStateError(f"a shift by {delta} leaves no room for 32-bit positions")
            self._succeed(lib.treellama_memory_seq_add(self._context.pointer, seq, p0, p1, delta))

    def div(self, seq: int, p0: int, p1: int, divisor: int) -> None:
        """Divide positions [p0, p1) by a whole number above 0 (self-extend).

        Raises:
            MemoryStateError: as ``add``, or a divisor below 1.
        """
        with self._settled(seq):
            self._require_shift("div")
            self._context.require_no_pending(_MOVE)
            if divisor < 1:
                raise MemoryStateError(f"positions cannot be divided by {divisor}; give 1 or more")
            self._succeed(lib.treellama_memory_seq_div(self._context.pointer, seq, p0, p1, divisor))

    def save(self, seq: int | None = None) -> bytes:
        """The state of a sequence, or of the whole context, as bytes.

        Raises:
            MemoryStateError: seq out of range or with pending nodes.
        """
        with self._context.exclusive():
            seq_id = self._saved_id(seq, "save")
            size = lib.treellama_state_size(self._context.pointer, seq_id)
            data = bytearray(size)
            n_bytes = lib.treellama_state_get(
                self._context.pointer, seq_id, ffi.from_buffer("uint8_t[]", data), size
            )
            if n_bytes == 0 or n_bytes > size:
                raise MemoryStateError(f"the state could not be saved: {self._reason()}")
            return bytes(data[:n_bytes])

    def load(self, data: bytes, seq: int | None = None) -> None:
        """Put back what ``save`` gave, into a sequence or the whole context.

        Raises:
            MemoryStateError: seq out of range or with pending nodes; bytes that are cut short,
                or from another model or kind of cache, or that do not fit. The sequence (or the
                whole cache) is then empty.
        """
        with self._context.exclusive():
            seq_id = self._saved_id(seq, "load")
            self._empty(seq)  # llama.cpp leaves the old text where the saved one is empty
            n_bytes = (
                lib.treellama_state_set(
                    self._context.pointer, seq_id, ffi.from_buffer("uint8_t[]", data), len(data)
                )
                if data
                else 0
            )
            if n_bytes != len(data) or not data:
                reason = self._reason()
                self._empty(seq)
                raise MemoryStateError(
                    f"these {len(data)} bytes are not a state that this context can take "
                    f"({reason}); use a state saved with the same model and cache types"
                )

    def save_file(self, path: str | os.PathLike[str], seq: int | None = None) -> None:
        """``save`` to a file, which is replaced only when all is written."""
        target = Path(path)
        data = self.save(seq)
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=target.name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            os.replace(name, target)
        except BaseException:
            os.unlink(name)
            raise

    def load_file(self, path: str | os.PathLike[str], seq: int | None = None) -> None:
        """``load`` from a file that ``save_file`` wrote."""
        self.load(Path(path).read_bytes(), seq)

    def drop(self, seq: int, p0: int = -1, p1: int = -1) -> None:
        """``rm`` for trees, whose own sequences have pending nodes."""
        status = lib.treellama_memory_seq_rm(self._context.pointer, seq, p0, p1)
        if status == 1:
            raise MemoryStateError(
                f"positions [{p0}, {p1}) of sequence {seq} cannot be removed: this model keeps a "
                "recurrent state, of which only the whole can be removed"
            )
        self._succeed(status)

    def share(self, source: int, target: int, p0: int = -1, p1: int = -1) -> None:
        """``cp`` for trees, whose own sequences have pending nodes."""
        self._succeed(lib.treellama_memory_seq_cp(self._context.pointer, source, target, p0, p1))

    def _settled(self, seq: int) -> AbstractContextManager[None]:
        self._checked_ids(seq)
        self._context.require_no_pending("change", seq)
        return self._context.exclusive()

    def _saved_id(self, seq: int | None, verb: str) -> int:
        if seq is None:
            self._context.require_no_pending(verb)
            return _ALL
        self._checked_ids(seq)
        self._context.require_no_pending(verb, seq)
        return seq

    def _empty(self, seq: int | None) -> None:
        if seq is None:
            lib.treellama_memory_clear(self._context.pointer, True)
        else:
            lib.treellama_memory_seq_rm(self._context.pointer, seq, -1, -1)

    def _checked_ids(self, seq: int) -> Int32:
        if not 0 <= seq < self._context.n_seq_max:
            raise MemoryStateError(
                f"sequence id {seq} is out of range; this context has ids from 0 to "
                f"{self._context.n_seq_max - 1}"
            )
        return np.array([seq], dtype=np.int32)

    def _clear_other_streams(self, seq: int) -> None:
        """llama.cpp's ``seq_keep`` looks at the stream of that sequence alone."""
        for other in range(self._context.n_seq_max):
            if other != seq:
                self.drop(other)

    def _require_whole(self, source: int, target: int, p0: int, p1: int) -> None:
        """A copy between streams takes the whole, and llama.cpp empties the target first."""
        first, last = self.pos_min(source), self.pos_max(source)
        if last >= 0 and (p0 > first or 0 <= p1 <= last):
            raise MemoryStateError(
                f"positions [{p0}, {p1}) of sequence {source} cannot be copied alone: without "
                "kv_unified each sequence has a stream of its own, and only whole ones are copied"
            )
        last = self.pos_max(target)
        if last >= 0:
            raise MemoryStateError(
                f"sequence {target} holds positions up to {last} already; without kv_unified a "
                "copy would replace them: remove them first"
            )

    def _require_disjoint(self, source: int, target: int, p0: int, p1: int) -> None:
        """Two cells at one position of one sequence would both be seen: that is no text."""
        (low, other_low), (high, other_high) = self.ranges(np.array([source, target]))
        if other_high < 0 or high < 0:
            return
        first = max(int(low), p0)
        last = min(int(high), p1 - 1) if p1 >= 0 else int(high)
        overlap = first <= other_high and last >= other_low
        if overlap and self._would_mix(source, target, first, last):
            raise MemoryStateError(
                f"sequence {target} holds positions {other_low} to {other_high} already; remove "
                f"them before copying {first} to {last} from sequence {source}"
            )

    def _would_mix(self, source: int, target: int, first: int, last: int) -> bool:
        """True if cells of the target's own stand among those of the source in [first, last]."""
        cells = read_cells(self._context, source)
        if cells is None:
            return True
        own, others, positions = cells.members[:, source], cells.members[:, target], cells.positions
        copied = positions[own & (positions >= first) & (positions <= last)]
        if len(copied) == 0:
            return False
        between = (positions >= copied.min()) & (positions <= copied.max())
        return bool((others & ~own & between).any())

    def _require_shift(self, verb: str) -> None:
        if not self.can_shift:
            raise MemoryStateError(
                f"memory.{verb} is not possible: the positions of this model are not rotary, or "
                "its cache cannot be moved"
            )

    def _succeed(self, status: int) -> None:
        if status != 0:
            raise MemoryStateError(f"the KV cache refused the operation: {self._reason()}")

    def _reason(self) -> str:
        return (
            "; ".join(filter(None, [*drain_log(errors_only=True), last_error()]))
            or "no reason given"
        )
