"""Sequence: the state of one request while it runs."""

from __future__ import annotations

import time
from collections.abc import Sequence as Sequence_
from dataclasses import dataclass

from pytreellama.core.sampler import Sampler
from pytreellama.core.sampling import SamplingParams
from pytreellama.core.vocab import Detokenizer, Vocab
from pytreellama.draft import Drafter
from pytreellama.engine.completion import Chunk, Completion, FinishReason, Stats
from pytreellama.engine.stop_strings import StopStrings
from pytreellama.errors import RequestError


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for, checked against nothing yet.

    Attributes:
        prompt: token ids, at least one.
        max_tokens: most tokens to write.
        stop: strings that end the text.
        ignore_eos: write on past end tokens.
        sampling: how tokens are drawn.
    """

    prompt: tuple[int, ...]
    max_tokens: int
    stop: tuple[str, ...]
    ignore_eos: bool
    sampling: SamplingParams

    def __post_init__(self) -> None:
        if not self.prompt:
            raise RequestError("the prompt has no tokens; give at least one")
        if not isinstance(self.max_tokens, int) or self.max_tokens < 1:
            raise RequestError(
                f"max_tokens = {self.max_tokens!r} was asked for; give a whole number from 1"
            )
        if not all(isinstance(stop, str) for stop in self.stop):
            raise RequestError(f"stop = {self.stop!r} was asked for; give a string or strings")


class Sequence:
    """One request, its place in the cache, its drafter, its sampler and its text so far."""

    def __init__(self, index: int, request: Request, vocab: Vocab, drafter: Drafter) -> None:
        self.index = index
        self.request = request
        self.drafter = drafter
        self.sampler = Sampler(vocab, request.sampling)
        self.seq_id: int | None = None
        self.stats = Stats(n_prompt=len(request.prompt))
        self.last_token = request.prompt[-1]
        self.tokens: list[int] = []
        self.finish_reason: FinishReason | None = None
        self._end_tokens = frozenset() if request.ignore_eos else vocab.eog_tokens
        self._detokenizer = Detokenizer(vocab)
        self._stops = StopStrings(request.stop)
        self._text: list[str] = []
        self._new_text: list[str] = []
        self._n_chunked = 0
        self._started_s = time.perf_counter()

    def start(self) -> None:
        """The clock runs from here: time in the queue is not the generation's."""
        self._started_s = time.perf_counter()

    @property
    def is_finished(self) -> bool:
        return self.finish_reason is not None

    @property
    def n_past(self) -> int:
        """Tokens in the cache: all of the text but the last, which is the next tree's root."""
        return len(self.request.prompt) + len(self.tokens) - 1

    @property
    def n_left(self) -> int:
        """Tokens that may still be written."""
        return self.request.max_tokens - len(self.tokens)

    def ends_at(self, token: int, n_new: int) -> bool:
        """True if the text ends with this token, the ``n_new``-th of the step."""
        return token in self._end_tokens or n_new >= self.n_left

    def accept(self, tokens: Sequence_[int]) -> None:
        """Take verified tokens into the text, up to the one that ends it."""
        for token in tokens:
            self._accept_one(token)
            if self.is_finished:
                break
        self.last_token = tokens[-1]

    def _accept_one(self, token: int) -> None:
        if token in self._end_tokens:
            self.finish("stop")
            return
        self.tokens.append(token)
        self._write(self._stops.push(self._detokenizer.add((token,))))
        if self._stops.found is not None:
            self.finish("stop")
        elif self.n_left == 0:
            self.finish("length")

    def finish(self, reason: FinishReason) -> None:
        """End the text; what was held back comes out unless a stop string was found."""
        self.finish_reason = reason
        if self._stops.found is None:
            self._write(self._stops.push(self._detokenizer.finish()) + self._stops.finish())
        self.stats.n_tokens = len(self.tokens)
        self.stats.total_s = time.perf_counter() - self._started_s

    def _write(self, text: str) -> None:
        self._text.append(text)
        self._new_text.append(text)

    def take_chunk(self) -> Chunk:
        """The text and tokens since the last call."""
        text = "".join(self._new_text)
        tokens = tuple(self.tokens[self._n_chunked :])
        self._new_text.clear()
        self._n_chunked = len(self.tokens)
        if not self.is_finished:
            return Chunk(text, tokens)
        return Chunk(text, tokens, self.finish_reason, self.stats, self.sampler.seed)

    def completion(self) -> Completion:
        """The finished generation."""
        assert self.finish_reason is not None
        return Completion(
            "".join(self._text),
            tuple(self.tokens),
            self.finish_reason,
            self.sampler.seed,
            self.stats,
        )
