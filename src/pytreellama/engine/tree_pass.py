"""TreePass: one pass of the target over the trees of many requests, and their verification."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pytreellama.context.batch import Batch, SequenceSets
from pytreellama.context.context import Context
from pytreellama.engine.completion import Step, TokenLogp
from pytreellama.engine.jobs import GenerateJob
from pytreellama.errors import SamplerError
from pytreellama.tree import TokenTree
from pytreellama.verify import Verdict, VerificationRule, match, match_greedy, typical

Int32 = NDArray[np.int32]
Float32 = NDArray[np.float32]

RuleName = Literal["match", "typical"]
RULES: tuple[RuleName, ...] = ("match", "typical")
Rule = RuleName | VerificationRule
"""A name, or a function as ``verify.rejection``."""


class TreePass:
    """Decodes trees, verifies each with its request's sampler, and commits the accepted paths.

    An error of one request fails that request; an error of the pass is raised.

    Args:
        context: the target.
        rule: "match", which is lossless, or "typical", which is lossy and for greedy requests only.
            Rules of the user's own are the jobs', each of which has its state.

    Attributes:
        capacity: maximum number of nodes of all trees together.
    """

    def __init__(self, context: Context, rule: Rule = "match") -> None:
        self._context = context
        self._rule = rule
        # lone roots are no nodes: one of each sequence fits beside what is pending
        self._batch = Batch(max(context.n_nodes_max, context.n_seq_max))
        self.capacity = context.n_nodes_max

    def run(self, jobs: Sequence[GenerateJob], trees: Sequence[TokenTree], learns: bool) -> None:
        """Run one pass. Node 0 of each tree is the last token of its job.

        Args:
            learns: let drafters observe the results.

        Raises:
            CacheFullError: no room in the KV cache; nothing has changed.
        """
        if len(jobs) == 1:
            self._decode_alone(jobs[0], trees[0])
            places = [slice(0, len(trees[0]))]
        else:
            places = self._decode(jobs, trees)
        rows = _Rows(self._context, jobs)
        for job, tree, place in zip(jobs, trees, places, strict=True):
            try:
                self._finish_step(job, tree, place, rows, learns)
            except BaseException as error:  # it belongs to this request only
                job.fail(error)

    # -- the pass

    def _decode_alone(self, job: GenerateJob, tree: TokenTree) -> None:
        """A step of one request, without a batch; a lone root is a plain decoding step."""
        started_s = time.perf_counter()
        if len(tree) == 1:
            self._context.decode(job.state.last, seq=job.require_id())
        else:
            self._context.decode(tree, seq=job.require_id())
        job.stats.target_s += time.perf_counter() - started_s

    def _decode(self, jobs: Sequence[GenerateJob], trees: Sequence[TokenTree]) -> list[slice]:
        started_s = time.perf_counter()
        self._batch.clear()
        planned = list(zip(jobs, trees, strict=True))
        places = self._place_roots([job for job, tree in planned if len(tree) == 1])
        for job, tree in planned:
            if len(tree) > 1:
                places[job] = self._context.place(self._batch, job.require_id(), tree)
        self._context.decode(self._batch)
        spent_s = time.perf_counter() - started_s
        for job, tree in planned:
            job.stats.target_s += spent_s * len(tree) / len(self._batch)
        return [places[job] for job in jobs]

    def _place_roots(self, jobs: Sequence[GenerateJob]) -> dict[GenerateJob, slice]:
        """Lone roots are decoded as committed tokens: there is nothing to commit or discard."""
        if not jobs:
            return {}
        ids = np.array([job.require_id() for job in jobs], np.int32)
        where = self._batch.add(
            [job.state.last for job in jobs],
            [job.state.n_past for job in jobs],
            SequenceSets(ids, np.ones_like(ids)),
            logits=True,
        )
        return {job: slice(row, row + 1) for row, job in enumerate(jobs, where.start)}

    # -- verification, request by request

    def _finish_step(
        self, job: GenerateJob, tree: TokenTree, place: slice, rows: _Rows, learns: bool
    ) -> None:
        started_s = time.perf_counter()
        verdict = self._verify(job, tree, place, rows)
        logprobs = self._logprobs(job, verdict, place.start)
        if len(tree) > 1:
            self._context.commit(job.require_id(), verdict.path)
        job.state.n_past += len(verdict.path)
        job.stats.count_step(len(tree), verdict.n_accepted)
        if len(tree) > 1:
            _count_drafts(job, tree, verdict)
        verified_s = time.perf_counter()
        job.stats.verify_s += verified_s - started_s
        if learns:
            self._observe(job, tree, place, verdict, rows)
            job.stats.draft_s += time.perf_counter() - verified_s
        job.accept(verdict.tokens, logprobs)
        if job.request.on_step is not None:
            told = None if job.request.logprobs is None else tuple(logprobs)
            step = Step(job.index, tree, verdict.path, verdict.tokens, job.plan, told, job.vocab)
            job.request.on_step(step)

    def _observe(
        self, job: GenerateJob, tree: TokenTree, place: slice, verdict: Verdict, rows: _Rows
    ) -> None:
        """Let the drafter observe the pass, and the verified tokens after it."""
        if job.n_top:
            job.drafter.observe_pass(tree, *rows.top(place))  # type: ignore[attr-defined]
        accepted = [place.start + node for node in verdict.path]
        if job.observes_rows:
            job.drafter.observe_rows(accepted)  # type: ignore[attr-defined]
        if job.wants_hidden:
            states = self._context.outputs.hidden(accepted)
            job.drafter.observe_hidden(states)  # type: ignore[attr-defined]
        job.drafter.observe(verdict.tokens)

    def _verify(self, job: GenerateJob, tree: TokenTree, place: slice, rows: _Rows) -> Verdict:
        n_drawn = 0

        def stop(token: int) -> bool:
            nonlocal n_drawn
            n_drawn += 1
            return job.ends_at(token, n_drawn)

        if self._rule == "typical":
            return typical(tree, lambda node: self._distribution(place.start + node), stop=stop)
        if job.rule_walk is not None:
            outputs = self._context.outputs
            return job.rule_walk.verify(tree, outputs, place.start, job.sampler, stop)
        functions = job.row_functions
        if functions is not None:
            functions.begin_step()
            sampler, outputs = job.sampler, self._context.outputs
            return match(
                tree, lambda node: functions.draw(sampler, outputs, place.start + node), stop
            )
        if job.sampler.is_argmax:
            verdict = match_greedy(tree, rows.argmax(place), stop)
            self._require_numbers(place.start + verdict.path[-1], verdict.next_token)
            return verdict
        return match(
            tree, lambda node: job.sampler.sample(self._context.outputs, place.start + node), stop
        )

    def _distribution(self, row: int) -> NDArray[np.float64]:
        """Softmax of a row of logits at temperature 1, float64, shape (n_vocab,)."""
        logits = self._context.outputs.logits_view[row]
        p = np.exp(logits.astype(np.float64) - logits.max())
        return np.asarray(p / p.sum())

    def _require_numbers(self, row: int, token: int) -> None:
        """Refuse a row of NaN, as a sampler does: its argmax is a token like any other."""
        if not self._context.outputs.logit(row, token) > -np.inf:
            raise SamplerError(
                "no token to choose from: every logit of the row is NaN or -infinity"
            )

    def _logprobs(self, job: GenerateJob, verdict: Verdict, start: int) -> list[TokenLogp]:
        n_top = job.request.logprobs
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


def _count_drafts(job: GenerateJob, tree: TokenTree, verdict: Verdict) -> None:
    if job.plan is not None:
        job.stats.count_plan(job.plan, verdict.tokens[: verdict.n_accepted])
    else:
        job.stats.count_drafts(job.drafter.name, len(tree) - 1, verdict.n_accepted)


class _Rows:
    """What several requests need of the logits of a pass, computed once for all rows."""

    def __init__(self, context: Context, jobs: Sequence[GenerateJob]) -> None:
        n_top = max(job.n_top for job in jobs)
        self._top: tuple[Int32, Float32] | None = None
        self._argmax: Int32 | None = None
        if n_top:
            self._top = context.outputs.top_k(min(n_top, context.n_vocab), normalise=False)
            self._argmax = self._top[0][:, 0]
        elif any(job.sampler.is_argmax for job in jobs):
            self._argmax = context.outputs.argmax()

    def argmax(self, place: slice) -> Int32:
        assert self._argmax is not None
        return self._argmax[place]

    def top(self, place: slice) -> tuple[Int32, Float32]:
        assert self._top is not None
        tokens, logits = self._top
        return tokens[place], logits[place]
