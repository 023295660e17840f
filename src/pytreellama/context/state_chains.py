"""Chains for recurrent and hybrid models, which cannot branch.

Their memory is a state that each token changes for good. So the state is kept aside before a
chain, and put back when less than the whole is accepted; the accepted part is then decoded again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pytreellama.context.batch import Batch
from pytreellama.context.cache import Cache
from pytreellama.context.native_context import NativeContext
from pytreellama.context.pending import PendingBook, check_nodes, check_room, checked_path, pruned
from pytreellama.errors import TreeError, shown

Int32 = NDArray[np.int32]


@dataclass(slots=True)
class Chain:
    """The pending tokens of a sequence.

    Attributes:
        is_native: it is rolled back by llama.cpp's planes of states, not by a copy.
        before: the copy; None if there was no text, or no copy.
        pass_number: that of the pass that decoded it.
    """

    n_past: int
    tokens: Int32
    is_native: bool = False
    before: bytes | None = None
    is_placed: bool = True
    pass_number: int = 0

    @property
    def parents(self) -> Int32:
        """The parent of each token, int32."""
        return np.arange(-1, len(self.tokens) - 1, dtype=np.int32)


class StateChains(PendingBook[Chain]):
    """The ``TreeEncoder`` of models with a recurrent state that trees and rollbacks do not reach.

    Args:
        decode: runs a batch of committed tokens.
    """

    def __init__(
        self, native: NativeContext, cache: Cache, decode: Callable[[Batch], object]
    ) -> None:
        super().__init__(native, cache)
        self._decode = decode

    @property
    def n_spare_leaves(self) -> int:
        return 0

    def place(self, batch: Batch, seq: int, tokens: Int32, parents: Int32) -> slice:
        pending = self._pending.get(seq)
        check_nodes(tokens, parents, n_old=0 if pending is None else len(pending.tokens))
        if pending is not None or (parents != np.arange(-1, len(parents) - 1)).any():
            raise TreeError(
                "this model keeps a recurrent state and cannot branch: "
                f"{self._native.tree_refusal}; give it a chain, in one pass"
            )
        check_room(batch, self._native.n_batch, len(tokens))
        return self._placed(batch, seq, tokens, self.n_past(seq))

    def _placed(self, batch: Batch, seq: int, tokens: Int32, n_past: int) -> slice:
        before = self._cache.state(seq) if n_past > 0 else None
        where = batch.add(tokens, np.arange(n_past, n_past + len(tokens)), seq, logits=True)
        self._pending[seq] = Chain(n_past, tokens, before=before)
        return where

    def confirm(self, seq: int) -> None:
        self._pending[seq].is_placed = False
        self._pending[seq].pass_number = self._native.n_passes

    def undo(self, seq: int) -> None:
        chain = self._pending.get(seq)
        if chain is not None and chain.is_placed:
            self._restore(seq)

    def commit(self, seq: int, path: Sequence[int]) -> None:
        chain = self.decoded(seq)
        nodes = checked_path(path, chain.parents)
        if len(nodes) == len(chain.tokens):
            del self._pending[seq]
            return
        self._restore(seq)
        self._decode_again(chain, seq, len(nodes))

    def prune(self, seq: int, keep: Sequence[int]) -> Int32:
        chain = self.decoded(seq)
        stays, numbers = pruned(keep, chain.parents)
        if stays.any() and not stays.all():
            raise TreeError(
                f"invalid keep={shown(list(keep))}: this model keeps a recurrent state, so all of "
                "its chain can be kept or nothing; commit a part, or discard it"
            )
        if not stays.any():
            self.discard(seq)
        return numbers

    def discard(self, seq: int) -> None:
        if seq in self._pending:
            self._restore(seq)

    def _decode_again(self, chain: Chain, seq: int, n_keep: int) -> None:
        """The first tokens of a chain that is no longer pending, as text."""
        if n_keep:
            batch = Batch(n_keep)
            positions = np.arange(chain.n_past, chain.n_past + n_keep)
            batch.add(chain.tokens[:n_keep], positions, seq)
            self._decode(batch)

    def _restore(self, seq: int) -> None:
        chain = self._pending.pop(seq)
        self._cache.empty(seq)
        if chain.before is not None:
            self._cache.set_state(seq, chain.before)
