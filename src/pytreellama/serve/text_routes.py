"""`/v1/completions`: texts that go on."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from pytreellama.engine import Chunk, Stats
from pytreellama.serve.answers import TextChoice, TextCompletion
from pytreellama.serve.bodies import JsonRoute, caller_of
from pytreellama.serve.callers import Caller
from pytreellama.serve.errors import APIError
from pytreellama.serve.logprobs import TextLogprobWriter
from pytreellama.serve.openapi import answers_of
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
        is_constrained = body.grammar is not None or body.json_schema is not None
        caller = caller_of(request).slow(is_constrained)
        writer = await caller.finish(_begin(service, body, caller))
        return await respond(service, request, writer, streams=bool(body.stream))

    return router


async def _begin(service: Service, body: CompletionRequest, caller: Caller) -> _Writer:
    service.require_model(body.model)
    if body.suffix:
        raise APIError(400, "suffix is not supported; leave it out", param="suffix")
    if body.best_of not in (None, body.n_answers):
        raise APIError(400, "best_of must equal n", param="best_of")
    if body.echo and body.logprobs is not None:
        raise APIError(
            400,
            "logprobs of the prompt are not supported; leave echo out, or use /v1/score",
            param="echo",
        )
    given = as_prompts(body.prompt)
    service.queue.check_room(len(given), body.n_answers)
    encode = partial(service.text_limit.encode, parse_special=body.parse_special is not False)
    prompts = [await caller.run(partial(encode, one)) for one in given]
    longest = max(map(len, prompts))
    max_tokens = service.max_tokens(body.max_tokens, _N_TOKENS, longest)
    options = body.options(max_tokens, body.logprobs, service.settings.sampling)
    asked = AnswerOptions(prompts, body.n_answers, options, bool(body.stream), body.wants_steps)
    return _Writer(service, body, await service.queue.begin(asked, caller))


class _Writer:
    """Puts what the engine writes into OpenAI's form."""

    def __init__(
        self, service: Service, body: CompletionRequest, answers: Sequence[Answer]
    ) -> None:
        self._service = service
        self._body = body
        self.answers = answers
        self._vocab = service.engine.engine.vocab
        self._n = body.n_answers
        self._logprobs = [TextLogprobWriter(self._vocab) for _ in answers]

    async def whole(self) -> TextCompletion:
        chunks = await self._service.queue.whole(self.answers)
        stats = [chunk.stats for chunk in chunks if chunk.stats is not None]
        completion = self._completion(
            [self._choice(a, c) for a, c in zip(self.answers, chunks, strict=True)]
        )
        completion.usage = usage_of(stats, self._n)
        completion.timings = timings_of(stats)
        return completion

    async def events(self) -> AsyncGenerator[dict[str, Any]]:
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
        return choice

    def _prompt_text(self, answer: Answer) -> str:
        given = as_prompts(self._body.prompt)[answer.index // self._n]
        return given if isinstance(given, str) else self._vocab.decode(given)
