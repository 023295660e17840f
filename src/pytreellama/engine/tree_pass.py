"""TreePass: one pass of the target over the trees of many sequences, and what is read from it."""

from __future__ import annotations

import time
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pytreellama.context.batch import Batch, SequenceSets
from pytreellama.context.context import Context
from pytreellama.engine.completion import Step, TokenLogp
from pytreellama.engine.sequence import Sequence
from pytreellama.errors import SamplerError
from pytreellama.tree import TokenTree
from pytreellama.verify import Verdict, match, match_greedy, typical

Int32 = NDArray[np.int32]
Float32 = NDArray[np.float32]

Rule = Literal["match", "typical"]
RULES: tuple[Rule, ...] = ("match", "typical")


class TreePass:
    """Decodes trees, verifies each by its sequence's sampler, and commits the accepted paths.

    What goes wrong with one sequence ends that one; what goes wrong with the pass is raised.

    Args:
        context: the target.
        rule: "match", which is lossless, or "typical", which is not and takes greedy texts alone.

    Attributes:
        capacity: most nodes of all trees together.
    """

    def __init__(self, context: Context, rule: Rule = "match") -> None:
        self._context = context
        self._rule = rule
        self._batch = Batch(context.n_nodes_max)
        self.capacity = self._batch.capacity

    def run(self, sequences: list[Sequence], trees: list[TokenTree], learns: bool) -> None:
        """One pass; each tree's node 0 is its sequence's last token.

        Args:
            learns: tell drafters what came of it.
        """
        if len(sequences) == 1:
            self._decode_alone(sequences[0], trees[0])
            places = [slice(0, len(trees[0]))]
        else:
            places = self._decode(sequences, trees)
        rows = _Rows(self._context, sequences)
        for sequence, tree, place in zip(sequences, trees, places, strict=True):
            try:
                self._finish_step(sequence, tree, place, rows, learns)
            except BaseException as error:  # it is this request's own
                sequence.fail(error)

    # -- the pass

    def _decode_alone(self, sequence: Sequence, tree: TokenTree) -> None:
        """A step without a batch; a lone root is a step of plain decoding."""
        started_s = time.perf_counter()
        if len(tree) == 1:
            self._context.decode(sequence.last_token, seq=sequence.require_id())
        else:
            self._context.decode(tree, seq=sequence.require_id())
        sequence.stats.target_s += time.perf_counter() - started_s

    def _decode(self, sequences: list[Sequence], trees: list[TokenTree]) -> list[slice]:
        started_s = time.perf_counter()
        self._batch.clear()
        planned = list(zip(sequences, trees, strict=True))
        places = self._place_roots([s for s, tree in planned if len(tree) == 1])
        branching = [(s, tree) for s, tree in planned if len(tree) > 1]
        for sequence, tree in branching:
            place = self._context.place(self._batch, sequence.require_id(), tree)
            places[sequence] = place
        self._context.decode(self._batch)
        spent_s = time.perf_counter() - started_s
        for sequence, tree in planned:
            sequence.stats.target_s += spent_s * len(tree) / len(self._batch)
        return [places[sequence] for sequence in sequences]

    def _place_roots(self, sequences: list[Sequence]) -> dict[Sequence, slice]:
        """Roots are text already: alone they are plain steps, with nothing to take back."""
        if not sequences:
            return {}
        ids = np.array([s.require_id() for s in sequences], np.int32)
        where = self._batch.add(
            [s.last_token for s in sequences],
            [s.n_past for s in sequences],
            SequenceSets(ids, np.ones_like(ids)),
            logits=True,
        )
        return {s: slice(row, row + 1) for row, s in enumerate(sequences, where.start)}

    # -- what each sequence makes of it

    def _finish_step(
        self, sequence: Sequence, tree: TokenTree, place: slice, rows: _Rows, learns: bool
    ) -> None:
        started_s = time.perf_counter()
        verdict = self._match(sequence, tree, place, rows)
        logprobs = self._logprobs(sequence, verdict, place.start)
        if len(tree) > 1:
            self._context.commit(sequence.require_id(), verdict.path)
        sequence.n_past += len(verdict.path)
        sequence.stats.count_step(len(tree), verdict.n_accepted)
        if len(tree) > 1 and sequence.plan is not None:
            sequence.stats.count_plan(sequence.plan, verdict.tokens[: verdict.n_accepted])
        verified_s = time.perf_counter()
        sequence.stats.verify_s += verified_s - started_s
        if learns:
            if sequence.n_top:
                sequence.drafter.observe_pass(tree, *rows.top(place))  # type: ignore[attr-defined]
            if sequence.wants_hidden:
                states = self._context.outputs.hidden([place.start + node for node in verdict.path])
                sequence.drafter.observe_hidden(states)  # type: ignore[attr-defined]
            sequence.drafter.observe(verdict.tokens)
            sequence.stats.draft_s += time.perf_counter() - verified_s
        sequence.accept(verdict.tokens, logprobs)
        if sequence.request.on_step is not None:
            told = None if sequence.request.logprobs is None else tuple(logprobs)
            step = Step(sequence.index, tree, verdict.path, verdict.tokens, sequence.plan, told)
            sequence.request.on_step(step)

    def _match(self, sequence: Sequence, tree: TokenTree, place: slice, rows: _Rows) -> Verdict:
        n_drawn = 0

        def stop(token: int) -> bool:
            nonlocal n_drawn
            n_drawn += 1
            return sequence.ends_at(token, n_drawn)

        if self._rule == "typical":
            return typical(tree, lambda node: self._distribution(place.start + node), stop=stop)
        if sequence.sampler.is_argmax:
            verdict = match_greedy(tree, rows.argmax(place), stop)
            self._require_numbers(place.start + verdict.path[-1], verdict.next_token)
            return verdict
        return match(
            tree,
            lambda node: sequence.sampler.sample(self._context.outputs, place.start + node),
            stop,
        )

    def _distribution(self, row: int) -> NDArray[np.float64]:
        """Softmax of a row of logits at temperature 1."""
        logits = self._context.outputs.logits_view[row]
        p = np.exp(logits.astype(np.float64) - logits.max())
        return np.asarray(p / p.sum())

    def _require_numbers(self, row: int, token: int) -> None:
        """An argmax over NaN is a token like any other; a sampler would refuse it."""
        if not self._context.outputs.logit(row, token) > -np.inf:
            raise SamplerError(
                "no token to choose from: every logit of the row is NaN or -infinity"
            )

    def _logprobs(self, sequence: Sequence, verdict: Verdict, start: int) -> list[TokenLogp]:
        n_top = sequence.request.logprobs
        if n_top is None:
            return []
        steps = zip(verdict.path, verdict.tokens, strict=True)
        return [self._logp(start + node, token, n_top) for node, token in steps]

    def _logp(self, row: int, token: int, n_top: int) -> TokenLogp:
        if n_top == 0:
            return TokenLogp(token, self._context.outputs.logp(row, token))
        k = min(n_top, self._context.n_vocab)
        logp, tokens, logps = self._context.outputs.top_logp(row, token, k)
        return TokenLogp(token, logp, tuple(zip(tokens.tolist(), logps.tolist(), strict=True)))


class _Rows:
    """What of a pass's logits several sequences ask for, read once for all rows."""

    def __init__(self, context: Context, sequences: list[Sequence]) -> None:
        n_top = max(sequence.n_top for sequence in sequences)
        self._top: tuple[Int32, Float32] | None = None
        self._argmax: Int32 | None = None
        if n_top:
            self._top = context.outputs.top_k(min(n_top, context.n_vocab), normalise=False)
            self._argmax = self._top[0][:, 0]
        elif any(sequence.sampler.is_argmax for sequence in sequences):
            self._argmax = context.outputs.argmax()

    def argmax(self, place: slice) -> Int32:
        assert self._argmax is not None
        return self._argmax[place]

    def top(self, place: slice) -> tuple[Int32, Float32]:
        assert self._top is not None
        tokens, logits = self._top
        return tokens[place], logits[place]
