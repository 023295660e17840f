"""GenerateJob: a request that continues its prompt, with a drafter and a sampler."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pytreellama.draft import Drafter, HiddenObserver, PassObserver, RowObserver
from pytreellama.engine.completion import Chunk, Completion, FinishReason, TokenLogp
from pytreellama.engine.jobs.job import Job, JobLimits, ReadyJobs
from pytreellama.engine.output import Output
from pytreellama.engine.request import Request, sampling_params
from pytreellama.engine.row_functions import RowFunctions
from pytreellama.engine.rule_walk import RuleWalk
from pytreellama.errors import RequestError
from pytreellama.model.vocab import Vocab
from pytreellama.plan import Plan, PlannedRequest
from pytreellama.sampling.params import SamplingParams
from pytreellama.sampling.sampler import Sampler
from pytreellama.verify import VerificationRule

_log = logging.getLogger(__name__)


class GenerateJob(Job):
    """Generates by steps: a tree of draft nodes is verified, and the accepted path is appended.

    Args:
        request: what was asked for.
        vocab: the target's vocabulary.
        drafter: proposes the trees; it belongs to this job.
        index: as ``Job.index``.
        rule: verifies the trees, in place of the sampler's own draws.

    Attributes:
        output: what has been generated.
        vocab: the target's vocabulary.
        rule_walk: applies ``rule``.
        row_functions: the user's logits processors and stopping criteria, if there are any.
        sampler: draws the tokens.
        n_top: likeliest tokens of each row of a pass that the drafter observes; 0 for none.
        observes_rows: the drafter reads what passes leave of each token.
        plan: why the last tree is as it is, where trees are planned.
        planned: what the draft policy keeps of this request, there.
    """

    def __init__(
        self,
        request: Request,
        vocab: Vocab,
        drafter: Drafter,
        index: int = 0,
        rule: VerificationRule | None = None,
    ) -> None:
        super().__init__(request.prompt, index)
        self.request = request
        self.drafter = drafter
        self.n_top = drafter.n_top if isinstance(drafter, PassObserver) else 0
        constraint = None if request.reply_grammar is None else request.reply_grammar(vocab)
        self.sampler = Sampler(
            vocab, request.sampling, constraint, gives_distributions=rule is not None
        )
        self._rule = rule
        self.rule_walk = None if rule is None else RuleWalk(rule, drafter, self.sampler.seed)
        self.output = Output(request, vocab)
        self.row_functions: RowFunctions | None = None
        if request.logits_processors or request.stopping_criteria:
            self.row_functions = RowFunctions(
                request.logits_processors, request.stopping_criteria, self.state
            )
        self.plan: Plan | None = None
        self.planned: PlannedRequest | None = None
        self.vocab = vocab
        self._observes_hidden = isinstance(drafter, HiddenObserver)
        self.observes_rows = isinstance(drafter, RowObserver)
        self._drafts = False
        self._end_tokens = frozenset() if request.ignore_eos else vocab.eog_tokens
        self._end_tokens |= request.stop_tokens
        self._sampler_knows_prompt = False

    # -- see Job

    def join(self, ready: ReadyJobs) -> None:
        """See Job."""
        if self.n_left == 0:
            self.finish("length")  # nothing was asked for but prefill
        else:
            ready.for_tree_pass.append(self)

    def check(self, limits: JobLimits) -> None:
        """See Job."""
        super().check(limits)
        if limits.greedy_only and not (self.sampler.is_argmax and self.row_functions is None):
            raise RequestError(
                "verify='typical' takes greedy requests alone; give temperature=0, or "
                "make the engine with verify='match', which is exact for every sampler"
            )
        if self._rule is not None and self.row_functions is not None:
            raise RequestError(
                "an engine with a verification rule takes no logits_processors or "
                "stopping_criteria: the rule itself sees every row"
            )
        if self.request.context_shift and not limits.can_shift:
            raise RequestError(
                "context_shift was asked for, but this model's positions cannot be moved; leave it "
                "out, or make the engine with a larger n_ctx"
            )

    def start(self, drafts: bool) -> None:
        """See Job."""
        super().start(drafts)
        self._drafts = drafts
        if not self._sampler_knows_prompt:
            self.sampler.accept_prompt(self.state.ids)
        if drafts:
            started_s = time.perf_counter()
            self.drafter.observe(self.state.ids)
            # the drafter reads the prompt as the model does: count it as prefill
            self.stats.prefill_s += time.perf_counter() - started_s

    def observe_prefill(self, begin: int, n_tokens: int) -> None:
        """See Job."""
        if self._drafts and self.observes_rows:
            try:
                self.drafter.observe_prefill(begin, n_tokens)  # type: ignore[attr-defined]
            except BaseException as error:  # it belongs to this request only
                self.fail(error)

    def report_prefill(self) -> None:
        """See Job."""
        if self.request.on_prefill is not None:
            self.request.on_prefill(self.state.n_past / max(len(self.state) - 1, 1))

    def close(self, drafts: bool) -> None:
        """See Job."""
        self.sampler.close()
        if not drafts:
            return
        try:
            self.drafter.reset()  # it may hold cells of a draft model's KV cache
        except BaseException:
            _log.warning("the drafter %r fails to reset", self.drafter.name, exc_info=True)

    def finish(self, reason: FinishReason) -> None:
        """See Job."""
        self.output.finish()
        super().finish(reason)

    def take_chunk(self) -> Chunk:
        """See Job."""
        return self.output.take_chunk(self.finish_reason, self.stats, self.sampler.seed)

    def completion(self) -> Completion:
        """See Job."""
        assert self.finish_reason is not None
        return self.output.completion(self.finish_reason, self.stats, self.sampler.seed)

    # -- its steps

    @property
    def n_left(self) -> int:
        """Number of tokens that may still be generated."""
        return self.request.max_tokens - len(self.output.tokens)

    @property
    def wants_hidden(self) -> bool:
        """True if the drafter uses hidden states, and wants those of the next pass."""
        return self._observes_hidden and self.drafter.wants_hidden  # type: ignore[attr-defined]

    def ends_at(self, token: int, n_new: int) -> bool:
        """True if the output ends with this token, the ``n_new``-th of the step."""
        return token in self._end_tokens or n_new >= self.n_left or self._has_stopped

    @property
    def _has_stopped(self) -> bool:
        return self.row_functions is not None and self.row_functions.has_stopped

    def accept(self, tokens: Sequence[int], logprobs: Sequence[TokenLogp] = ()) -> None:
        """Append verified tokens, up to one that ends the output.

        Args:
            tokens: what was drawn in this step, in order.
            logprobs: one for each of the tokens, if the request asked for them.
        """
        for i, token in enumerate(tokens):
            self._accept_one(token, logprobs[i] if logprobs else None)
            if self.is_finished:
                break
        if self._has_stopped and not self.is_finished:
            self.finish("stop")
        self.stats.n_tokens = len(self.output.tokens)
        self.state.extend(tokens)

    def _accept_one(self, token: int, logp: TokenLogp | None) -> None:
        if token in self._end_tokens:
            self.finish("stop")
            return
        if self.output.append(token, logp):
            self.finish("stop")
        elif self.n_left == 0:
            self.finish("length")

    # -- forks

    def prepare_fork(self, changes: Mapping[str, Any]) -> Callable[[Drafter], GenerateJob]:
        """See Job."""
        sampling = sampling_params(changes, self.request.sampling) if changes else None
        return lambda drafter: self._fork(drafter, sampling)

    def _fork(self, drafter: Drafter, sampling: SamplingParams | None) -> GenerateJob:
        """Another job that continues the present output; its chunks begin here.

        Args:
            sampling: how the fork draws; None continues with a copy of this job's sampler.

        Raises:
            RequestError: this job has ended, or a context shift has dropped some of its tokens.
            GrammarError: the output does not match the fork's grammar.
        """
        if self.is_finished:
            raise RequestError("a finished generation cannot be forked; fork it while it runs")
        if self.state.is_shifted:
            raise RequestError("a generation that was shifted cannot be forked")
        request = replace(self.request, sampling=sampling or self.request.sampling)
        fork = GenerateJob(request, self.vocab, drafter, self.index, self._rule)
        fork.adapters = self.adapters
        if self._rule is not None:
            n_before = len(self.output.tokens)
            fork.rule_walk = RuleWalk(self._rule, drafter, fork.sampler.seed, n_before)
        fork.accept(self.output.tokens, self.output.logprobs)
        fork.take_chunk()
        fork._take_sampler(self, sampling)
        return fork

    def _take_sampler(self, parent: GenerateJob, sampling: SamplingParams | None) -> None:
        self._sampler_knows_prompt = True
        if sampling is None:
            self.sampler.close()
            self.sampler = parent.sampler.clone()
            if parent.is_started or parent._sampler_knows_prompt:
                return
        self.sampler.accept_prompt(self.request.prompt)
        for token in self.output.tokens:
            self.sampler.accept(token)
