"""Sequence: the state of one request while it runs."""

from __future__ import annotations

import time
from collections.abc import Sequence as Sequence_
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pytreellama.draft import Drafter, HiddenObserver, PassObserver
from pytreellama.engine.completion import Chunk, Completion, FinishReason, Stats, TokenLogp
from pytreellama.engine.request import Request
from pytreellama.engine.stop_strings import StopStrings
from pytreellama.errors import CallbackError, RequestError
from pytreellama.model.vocab import Detokenizer, Vocab
from pytreellama.plan import Plan, PlannedRequest
from pytreellama.sampling.params import SamplingParams
from pytreellama.sampling.sampler import Sampler


class Sequence:
    """One request, its place in the cache, its drafter, its sampler and its text so far.

    Attributes:
        index: which prompt of a call it belongs to, for whoever watches.
        arrival: its turn; what arrived later gives way first.
        seq_id: its place in the cache, None while it waits.
        context: what the model sees: prompt and text, but for what a shift has dropped.
        n_past: tokens of ``context`` in the cache.
        n_unshifted: of those, what was computed without anything dropped before it.
        is_forked: it goes on with another's text, which its sampler knows already.
        error: what ended it, if it could not be served.
        plan: why its last tree is as it is, where trees are planned.
        planned: what the draft policy keeps of it, there.
    """

    def __init__(self, request: Request, vocab: Vocab, drafter: Drafter, index: int = 0) -> None:
        self.index = index
        self.arrival = -1
        self.request = request
        self.drafter = drafter
        self.n_top = drafter.n_top if isinstance(drafter, PassObserver) else 0
        self._sees_hidden = isinstance(drafter, HiddenObserver)
        self.sampler = Sampler(vocab, request.sampling)
        self.seq_id: int | None = None
        self.context: list[int] = list(request.prompt)
        self._ids = np.zeros(0, np.int32)
        self.n_past = 0
        self.n_unshifted = 2**31 - 1
        self.stats = Stats(n_prompt=len(request.prompt))
        self.tokens: list[int] = []
        self.finish_reason: FinishReason | None = None
        self.error: Exception | None = None
        self.plan: Plan | None = None
        self.planned: PlannedRequest | None = None
        self.is_started = False
        self.is_forked = False
        self._logprobs: list[TokenLogp] = []
        self._end_tokens = frozenset() if request.ignore_eos else vocab.eog_tokens
        self._end_tokens |= request.stop_tokens
        self._detokenizer = Detokenizer(vocab)
        self._stops = StopStrings(request.stop)
        self._text: list[str] = []
        self._new_text: list[str] = []
        self._n_chunked = 0
        self._started_s = time.perf_counter()

    @property
    def wants_hidden(self) -> bool:
        """True if the drafter guesses from hidden states, and wants those of the next pass."""
        return self._sees_hidden and self.drafter.wants_hidden  # type: ignore[attr-defined]

    def start(self) -> None:
        """The clock runs from here: time in the queue is not the generation's."""
        self.is_started = True
        self._started_s = time.perf_counter()

    @property
    def is_finished(self) -> bool:
        """True once nothing more will be written, for whatever reason."""
        return self.finish_reason is not None or self.error is not None

    @property
    def last_token(self) -> int:
        """The root of the next tree: the one token that is not in the cache yet."""
        return self.context[-1]

    @property
    def n_missing(self) -> int:
        """Tokens before the last that are not in the cache yet."""
        return len(self.context) - 1 - self.n_past

    @property
    def can_be_set_aside(self) -> bool:
        """Is all that it needs in its part of the cache, so that a copy of that brings it back?"""
        return self.n_missing == 0

    @property
    def n_left(self) -> int:
        """Tokens that may still be written."""
        return self.request.max_tokens - len(self.tokens)

    def fork(self, vocab: Vocab, drafter: Drafter, sampling: SamplingParams | None) -> Sequence:
        """Another sequence that goes on from here; its chunks begin where it forks.

        Args:
            sampling: how it draws; None goes on with a copy of this one's sampler.

        Raises:
            RequestError: it is finished, or was shifted, so that its text is not all there is.
            GrammarError: the text does not fit the other grammar.
        """
        if self.is_finished:
            raise RequestError("a finished generation cannot be forked; fork it while it runs")
        if self.n_unshifted < len(self.context):
            raise RequestError("a generation that was shifted cannot be forked")
        request = replace(self.request, sampling=sampling or self.request.sampling)
        other = Sequence(request, vocab, drafter, self.index)
        other.accept(self.tokens)
        other._new_text.clear()
        other._n_chunked = len(other.tokens)
        other._logprobs = list(self._logprobs)
        other.is_forked = True
        other._take_sampler(self, sampling)
        return other

    def _take_sampler(self, parent: Sequence, sampling: SamplingParams | None) -> None:
        if sampling is None:
            self.sampler.close()
            self.sampler = parent.sampler.clone()
            if parent.is_started or parent.is_forked:
                return
        self.sampler.accept_prompt(np.array(self.request.prompt, dtype=np.int32))
        for token in self.tokens:
            self.sampler.accept(token)

    @property
    def ids(self) -> NDArray[np.int32]:
        """``context`` as int32, shape (n,); not to be changed."""
        if len(self._ids) != len(self.context):
            self._ids = np.array(self.context, np.int32)
        return self._ids

    @property
    def shareable(self) -> NDArray[np.int32]:
        """The beginning that is in the cache as if nothing had been shifted: ids, shape (n,)."""
        return self.ids[: min(self.n_past, self.n_unshifted)]

    def drop(self, first: int, last: int) -> None:
        """Take tokens [first, last) out of ``context``."""
        del self.context[first:last]
        self._ids = np.zeros(0, np.int32)

    def require_id(self) -> int:
        assert self.seq_id is not None
        return self.seq_id

    def ends_at(self, token: int, n_new: int) -> bool:
        """True if the text ends with this token, the ``n_new``-th of the step."""
        return token in self._end_tokens or n_new >= self.n_left

    def accept(self, tokens: Sequence_[int], logprobs: Sequence_[TokenLogp] = ()) -> None:
        """Take verified tokens into the text, up to the one that ends it."""
        for i, token in enumerate(tokens):
            if self._accept_one(token) and logprobs:
                self._logprobs.append(logprobs[i])
            if self.is_finished:
                break
        self.context.extend(tokens)

    def _accept_one(self, token: int) -> bool:
        """False for an end token, which is not part of the text."""
        if token in self._end_tokens:
            self.finish("stop")
            return False
        self.tokens.append(token)
        self._write(self._stops.push(self._detokenizer.add((token,))))
        if self._stops.found is not None:
            self.finish("stop")
        elif self.n_left == 0:
            self.finish("length")
        return True

    def finish(self, reason: FinishReason) -> None:
        """End the text; what was held back comes out unless a stop string was found."""
        self.finish_reason = reason
        if self._stops.found is None:
            self._write(self._stops.push(self._detokenizer.finish()) + self._stops.finish())
        self._count()

    def fail(self, error: BaseException) -> None:
        """End without a completion; the error is raised to whoever waits for it."""
        self.error = _raisable(error)
        self._count()

    def _count(self) -> None:
        self.stats.n_tokens = len(self.tokens)
        self.stats.total_s = time.perf_counter() - self._started_s

    def _write(self, text: str) -> None:
        self._text.append(text)
        self._new_text.append(text)

    def take_chunk(self) -> Chunk:
        """The text and tokens since the last call."""
        text = "".join(self._new_text)
        begin = self._n_chunked
        tokens = tuple(self.tokens[begin:])
        logprobs = tuple(self._logprobs[begin:]) if self.request.logprobs is not None else None
        self._new_text.clear()
        self._n_chunked = len(self.tokens)
        if self.finish_reason is None:
            return Chunk(text, tokens, logprobs)
        return Chunk(text, tokens, logprobs, self.finish_reason, self.stats, self.sampler.seed)

    def completion(self) -> Completion:
        """The finished generation."""
        assert self.finish_reason is not None
        return Completion(
            "".join(self._text),
            tuple(self.tokens),
            self.finish_reason,
            self.sampler.seed,
            self.stats,
            tuple(self._logprobs) if self.request.logprobs is not None else None,
        )


def _raisable(error: BaseException) -> Exception:
    """What a callback raises must not end the thread, generator or task that waits for the text."""
    ends_others = isinstance(error, (StopIteration, StopAsyncIteration))
    if isinstance(error, Exception) and not ends_others:
        return error
    wrapped = CallbackError(f"a callback or drafter of this request raised {error!r}")
    wrapped.__cause__ = error
    return wrapped
