"""`/v1/chat/completions`: answers to messages, or calls of functions."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from pytreellama.engine import Chunk, Reply, Stats
from pytreellama.serve.answers import ChatChoice, ChatChunk, ChatCompletion, Delta, DeltaChoice
from pytreellama.serve.bodies import JsonRoute, caller_of
from pytreellama.serve.callers import Caller
from pytreellama.serve.errors import APIError
from pytreellama.serve.logprobs import chat_logprobs
from pytreellama.serve.openapi import answers_of
from pytreellama.serve.reply_writer import DeltaWriter, answer_message, finish_of_reply
from pytreellama.serve.request_queue import Answer, AnswerOptions, timings_of, usage_of
from pytreellama.serve.requests import ChatRequest
from pytreellama.serve.service import Service, respond


def chat_router(service: Service) -> APIRouter:
    """The route, for an app."""
    router = APIRouter(tags=["chat"], route_class=JsonRoute)

    @router.post(
        "/chat/completions", responses=answers_of(ChatCompletion, streams=True, chunk=ChatChunk)
    )
    async def chat_completions(body: ChatRequest, request: Request) -> Response:
        """Answer a chat; `stream` sends pieces as server-sent events."""
        writer = await begin_chat(service, body, caller_of(request))
        return await respond(service, request, writer, streams=bool(body.stream))

    return router


def _is_constrained(body: ChatRequest) -> bool:
    format = body.response_format
    has_schema = format is not None and format.type != "text"
    must_call = body.tool_choice not in (None, "auto", "none")
    return body.is_constrained or has_schema or must_call


async def begin_chat(service: Service, body: ChatRequest, caller: Caller) -> ChatWriter:
    """Queue the answers to a chat, within the caller's time.

    Raises:
        APIError: the request cannot be served.
    """
    caller = caller.slow(_is_constrained(body))
    return await caller.finish(_begin(service, body, caller))


async def _begin(service: Service, body: ChatRequest, caller: Caller) -> ChatWriter:
    service.require_model(body.model)
    service.queue.check_room(1, body.n_answers)
    if body.top_logprobs is not None and not body.logprobs:
        raise APIError(400, "top_logprobs needs logprobs: true", param="top_logprobs")
    prompt = await caller.run(partial(service.chat_prompts.prompt, body.messages, body))
    asked_tokens = body.max_tokens
    if body.max_completion_tokens is not None:
        asked_tokens = body.max_completion_tokens
    max_tokens = service.max_tokens(asked_tokens, None, len(prompt))
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    options = body.options(max_tokens, logprobs, service.settings.sampling)
    options.pop("json_schema", None)  # the prompt has it
    asked = AnswerOptions(
        [prompt.tokens.tolist()],
        body.n_answers,
        options,
        bool(body.stream),
        body.wants_steps,
        bool(body.return_progress),
        prompt,
    )
    return ChatWriter(service, body, await service.queue.begin(asked, caller), len(prompt))


class ChatWriter:
    """Puts what the engine generates into OpenAI's form.

    Attributes:
        n_prompt: tokens of the prompt.
    """

    def __init__(
        self, service: Service, body: ChatRequest, answers: Sequence[Answer], n_prompt: int
    ) -> None:
        self.n_prompt = n_prompt
        self._service = service
        self._body = body
        self.answers = answers
        self._vocab = service.engine.engine.vocab
        self._head = service.head("chatcmpl")

    async def whole(self) -> ChatCompletion:
        """See Writer."""
        chunks = await self._service.queue.whole(self.answers)
        stats = [chunk.stats for chunk in chunks if chunk.stats is not None]
        return ChatCompletion(
            **self._head,
            choices=[self._choice(a.index, c) for a, c in zip(self.answers, chunks, strict=True)],
            usage=usage_of(stats, self._body.n_answers),
            timings=timings_of(stats),
        )

    def _choice(self, index: int, chunk: Chunk) -> ChatChoice:
        assert chunk.finish_reason is not None
        reply = Reply.of(chunk.deltas)
        choice = ChatChoice(
            index=index,
            message=answer_message(reply),
            finish_reason=finish_of_reply(reply, chunk.finish_reason),
        )
        choice.stop_reason = chunk.stop_string
        if self._body.logprobs and chunk.logprobs is not None:
            choice.logprobs = chat_logprobs(self._vocab, chunk.logprobs)
        return choice

    async def events(self) -> AsyncGenerator[dict[str, Any]]:
        """See Writer."""
        head = {"object": "chat.completion.chunk", **self._head}
        for answer in self.answers:
            first = DeltaChoice(index=answer.index, delta=Delta(role="assistant", content=""))
            yield head | {"choices": [first.model_dump()]}
        writers = [DeltaWriter() for _ in self.answers]
        stats: dict[int, Stats] = {}
        async for answer, chunk in self._service.queue.pieces(self.answers):
            if chunk.stats is not None:
                stats[answer.index] = chunk.stats
            choice = self._piece(answer.index, chunk, writers[answer.index])
            event = head | {"choices": [choice.model_dump()]}
            if chunk.finish_reason is not None and chunk.stats is not None:
                event["timings"] = timings_of([chunk.stats]).model_dump()
            if answer.log is not None:
                event["pytreellama"] = {"steps": answer.log.take()}
            progress = answer.progress.take() if answer.progress else None
            if progress:
                event["prompt_progress"] = progress.model_dump()
            if answer.log is not None or progress or _says_anything(choice):
                yield event
        if self._body.wants_usage:
            usage = usage_of([stats[i] for i in sorted(stats)], self._body.n_answers)
            yield head | {"choices": [], "usage": usage.model_dump()}

    def _piece(self, index: int, chunk: Chunk, writer: DeltaWriter) -> DeltaChoice:
        choice = DeltaChoice(index=index, delta=writer.write(chunk.deltas))
        if chunk.finish_reason is not None:
            choice.finish_reason = writer.finish(chunk.finish_reason)
        choice.stop_reason = chunk.stop_string
        if self._body.logprobs and chunk.logprobs:
            choice.logprobs = chat_logprobs(self._vocab, chunk.logprobs)
        return choice


def _says_anything(choice: DeltaChoice) -> bool:
    delta = choice.delta
    said = delta.content or delta.reasoning_content or delta.tool_calls
    return bool(said or choice.finish_reason or choice.logprobs)
