"""Calibration: the cost of passes over 1, 2, 4... nodes, measured before the first request."""

from __future__ import annotations

import time

import numpy as np

from pytreellama.context.batch import Batch
from pytreellama.context.context import Context
from pytreellama.plan import N_SIZES_KNOWN, AttentionShare, CostCurve, PassCost
from pytreellama.tree import TokenTree

BUDGET_S = 2.0
"""Time limit of a calibration in seconds; the last pass may exceed it."""

_SMALL = (4, 2, 8, 16, 3, 6, 12)  # the most informative sizes come first
_N_LEAST = N_SIZES_KNOWN - 1  # sizes above 1 that are timed even beyond the budget
_LARGE = (24, 32, 48, 64)
_BEHIND_TEXT = (8, 4, 16)
_N_PAST = 32
_N_TEXT = 512
_N_ROUNDS = 5
# shares of the budget at which small passes end, and passes after text; large ones get the rest
_SMALL_SHARE, _TEXT_SHARE = 0.4, 0.8
_N_COMMITTED = 8  # nodes of the chain whose commit is timed, and of which half is accepted
_SLOW_S = 0.03  # a slower pass reads all weights from memory, so the pass before it does not matter


def measured_curve(
    context: Context, budget_s: float = BUDGET_S, share: AttentionShare | None = None
) -> CostCurve:
    """Measure the cost curve of a context, with random tokens in a free sequence.

    As in an engine, trees follow plain steps and vary in size, so that no graph is reused and the
    CPU caches are as a plain step left them. Sizes are timed in round-robin, so that a short load
    of the machine does not hit one size only. Sizes beyond the budget are left out, except 1, 4 and
    2, which are needed for the cost of one more node. Without time to prefill some text, its cost
    is estimated.

    Args:
        budget_s: time limit in seconds.
        share: estimated cost of attention to text.

    Raises:
        ContextError, CacheFullError: no free sequence, or no room.
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
    """Time each size in round-robin. Before each, run two 1-node passes and record the second.

    Args:
        until_s: when the last pass may begin, except for the first ``n_least`` sizes.
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
    """Passes of the target over random tokens, as an engine runs them.

    Args:
        context: the target; one of its sequences must be free.
        n_past: number of tokens to prefill first, at least 1.
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
        self._commit_s = self._timed_commit()

    @property
    def n_nodes_max(self) -> int:
        """Maximum number of nodes of a pass."""
        room = self._context.n_text_max - self.n_past
        if self._context.can_branch:
            room = min(room, 1 + self._context.sequences.n_spare_leaves)
        return min(room, self._context.n_nodes_max, self._context.n_tree_max)

    def read(self, n_tokens: int) -> None:
        """Prefill more random tokens."""
        if n_tokens > 0:
            self._context.prefill(self._tokens(n_tokens), self._seq)
            self.n_past += n_tokens

    def time(self, n_nodes: int) -> float:
        """Time one pass, in seconds; of several nodes, with what a commit of half of them takes."""
        started_s = time.perf_counter()
        self._pass(n_nodes)
        self._context.discard(self._seq)
        spent_s = time.perf_counter() - started_s
        share = min(n_nodes, _N_COMMITTED) / _N_COMMITTED
        return spent_s + share * self._commit_s if n_nodes > 1 else spent_s

    def _pass(self, n_nodes: int) -> None:
        context, batch = self._context, self._batch
        batch.clear()
        context.place(batch, self._seq, TokenTree.chain(self._tokens(n_nodes)))
        context.decode(batch)
        context.outputs.argmax()

    def _timed_commit(self) -> float:
        """Seconds to commit half of a chain to a recurrent state; other commits cost nothing."""
        context, n_nodes = self._context, min(_N_COMMITTED, self.n_nodes_max)
        if context.model.can_branch or not context.can_roll_back or n_nodes < 2:
            return 0.0
        self._pass(n_nodes)
        started_s = time.perf_counter()
        context.commit(self._seq, range(n_nodes // 2))
        self.n_past += n_nodes // 2
        return time.perf_counter() - started_s

    def close(self) -> None:
        """Free the sequence."""
        self._context.sequences.free(self._seq)

    def logit_difference(self, n_nodes: int) -> float:
        """Maximum difference between a chain's logits in one pass and in plain steps."""
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
