"""`/v1/completions`: texts that go on."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from pytreellama.engine import Chunk, Stats
from pytreellama.engine.jobs import TextLogprobsJob
from pytreellama.serve.answers import TextChoice, TextCompletion
from pytreellama.serve.bodies import JsonRoute, caller_of
from pytreellama.serve.callers import Caller
from pytreellama.serve.errors import APIError
from pytreellama.serve.infill import infill_prompt
from pytreellama.serve.logprobs import TextLogprobWriter
from pytreellama.serve.openapi import answers_of
from pytreellama.serve.prompt_logprobs import (
    echoed_logprobs,
    joined,
    ranked_logprobs,
    read_prompts,
)
from pytreellama.serve.request_queue import Answer, AnswerOptions, finish_of, timings_of, usage_of
from pytreellama.serve.requests import CompletionRequest, as_prompts
from pytreellama.serve.service import Service, respond

_N_TOKENS = 16  # OpenAI's default


def text_router(service: Service) -> APIRouter:
    """The route, for an app."""
    router = APIRouter(tags=["text"], route_class=JsonRoute)

    @router.post("/completions", responses=answers_of(TextCompletion, streams=True))
    async def completions(body: CompletionRequest, request: Request) -> Response:
        """Continue one prompt or several; `stream` sends pieces as server-sent events."""
        writer = await begin_text(service, body, caller_of(request))
        return await respond(service, request, writer, streams=bool(body.stream))

    return router


async def begin_text(service: Service, body: CompletionRequest, caller: Caller) -> TextWriter:
    """Queue the answers to prompts, within the caller's time.

    Raises:
        APIError: the request cannot be served.
    """
    caller = caller.slow(body.is_constrained)
    return await caller.finish(_begin(service, body, caller))


async def _begin(service: Service, body: CompletionRequest, caller: Caller) -> TextWriter:
    service.require_model(body.model)
    if body.best_of not in (None, body.n_answers):
        raise APIError(400, "best_of must equal n", param="best_of")
    if body.echo and body.suffix:
        raise APIError(400, "a prompt with a suffix cannot be echoed", param="echo")
    if body.stream and body.prompt_logprobs is not None:
        raise APIError(400, "a stream has no prompt_logprobs", param="prompt_logprobs")
    given = as_prompts(body.prompt)
    service.queue.check_room(len(given), body.n_answers)
    prompts = [await caller.run(partial(_prompt, service, body, one)) for one in given]
    longest = max(map(len, prompts))
    max_tokens = service.max_tokens(body.max_tokens, _N_TOKENS, longest)
    options = body.options(max_tokens, body.logprobs, service.settings.sampling)
    asked = AnswerOptions(
        prompts,
        body.n_answers,
        options,
        bool(body.stream),
        body.wants_steps,
        bool(body.return_progress),
    )
    jobs: list[TextLogprobsJob] = []
    n_top = max(body.prompt_logprobs or 0, body.logprobs or 0 if body.echo else 0)
    if body.prompt_logprobs is not None or (body.echo and body.logprobs is not None):
        jobs = await read_prompts(service, prompts, n_top, caller)
    return TextWriter(service, body, asked, await service.queue.begin(asked, caller), jobs)


def _prompt(service: Service, body: CompletionRequest, given: str | list[int]) -> list[int]:
    if not body.suffix:
        parses = body.parse_special is not False
        return service.text_limit.encode(given, parse_special=parses)
    if not isinstance(given, str):
        raise APIError(400, "suffix needs a prompt that is a text", param="suffix")
    return infill_prompt(service, given, body.suffix, param="suffix")


class TextWriter:
    """Puts what the engine writes into OpenAI's form.

    Args:
        jobs: with the log-probabilities of each prompt, if they are asked for.

    Attributes:
        n_prompt: tokens of the longest prompt.
    """

    def __init__(
        self,
        service: Service,
        body: CompletionRequest,
        asked: AnswerOptions,
        answers: Sequence[Answer],
        jobs: Sequence[TextLogprobsJob],
    ) -> None:
        self.n_prompt = max(map(len, asked.prompts))
        self._prompts = asked.prompts
        self._jobs = jobs
        self._service = service
        self._body = body
        self.answers = answers
        self._vocab = service.engine.engine.vocab
        self._n = body.n_answers
        n_before = [len(self._prompt_text(one)) if body.echo else 0 for one in answers]
        self._logprobs = [TextLogprobWriter(self._vocab, n) for n in n_before]

    async def whole(self) -> TextCompletion:
        """See Writer."""
        chunks = await self._service.queue.whole(self.answers)
        stats = [chunk.stats for chunk in chunks if chunk.stats is not None]
        completion = self._completion(
            [self._choice(a, c) for a, c in zip(self.answers, chunks, strict=True)]
        )
        completion.usage = usage_of(stats, self._n)
        completion.timings = timings_of(stats)
        return completion

    async def events(self) -> AsyncGenerator[dict[str, Any]]:
        """See Writer."""
        head = self._completion([]).model_dump()
        stats: dict[int, Stats] = {}
        seen: set[int] = set()
        async for answer, chunk in self._service.queue.pieces(self.answers):
            if chunk.stats is not None:
                stats[answer.index] = chunk.stats
            choice = self._choice(answer, chunk, answer.index not in seen)
            seen.add(answer.index)
            event = head | {"choices": [choice.model_dump()]}
            if chunk.finish_reason is not None and chunk.stats is not None:
                event["timings"] = timings_of([chunk.stats]).model_dump()
            if answer.log is not None:
                event["pytreellama"] = {"steps": answer.log.take()}
            progress = answer.progress.take() if answer.progress else None
            if progress:
                event["prompt_progress"] = progress.model_dump()
            yield event
        if self._body.wants_usage:
            usage = usage_of([stats[i] for i in sorted(stats)], self._n)
            yield head | {"usage": usage.model_dump()}

    def _completion(self, choices: list[TextChoice]) -> TextCompletion:
        return TextCompletion(**self._service.head("cmpl"), choices=choices)

    def _choice(self, answer: Answer, chunk: Chunk, is_first: bool = True) -> TextChoice:
        index, text, reason = answer.index, chunk.text, chunk.finish_reason
        if self._body.echo and is_first:
            text = self._prompt_text(answer) + text
        choice = TextChoice(index=index, text=text, stop_reason=chunk.stop_string)
        if reason is not None:
            choice.finish_reason = finish_of(reason)
        if self._body.logprobs is not None and chunk.logprobs is not None:
            choice.logprobs = self._logprobs[index].take(
                chunk.text, chunk.logprobs, is_last=reason is not None
            )
        if is_first and self._jobs:
            self._tell_prompt(choice, answer)
        return choice

    def _tell_prompt(self, choice: TextChoice, answer: Answer) -> None:
        """Add the log-probabilities of the prompt's own tokens."""
        body, i = self._body, answer.index // self._n
        if body.echo and body.logprobs is not None:
            text, prompt = self._prompt_text(answer), self._prompts[i]
            own = echoed_logprobs(self._vocab, prompt, text, self._jobs[i], body.logprobs)
            choice.logprobs = joined(own, choice.logprobs)
        if body.prompt_logprobs is not None:
            n_top = body.prompt_logprobs
            choice.prompt_logprobs = ranked_logprobs(self._vocab, self._jobs[i], n_top)

    def _prompt_text(self, answer: Answer) -> str:
        given = as_prompts(self._body.prompt)[answer.index // self._n]
        return given if isinstance(given, str) else self._vocab.decode(given)
