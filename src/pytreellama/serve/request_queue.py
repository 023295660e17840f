"""Writing: a request's answers on their way, all in the engine's one loop."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from pytreellama.engine import AsyncEngine, ChatPrompt, Chunk, Generation, Stats
from pytreellama.engine.async_engine import call_in, chunks
from pytreellama.engine.completion import FinishReason
from pytreellama.errors import QueueFullError
from pytreellama.page.recorder import StepRecorder
from pytreellama.sampling.params import shifted_seed
from pytreellama.serve.answers import CompletionDetails, Finish, PromptDetails, Timings, Usage
from pytreellama.serve.callers import Caller
from pytreellama.serve.errors import APIError, api_error_of
from pytreellama.serve.metrics import Metrics
from pytreellama.serve.progress import ProgressWatch
from pytreellama.serve.settings import ServerSettings

_FINISH: dict[FinishReason, Finish] = {
    "stop": "stop",
    "length": "length",
    "context": "length",
    "cancelled": "length",
}


def finish_of(reason: FinishReason) -> Finish:
    """OpenAI's word for why an answer ended."""
    return _FINISH[reason]


@dataclass(slots=True)
class Answer:
    """One text that is being written.

    Attributes:
        index: of the choice.
        log: of its steps, if they are asked for.
        limit: ends it when its time is over.
        progress: of the prefill of its prompt, if it is asked for.
    """

    index: int
    generation: Generation
    log: StepRecorder | None
    asked_s: float
    limit: asyncio.TimerHandle
    progress: ProgressWatch | None = None


@dataclass(frozen=True, slots=True)
class AnswerOptions:
    """What answers are asked for.

    Attributes:
        prompts: token ids that fit into the context; each gets ``n`` answers.
        options: of ``Engine.submit``.
        streams: pieces are wanted as they come.
        wants_steps: with the trees that were verified.
        wants_progress: with the progress of prefill before them.
        chat: the one prompt with what its reply may be, if it is a chat.
    """

    prompts: Sequence[list[int]]
    n: int
    options: dict[str, Any]
    streams: bool = False
    wants_steps: bool = False
    wants_progress: bool = False
    chat: ChatPrompt | None = None


class RequestQueue:
    """Takes in requests for text, within a server's limits.

    Args:
        engine: writes.
        metrics: hear of every answer.
    """

    def __init__(self, engine: AsyncEngine, settings: ServerSettings, metrics: Metrics) -> None:
        self._engine = engine
        self._settings = settings
        self._metrics = metrics
        self._mean_s = 1.0
        self._open: set[Generation] = set()

    @property
    def retry_after_s(self) -> int:
        """Seconds until there should be room: what waits before, at the pace of late."""
        n_ahead = self._engine.engine.n_open
        return max(1, min(60, math.ceil(self._mean_s * n_ahead / self._engine.engine.n_seq_max)))

    def check_room(self, n_prompts: int, n: int) -> None:
        """Refuse a request before anything is made for it: that is cheap, however many ask.

        Raises:
            APIError: it asks for too many answers, or the queue is full.
        """
        n_answers = n_prompts * n
        if n_answers > self._settings.n_choices_max:
            raise APIError(
                400,
                f"{n_answers} answers were asked for; this server gives at most "
                f"{self._settings.n_choices_max} to one request",
                param="n",
            )
        if self._engine.engine.is_full:
            raise api_error_of(QueueFullError(), self.retry_after_s)

    async def begin(self, asked: AnswerOptions, caller: Caller) -> list[Answer]:
        """Queue all answers, or none.

        Raises:
            APIError: what the engine refuses, or too much at once.
        """
        answers: list[Answer] = []
        try:
            for index in range(len(asked.prompts) * asked.n):
                answers.append(await self._begin_one(asked, index, caller))
        except BaseException as error:
            self.end(answers)
            if isinstance(error, Exception):
                raise api_error_of(error, self.retry_after_s) from error
            raise
        return answers

    async def _begin_one(self, asked: AnswerOptions, index: int, caller: Caller) -> Answer:
        prompt = asked.prompts[index // asked.n]
        options = dict(asked.options)
        if options.get("seed") is not None:
            options["seed"] = shifted_seed(options["seed"], index % asked.n)
        log = StepRecorder(self._engine.engine, len(prompt)) if asked.wants_steps else None
        if log is not None:
            options["on_step"] = log.watch
            options["logprobs"] = options.get("logprobs") or 0
        loop = asyncio.get_running_loop()
        progress = None
        if asked.streams and asked.wants_progress:
            progress = ProgressWatch(loop, len(prompt))
            options["on_prefill"] = progress.watch
        submit = partial(
            self._engine.engine.submit,
            prompt if asked.chat is None else asked.chat,
            wait=False,
            streams=asked.streams,
            **options,
        )
        generation = await caller.run(submit, drop=Generation.cancel)
        if progress is not None:
            progress.generation = generation
        limit = loop.call_later(caller.left_s, generation.cancel)
        answer = Answer(index, generation, log, caller.asked_s, limit, progress)
        self._open.add(generation)

        def tell() -> None:
            if generation.is_done:
                call_in(loop, lambda: self._ended(answer))

        generation.listen(tell)
        return answer

    def _ended(self, answer: Answer) -> None:
        """However it ended: its client may be gone already."""
        answer.limit.cancel()
        self._open.discard(answer.generation)
        try:
            completion = answer.generation.result(timeout_s=0)
        except Exception:  # its client hears of it
            return
        seconds = time.perf_counter() - answer.asked_s
        self._mean_s += 0.1 * (seconds - self._mean_s)
        self._metrics.count(completion.stats, completion.finish_reason, seconds)

    def end_all(self) -> None:
        """End every answer where it stands."""
        for generation in list(self._open):
            generation.cancel()

    def end(self, answers: Sequence[Answer]) -> None:
        """Free what they hold within a step, unless they are done."""
        for answer in answers:
            answer.generation.cancel()

    async def whole(self, answers: Sequence[Answer]) -> list[Chunk]:
        """Wait for all texts, each as one chunk."""
        try:
            return [await self._whole(answer) for answer in answers]
        finally:
            self.end(answers)

    async def _whole(self, answer: Answer) -> Chunk:
        last: Chunk | None = None
        async for chunk in chunks(answer.generation):
            last = chunk
        assert last is not None
        self._check(last)
        return last

    async def pieces(self, answers: Sequence[Answer]) -> AsyncIterator[tuple[Answer, Chunk]]:
        """Pieces of all texts as they come; closed early, it ends them all.

        Before the first piece of a text whose progress is watched there may be empty ones, each
        with news of it.
        """
        try:
            if len(answers) == 1 and answers[0].progress is None:
                async for chunk in self._timed(answers[0]):
                    yield answers[0], chunk
                return
            async for piece in self._merged(answers):
                yield piece
        finally:
            self.end(answers)

    async def _merged(self, answers: Sequence[Answer]) -> AsyncIterator[tuple[Answer, Chunk]]:
        queue: asyncio.Queue[tuple[Answer, Chunk | Exception]] = asyncio.Queue()

        async def read(answer: Answer) -> None:
            try:
                async for chunk in self._timed(answer):
                    queue.put_nowait((answer, chunk))
            except Exception as error:
                queue.put_nowait((answer, error))

        for answer in answers:
            if answer.progress is not None:
                answer.progress.listen(partial(queue.put_nowait, (answer, Chunk("", ()))))
        tasks = [asyncio.create_task(read(answer)) for answer in answers]
        n_open = len(answers)
        try:
            while n_open:
                answer, chunk = await queue.get()
                if isinstance(chunk, Exception):
                    raise chunk
                n_open -= chunk.finish_reason is not None
                yield answer, chunk
        finally:
            for task in tasks:
                task.cancel()

    async def _timed(self, answer: Answer) -> AsyncIterator[Chunk]:
        has_begun = False
        async for chunk in chunks(answer.generation, self._settings.event_s):
            if chunk.tokens and not has_begun:
                has_begun = True
                self._metrics.first_s.observe(time.perf_counter() - answer.asked_s)
            self._check(chunk)
            yield chunk

    def _check(self, chunk: Chunk) -> None:
        """Raise APIError for an answer whose time was over before it began."""
        if chunk.finish_reason == "cancelled" and chunk.stats and chunk.stats.n_steps == 0:
            raise APIError(
                503,
                f"the answer did not begin within {self._settings.request_s:g} seconds; the server "
                "is too busy",
                code="timeout",
                retry_after_s=self.retry_after_s,
            )


def timings_of(stats: Sequence[Stats]) -> Timings:
    """Times of all answers together."""
    n_shared = sum(min(one.n_shared, one.n_prompt) for one in stats)
    n_prompt = sum(one.n_prompt for one in stats) - n_shared
    n_tokens = sum(one.n_tokens for one in stats)
    prefill_s = sum(one.prefill_s for one in stats)
    decode_s = sum(one.decode_s for one in stats)
    return Timings(
        cache_n=n_shared,
        prompt_n=n_prompt,
        prompt_ms=1000 * prefill_s,
        prompt_per_second=n_prompt / prefill_s if prefill_s else 0.0,
        predicted_n=n_tokens,
        predicted_ms=1000 * decode_s,
        predicted_per_second=n_tokens / decode_s if decode_s else 0.0,
        draft_n=sum(one.n_drafted for one in stats),
        draft_n_accepted=sum(one.n_accepted for one in stats),
    )


def usage_of(stats: Sequence[Stats], n: int) -> Usage:
    """Tokens of all answers; prompts that had ``n`` answers count once."""
    n_prompt = sum(one.n_prompt for one in stats[::n])
    n_tokens = sum(one.n_tokens for one in stats)
    n_accepted = sum(one.n_accepted for one in stats)
    return Usage(
        prompt_tokens=n_prompt,
        completion_tokens=n_tokens,
        total_tokens=n_prompt + n_tokens,
        prompt_tokens_details=PromptDetails(
            cached_tokens=sum(min(one.n_shared, one.n_prompt) for one in stats[::n])
        ),
        completion_tokens_details=CompletionDetails(
            accepted_prediction_tokens=n_accepted,
            rejected_prediction_tokens=sum(one.n_drafted for one in stats) - n_accepted,
        ),
    )
