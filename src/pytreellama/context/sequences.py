"""Sequences: the sequence ids of a context, and what each holds."""

from __future__ import annotations

from pytreellama.context.memory import Memory
from pytreellama.context.native_context import NativeContext
from pytreellama.context.tree_encoding import TreeEncoder
from pytreellama.errors import ContextError


class Sequences:
    """The sequence ids of a context, from 0 to ``n_seq_max - 1``; ``Context.sequences``.

    A sequence is committed text in the KV cache, and possibly a tree of pending nodes behind it.
    """

    def __init__(self, native: NativeContext, trees: TreeEncoder, memory: Memory) -> None:
        self._native = native
        self._trees = trees
        self._memory = memory
        self._free_ids = list(range(native.n_seq_max))

    def new(self) -> int:
        """Return an unused sequence id.

        Raises:
            ContextError: all ``n_seq_max`` ids are in use.
        """
        with self._native.exclusive():
            for seq in self._free_ids:
                # an id that was filled by name, or by loading a state, is in use too
                if self._trees.n_past(seq) == 0 and not self._trees.is_pending(seq):
                    self._free_ids.remove(seq)
                    return seq
        raise ContextError(
            f"all {self._native.n_seq_max} sequences of this context are in use; free one, or make "
            "the context with a larger n_seq_max"
        )

    def free(self, seq: int) -> None:
        """Remove a sequence's text and pending nodes, and return its id to the unused ones."""
        self._native.require_sequence(seq)
        with self._native.exclusive():
            self._trees.discard(seq)
            self._memory.rm(seq)
            if seq not in self._free_ids:
                self._free_ids.append(seq)
                self._free_ids.sort()

    def n_past(self, seq: int) -> int:
        """The position after the committed text of a sequence; 0 if it is empty."""
        self._native.require_sequence(seq)
        with self._native.exclusive():
            return self._trees.n_past(seq)

    def is_pending(self, seq: int) -> bool:
        """True while a sequence has nodes that are neither committed nor discarded."""
        return self._trees.is_pending(seq)

    @property
    def n_spare_leaves(self) -> int:
        """Leaves that trees may have beyond the first of each, in all sequences together."""
        return self._trees.n_spare_leaves
