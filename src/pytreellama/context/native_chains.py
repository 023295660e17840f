"""Chains over recurrent states that can be rolled back where they are, without a copy of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from pytreellama.context.batch import Batch
from pytreellama.context.cache import Cache
from pytreellama.context.native_context import NativeContext
from pytreellama.context.pending import checked_path
from pytreellama.context.state_chains import Chain, StateChains

Int32 = NDArray[np.int32]


class NativeChains(StateChains):
    """The ``TreeEncoder`` of models whose passes keep the state behind each of their last tokens.

    Chains of up to ``n_chain_max`` tokens. A longer one falls back to a copy of the state, and one
    that stays pending over other passes is decoded again as far as it is accepted.

    Args:
        decode: runs a batch of committed tokens.
    """

    def __init__(
        self, native: NativeContext, cache: Cache, decode: Callable[[Batch], object]
    ) -> None:
        super().__init__(native, cache, decode)
        self._n_max = native.n_chain_max

    def _placed(self, batch: Batch, seq: int, tokens: Int32, n_past: int) -> slice:
        if len(tokens) > self._n_max:
            return super()._placed(batch, seq, tokens, n_past)
        parents = np.arange(-1, len(tokens) - 1, dtype=np.int32)
        where = batch.add(tokens, n_past + 1 + parents, seq, logits=True, parents=parents)
        self._pending[seq] = Chain(n_past, tokens, is_native=True)
        return where

    def undo(self, seq: int) -> None:
        """See ``TreeEncoder``; after a pass that failed, states are as they were already."""
        chain = self._pending.get(seq)
        if chain is None or not chain.is_native:
            super().undo(seq)
        elif chain.is_placed:
            del self._pending[seq]

    def commit(self, seq: int, path: Sequence[int]) -> None:
        chain = self.decoded(seq)
        if not chain.is_native:
            super().commit(seq, path)
            return
        self._keep(seq, len(checked_path(path, chain.parents)))

    def discard(self, seq: int) -> None:
        chain = self._pending.get(seq)
        if chain is None or not chain.is_native:
            super().discard(seq)
        elif chain.is_placed:
            del self._pending[seq]
        else:
            self._keep(seq, 0)

    def _keep(self, seq: int, n_keep: int) -> None:
        chain = self._pending[seq]
        n_tokens = len(chain.tokens)
        # a pass over other sequences may move a state, and leaves those behind earlier tokens
        is_whole = chain.pass_number == self._native.n_passes
        n_there = n_keep if is_whole or n_keep == n_tokens else 0
        if n_there < n_tokens:
            self._cache.roll_back(seq, n_past=chain.n_past, n_tokens=n_tokens, n_keep=n_there)
        del self._pending[seq]
        if n_there < n_keep:
            self._decode_again(chain, seq, n_keep)
