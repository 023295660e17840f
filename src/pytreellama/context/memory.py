"""Memory: the KV cache of a context for its user, by sequence and position."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext

import numpy as np
from numpy.typing import NDArray

from pytreellama.context.batch_check import POSITION_MAX
from pytreellama.context.cache import EVERYTHING, Cache
from pytreellama.context.native_context import NativeContext
from pytreellama.context.tree_encoding import TreeEncoder, require_no_pending
from pytreellama.errors import MemoryStateError
from pytreellama.files import read_bytes, replaced_file
from pytreellama.native.memory import Sharing

Int32 = NDArray[np.int32]

_INT32_MAX = np.iinfo(np.int32).max
_MAX_STATE_BYTES = 2**50
_MOVE = "move cells that may belong to"


class Memory:
    """Operations on the KV cache; ``Context.memory``.

    Ranges of positions are half open: [p0, p1), and a negative bound means no bound. Operations
    refuse a sequence that has pending tree nodes, where the result would be wrong: commit or
    discard them first.
    """

    def __init__(self, native: NativeContext, cache: Cache, trees: TreeEncoder) -> None:
        self._native = native
        self._cache = cache
        self._trees = trees

    @property
    def can_shift(self) -> bool:
        """True if positions can be moved afterwards (``add`` and ``div``)."""
        return self._cache.can_shift

    @property
    def n_cells_used(self) -> int | None:
        """Cells in use, by text and pending nodes of all sequences; shared ones count once.

        Without ``kv_unified`` those of sequence 0's stream. None if the model has no such cache.
        """
        with self._native.exclusive():
            return self._cache.n_used()

    def pos_min(self, seq: int) -> int:
        """Smallest position of a sequence in the cache, -1 if it is empty.

        Not 0 where a sliding window has dropped the beginning.
        """
        self._native.require_sequence(seq)
        with self._native.exclusive():
            return self._cache.pos_min(seq)

    def pos_max(self, seq: int) -> int:
        """Largest position of a sequence in the cache, -1 if it is empty."""
        self._native.require_sequence(seq)
        with self._native.exclusive():
            return self._cache.pos_max(seq)

    def is_shared(self, seq: int) -> bool:
        """True if cells of a sequence are cells of others too: ``add`` would move them for all."""
        self._native.require_sequence(seq)
        with self._native.exclusive():
            return self._cache.is_shared(seq)

    def clear(self, *, data: bool = True) -> None:
        """Forget everything, pending nodes as well.

        Args:
            data: overwrite the keys and values with zeros too.
        """
        with self._native.exclusive():
            self._trees.forget()
            self._cache.clear(data)

    def rm(self, seq: int, p0: int = -1, p1: int = -1) -> None:
        """Remove a sequence's positions [p0, p1).

        A recurrent state has seen what is removed before its end, and does not forget it.

        Raises:
            MemoryStateError: seq out of range or with pending nodes, or a recurrent model, whose
                state has no parts that could be taken out.
        """
        _require_int32(p0, p1)
        with self._settled(seq):
            self._cache.rm(seq, p0, p1)

    def cp(self, source: int, target: int, p0: int = -1, p1: int = -1) -> None:
        """Let ``target`` see the positions [p0, p1) of ``source``; nothing is copied if unified.

        Raises:
            MemoryStateError: ids out of range or with pending nodes, a target that holds such
                positions already, an end at which a recurrent state or a window is not held, or,
                where each sequence has a stream of its own (``kv_unified=False``), a part of a
                sequence or a target that is not empty.
        """
        _require_int32(p0, p1)
        with self._settled(source), self._settled(target):
            if source == target:
                return
            if self._native.kv_unified:
                self._require_held(source, p1)
                self._require_disjoint(source, target, p0, p1)
                self._cache.cp(source, target, p0, p1)
            else:
                self._require_whole(source, target, p0, p1)
                self._cache.cp(source, target)

    # -- prefixes

    @property
    def sharing(self) -> Sharing:
        """How prefixes of a sequence can be shared with others.

        "cells": at any length. "checkpoints": where the model has a recurrent state or a small
        sliding window, which are those after the last token; shorter prefixes need a
        ``checkpoint`` that was taken at their end. "none": not at all, as without ``kv_unified``.
        """
        return self._cache.sharing if self._native.kv_unified else "none"

    def holds_prefix(self, seq: int, n: int) -> bool:
        """True if the first n tokens of a sequence can be shared without a checkpoint."""
        with self._settled(seq):
            return n > 0 and self._cache.holds_prefix(seq, n)

    def checkpoint(self, seq: int) -> bytes:
        """What ``share`` needs to share the text of a sequence, as it is now, once it has grown.

        The recurrent state, and the cells of a sliding window: a part of what ``save`` gives.

        Raises:
            MemoryStateError: as ``save``.
        """
        with self._settled(seq):
            return self._cache.checkpoint(seq)

    def share(
        self, source: int | None, target: int, n: int, checkpoint: bytes | None = None
    ) -> None:
        """Let ``target`` be the first n tokens of ``source``, with the same bits.

        Args:
            source: None for a model without attention, whose checkpoint is all that there is.
            target: empty, or a shorter prefix of the source.
            n: length of the prefix in tokens.
            checkpoint: taken when a sequence held these n tokens and no more; not needed where
                ``holds_prefix`` is True.

        Raises:
            MemoryStateError: a prefix that is not held, or a checkpoint that is not of this
                length or of another model, or does not fit. ``target`` is then empty.
        """
        with nullcontext() if source is None else self._settled(source), self._settled(target):
            if self.sharing == "none":
                raise MemoryStateError("the memory of this model or context shares no prefixes")
            if checkpoint is None and (source is None or not self._cache.holds_prefix(source, n)):
                raise MemoryStateError(
                    f"invalid n={n}: sequence {source} can share a prefix of this length only "
                    "with a checkpoint that was taken at its end"
                )
            try:
                self._share(source, target, n, checkpoint)
            except BaseException:
                self._cache.empty(target)
                raise

    def _share(self, source: int | None, target: int, n: int, checkpoint: bytes | None) -> None:
        if source is not None:
            self._cache.cp(source, target, self._trees.n_past(target), n)
        if checkpoint is None and self._cache.window_is_small:
            # llama.cpp reuses no cell that two sequences have, even if both have passed it
            checkpoint = self._cache.checkpoint(target)
        if checkpoint is not None:
            self._cache.set_checkpoint(target, checkpoint)
        if not self._cache.holds_prefix(target, n) or self._cache.pos_max(target) >= n:
            raise MemoryStateError(f"the checkpoint is not one of the first {n} tokens")

    def keep(self, seq: int) -> None:
        """Remove all other sequences."""
        with self._settled(seq):
            require_no_pending(self._trees, "keep")
            self._cache.keep(seq)

    def add(self, seq: int, p0: int, p1: int, delta: int) -> None:
        """Move positions [p0, p1) by ``delta``; what falls below 0 is removed.

        Cells that other sequences share move for them as well. A recurrent state has no positions
        within: it counts as moved if its last token does.

        Raises:
            MemoryStateError: seq out of range or with pending nodes, or positions that this model
                cannot move.
        """
        _require_int32(p0, p1, delta)
        with self._movable(seq, "add"):
            if max(self._cache.pos_max(seq), p1, 0) + delta > POSITION_MAX:
                raise MemoryStateError(
                    f"a shift by {delta} leads beyond {POSITION_MAX}, the largest position"
                )
            self._cache.add(seq, p0, p1, delta)

    def div(self, seq: int, p0: int, p1: int, divisor: int) -> None:
        """Divide positions [p0, p1) by a whole number above 0 (self-extend).

        Raises:
            MemoryStateError: as ``add``, or a divisor below 1.
        """
        _require_int32(p0, p1, divisor)
        with self._movable(seq, "div"):
            if divisor < 1:
                raise MemoryStateError(f"positions cannot be divided by {divisor}; give 1 or more")
            self._cache.div(seq, p0, p1, divisor)

    def save(self, seq: int | None = None) -> bytes:
        """The state of a sequence, or of the whole context, as bytes.

        Raises:
            MemoryStateError: seq out of range or with pending nodes.
        """
        with self._settled(seq):
            return self._cache.state(EVERYTHING if seq is None else seq)

    def load(self, data: bytes, seq: int | None = None) -> None:
        """Put back what ``save`` gave, into a sequence or the whole context.

        Raises:
            MemoryStateError: seq out of range or with pending nodes; bytes that are cut short,
                or from another model or kind of cache, or that do not fit. The sequence (or the
                whole cache) is then empty.
        """
        with self._settled(seq):
            self._cache.set_state(EVERYTHING if seq is None else seq, data)

    def save_file(self, path: str | os.PathLike[str], seq: int | None = None) -> None:
        """``save`` to a file, which is replaced only when all is written.

        Raises:
            FileError: it cannot be written.
            MemoryStateError: as ``save``.
        """
        data = self.save(seq)
        with replaced_file(path) as file:
            file.write(data)

    def load_file(self, path: str | os.PathLike[str], seq: int | None = None) -> None:
        """``load`` from a file that ``save_file`` wrote.

        Raises:
            FileError: it cannot be read, or is no regular file.
            MemoryStateError: as ``load``, or it does not fit into memory.
        """
        try:
            data = read_bytes(path, max_bytes=_MAX_STATE_BYTES)
        except MemoryError as error:
            raise MemoryStateError(f"{path} does not fit into memory") from error
        self.load(data, seq)

    def _settled(self, seq: int | None) -> AbstractContextManager[None]:
        """Exclusive use, once it is sure that no pending node could be hurt."""
        if seq is not None:
            self._native.require_sequence(seq)
        require_no_pending(self._trees, "change", seq)
        return self._native.exclusive()

    def _movable(self, seq: int, verb: str) -> AbstractContextManager[None]:
        self._native.require_sequence(seq)
        if not self._cache.can_shift:
            raise MemoryStateError(
                f"memory.{verb} is not possible: the positions of this model are not rotary, its "
                "cache cannot be moved, or the GPU that holds it cannot turn keys of its type"
            )
        require_no_pending(self._trees, _MOVE)
        return self._native.exclusive()

    def _require_whole(self, source: int, target: int, p0: int, p1: int) -> None:
        """A copy between streams takes the whole, and llama.cpp empties the target first."""
        first, last = self._cache.pos_min(source), self._cache.pos_max(source)
        if last >= 0 and (p0 > first or 0 <= p1 <= last):
            raise MemoryStateError(
                f"positions [{p0}, {p1}) of sequence {source} cannot be copied alone: without "
                "kv_unified each sequence has a stream of its own, and only whole ones are copied"
            )
        last = self._cache.pos_max(target)
        if last >= 0:
            raise MemoryStateError(
                f"sequence {target} holds positions up to {last} already; without kv_unified a "
                "copy would replace them: remove them first"
            )

    def _require_held(self, source: int, p1: int) -> None:
        """The state of a recurrent model is one of the whole text."""
        is_part = 0 < p1 <= self._cache.pos_max(source) and self.sharing == "checkpoints"
        if is_part and not self._cache.holds_prefix(source, p1):
            raise MemoryStateError(
                f"invalid p1={p1}: the recurrent state or the sliding window of sequence {source} "
                "is that of a longer text; use memory.share with a checkpoint"
            )

    def _require_disjoint(self, source: int, target: int, p0: int, p1: int) -> None:
        """Two cells at one position of one sequence would both be seen: that is no text."""
        ids = np.array([source, target], dtype=np.int32)
        (low, other_low), (high, other_high) = self._cache.ranges(ids)
        if other_high < 0 or high < 0:
            return
        first = max(int(low), p0)
        last = min(int(high), p1 - 1) if p1 >= 0 else int(high)
        overlap = first <= other_high and last >= other_low
        if overlap and self._cache.would_mix(source, target, first, last):
            raise MemoryStateError(
                f"sequence {target} holds positions {other_low} to {other_high} already; remove "
                f"them before copying {first} to {last} from sequence {source}"
            )


def _require_int32(*numbers: int) -> None:
    for number in numbers:
        if not -_INT32_MAX <= number <= _INT32_MAX:
            raise MemoryStateError(f"{number} does not fit into the 32 bits of a position")
