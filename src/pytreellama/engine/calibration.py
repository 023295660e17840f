"""Calibration: what passes over 1, 2, 4... nodes take here, measured before the first request."""

from __future__ import annotations

import time

import numpy as np

from pytreellama.context.batch import Batch
from pytreellama.context.context import Context
from pytreellama.plan import N_SIZES_KNOWN, AttentionShare, CostCurve, PassCost
from pytreellama.tree import TokenTree

BUDGET_S = 2.0
"""Seconds that a calibration takes at most, give or take one pass."""

_SMALL = (4, 2, 8, 16, 3, 6, 12)  # what tells most comes first, where there is no time for all
_N_LEAST = N_SIZES_KNOWN - 1  # sizes above 1 that are timed over budget too
_LARGE = (24, 32, 48, 64)
_BEHIND_TEXT = (8, 4, 16)
_N_PAST = 32
_N_TEXT = 512
_N_ROUNDS = 5
# of the budget, when small passes end, and those behind text; what is left is for large ones
_SMALL_SHARE, _TEXT_SHARE = 0.4, 0.8
_SLOW_S = 0.03  # a pass that takes longer reads weights from memory, whatever came before it


def measured_curve(
    context: Context, budget_s: float = BUDGET_S, share: AttentionShare | None = None
) -> CostCurve:
    """A curve of this context's passes, from random text in a sequence that is free.

    As in an engine, trees come behind plain steps and vary in size, so that each builds its graph
    anew and finds the caches as a plain step left them. Rounds of all sizes take turns, so that a
    busy moment does not hit one size alone. Sizes that the budget leaves no time for are left out,
    but 1, 4 and 2, without which nobody would know what a node more costs. Where there is no time
    to read some text, what it costs is theory.

    Args:
        share: what theory holds of text.

    Raises:
        ContextError, CacheFullError: no sequence or no room is free.
        DecodeError: the model cannot run.
    """
    started_s = time.perf_counter()
    passes = TimedPasses(context, min(_N_PAST, context.n_text_max // 4))
    try:
        done = _rounds(passes, _SMALL, started_s + _SMALL_SHARE * budget_s, _N_LEAST)
        n_more = min(_N_TEXT, context.n_text_max // 2) - passes.n_past
        read_s = passes.prefill_s * n_more / passes.n_past
        if time.perf_counter() + read_s < started_s + _TEXT_SHARE * budget_s:
            passes.read(n_more)
            done += _rounds(passes, _BEHIND_TEXT, started_s + _TEXT_SHARE * budget_s)
        if time.perf_counter() < started_s + budget_s:
            done += _rounds(passes, _LARGE, started_s + budget_s)
    finally:
        passes.close()
    return CostCurve.fit(done, share or AttentionShare())


def _rounds(
    passes: TimedPasses, sizes: tuple[int, ...], until_s: float, n_least: int = 0
) -> list[PassCost]:
    """Passes of all sizes in turn, each behind two of one node, of which the second counts.

    Args:
        until_s: when the last one may begin, but for the first ``n_least`` sizes.
    """
    done: list[PassCost] = []
    sizes = tuple(size for size in sizes if size <= passes.n_nodes_max)
    plain_s = passes.time(1)
    for i, size in enumerate(sizes * _N_ROUNDS):
        if plain_s < _SLOW_S:
            passes.time(1)
        if not done or plain_s < _SLOW_S:
            plain_s = passes.time(1)
            done.append(PassCost(1, passes.n_past, plain_s))
        if i >= n_least and time.perf_counter() > until_s:
            break
        done.append(PassCost(size, passes.n_past, passes.time(size)))
    return done


class TimedPasses:
    """Passes of a target on random text, as an engine's steps make them.

    Args:
        context: the target; one of its sequences must be free.
        n_past: tokens of text before the passes, at least 1.
    """

    def __init__(self, context: Context, n_past: int) -> None:
        self._context = context
        self._random = np.random.default_rng(0)
        self._batch = Batch(context.n_batch)
        self._seq = context.sequences.new()
        self.n_past = 0
        started_s = time.perf_counter()
        self.read(max(n_past, 1))
        self.prefill_s = time.perf_counter() - started_s

    @property
    def n_nodes_max(self) -> int:
        """Most nodes of a pass."""
        room = self._context.n_text_max - self.n_past
        return min(room, self._context.n_nodes_max, 1 + self._context.sequences.n_spare_leaves)

    def read(self, n_tokens: int) -> None:
        """Read so many tokens of text more."""
        if n_tokens > 0:
            self._context.prefill(self._tokens(n_tokens), self._seq)
            self.n_past += n_tokens

    def time(self, n_nodes: int) -> float:
        """Seconds of one pass."""
        started_s = time.perf_counter()
        self._pass(n_nodes)
        return time.perf_counter() - started_s

    def _pass(self, n_nodes: int) -> None:
        context, batch = self._context, self._batch
        batch.clear()
        context.place(batch, self._seq, TokenTree.chain(self._tokens(n_nodes)))
        context.decode(batch)
        context.outputs.argmax()
        context.discard(self._seq)

    def close(self) -> None:
        """Free the sequence."""
        self._context.sequences.free(self._seq)

    def logit_difference(self, n_nodes: int) -> float:
        """Largest difference between a chain's logits in one pass and token by token."""
        context, seq = self._context, self._seq
        if n_nodes == 0:
            return 0.0
        tokens = self._tokens(n_nodes)
        together = context.decode(TokenTree.chain(tokens), seq=seq).logits
        context.discard(seq)
        largest = 0.0
        for token, row in zip(tokens.tolist(), together, strict=True):
            alone = context.decode(TokenTree.chain([token]), seq=seq).logits[0]
            context.commit(seq, [0])
            largest = max(largest, float(np.abs(alone - row).max()))
        return largest

    def _tokens(self, n_tokens: int) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
        return self._random.integers(0, self._context.n_vocab, n_tokens, dtype=np.int32)
