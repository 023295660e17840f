"""Job: the state of one request, of any kind, while the scheduler runs it."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytreellama.draft import Drafter
from pytreellama.engine.completion import Chunk, Completion, FinishReason, Stats
from pytreellama.engine.token_state import Int32, TokenState
from pytreellama.errors import CallbackError, RequestError
from pytreellama.model.lora import AdapterSet

if TYPE_CHECKING:
    from pytreellama.engine.jobs.encode import EncoderJob
    from pytreellama.engine.jobs.evaluation import EvaluationJob
    from pytreellama.engine.jobs.generate import GenerateJob


@dataclass(frozen=True, slots=True)
class JobLimits:
    """What an engine can run.

    Attributes:
        n_text_max: tokens of the longest text, prompt and output together.
        n_nodes_max: maximum number of nodes of one pass.
        can_shift: the KV cache can move positions, as a context shift needs.
        greedy_only: the verification rule takes greedy requests only.
    """

    n_text_max: int
    n_nodes_max: int
    can_shift: bool = True
    greedy_only: bool = False


@dataclass(slots=True)
class ReadyJobs:
    """Jobs whose prompts are in the KV cache, by the pass in which they run next.

    Attributes:
        for_tree_pass: share one pass over all their trees.
        for_own_pass: run a pass each.
        for_encoder: are read whole, in passes of an encoder.
    """

    for_tree_pass: list[GenerateJob] = field(default_factory=list)
    for_own_pass: list[EvaluationJob] = field(default_factory=list)
    for_encoder: list[EncoderJob] = field(default_factory=list)


class Job(ABC):
    """One request with its place in the KV cache. Subclasses say what the request wants.

    The scheduler asks no job for its kind: where kinds differ, they override a method.

    Args:
        prompt: token ids, int32, shape (n,), n >= 1, checked; not copied, and must not change.
        index: which prompt of a call it belongs to; callbacks report it.

    Attributes:
        arrival: number in the order of arrival; the newest job is preempted first.
        seq_id: its sequence in the KV cache; None while the job waits.
        state: its tokens, and how many of them are in the KV cache.
        stats: counts and times so far.
        finish_reason: why the job ended; None before, and if it failed.
        error: what the job failed with, if it did.
        is_started: it has been admitted to the KV cache once.
        can_share: False once a shared prefix could not be loaded: it reads its prompt itself.
        adapters: LoRA adapters of its passes; jobs with others share neither passes nor prefixes.
        branches: lengths of prefixes that other requests have too, where prefill takes checkpoints.

    Raises:
        RequestError: a prompt without tokens.
    """

    def __init__(self, prompt: Int32, index: int = 0) -> None:
        if len(prompt) == 0:
            raise RequestError("the prompt has no tokens; give at least one")
        self.index = index
        self.arrival = -1
        self.seq_id: int | None = None
        self.state = TokenState(prompt)
        self.stats = Stats(n_prompt=len(prompt))
        self.finish_reason: FinishReason | None = None
        self.error: Exception | None = None
        self.is_started = False
        self.can_share = True
        self.adapters: AdapterSet = ()
        self.branches: set[int] = set()
        self._started_s = time.perf_counter()

    # -- what kinds of jobs differ in

    @abstractmethod
    def join(self, ready: ReadyJobs) -> None:
        """Add this job, which has no missing tokens, to the jobs of its next pass."""

    def check(self, limits: JobLimits) -> None:
        """Raise RequestError if the job could never run; called once, before it is queued."""
        n_prompt, n_text_max = len(self.state), limits.n_text_max
        if n_prompt >= n_text_max:
            raise RequestError(
                f"the prompt has {n_prompt} tokens, and the context of {n_text_max} must hold it "
                "and the answer; shorten it, or make the engine with a larger n_ctx"
            )

    @property
    def n_missing(self) -> int:
        """Number of tokens to prefill before the job is ready."""
        return self.state.n_missing

    @property
    def can_swap_out(self) -> bool:
        """True if its sequence in the KV cache holds all that a later resume needs."""
        return self.n_missing == 0

    def start(self, drafts: bool) -> None:
        """Start the clock, when the job is admitted: time in the queue does not count.

        Args:
            drafts: drafters are used in this engine.
        """
        self.is_started = True
        self._started_s = time.perf_counter()

    def observe_prefill(self, begin: int, n_tokens: int) -> None:
        """Let the drafter look at a prefill pass, which computed ``n_tokens`` from ``begin`` on."""
        return

    def report_prefill(self) -> None:
        """Tell the user how much of the prompt is in the KV cache, if the request asked."""
        return

    def close(self, drafts: bool) -> None:
        """Free what the job holds outside the KV cache, once it has ended. Raises nothing.

        Args:
            drafts: as in ``start``.
        """
        return

    def prepare_fork(self, changes: Mapping[str, Any]) -> Callable[[Drafter], GenerateJob]:
        """Check the sampling options of a fork, and return what makes it between two steps.

        Raises:
            RequestError: not a generation, or options that a fork does not have.
        """
        raise RequestError("only a generation can be forked; submit a prompt instead")

    def take_chunk(self) -> Chunk:
        """Output since the last call."""
        return Chunk("", (), None, self.finish_reason, self.stats)

    def completion(self) -> Completion:
        """The whole output, once the job has ended without an error."""
        assert self.finish_reason is not None
        return Completion("", (), self.finish_reason, 0, self.stats)

    # -- what they have in common

    @property
    def is_finished(self) -> bool:
        """True once the job has ended, for whatever reason."""
        return self.finish_reason is not None or self.error is not None

    def require_id(self) -> int:
        """``seq_id`` of a running job."""
        assert self.seq_id is not None
        return self.seq_id

    def finish(self, reason: FinishReason) -> None:
        """End the job; its output so far is its result."""
        self.finish_reason = reason
        self.stats.total_s = time.perf_counter() - self._started_s

    def fail(self, error: BaseException) -> None:
        """End the job without a result; the error is raised to whoever waits for it."""
        self.error = _raisable(error)
        self.stats.total_s = time.perf_counter() - self._started_s


def _raisable(error: BaseException) -> Exception:
    """What a callback raises must not end the thread, generator or task that waits for the job."""
    ends_others = isinstance(error, (StopIteration, StopAsyncIteration))
    if isinstance(error, Exception) and not ends_others:
        return error
    wrapped = CallbackError(f"a callback or drafter of this request raised {error!r}")
    wrapped.__cause__ = error
    return wrapped
