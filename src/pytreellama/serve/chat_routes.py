"""`/v1/chat/completions`: answers to messages, or calls of functions."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from pytreellama.engine import Chunk, Stats
from pytreellama.serve.answers import (
    AnswerCall,
    AnswerMessage,
    CalledFunction,
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    Delta,
    DeltaChoice,
    Finish,
    new_id,
)
from pytreellama.serve.bodies import JsonRoute, caller_of
from pytreellama.serve.callers import Caller
from pytreellama.serve.calls import Call, CallWatch
from pytreellama.serve.chat_prompts import answer_schema, must_call
from pytreellama.serve.errors import APIError
from pytreellama.serve.logprobs import chat_logprobs
from pytreellama.serve.openapi import answers_of
from pytreellama.serve.request_queue import Answer, AnswerOptions, finish_of, timings_of, usage_of
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
    """Must a grammar or schema be compiled for it? Any of a client's may take long."""
    format = body.response_format
    has_schema = format is not None and format.type != "text"
    texts = (body.grammar, body.json_schema)
    return any(text is not None for text in texts) or has_schema or must_call(body)


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
    prompt, schema = await caller.run(partial(_prepare, service, body))
    asked_tokens = body.max_tokens
    if body.max_completion_tokens is not None:
        asked_tokens = body.max_completion_tokens
    max_tokens = service.max_tokens(asked_tokens, None, len(prompt))
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    options = body.options(max_tokens, logprobs, service.settings.sampling)
    if schema is not None:
        options["json_schema"] = schema
    asked = AnswerOptions(
        [prompt],
        body.n_answers,
        options,
        bool(body.stream),
        body.wants_steps,
        bool(body.return_progress),
    )
    return ChatWriter(service, body, await service.queue.begin(asked, caller), len(prompt))


def _prepare(service: Service, body: ChatRequest) -> tuple[list[int], dict[str, Any] | None]:
    """The prompt's token ids, and the schema of the answer if there is one."""
    schema = answer_schema(body)
    if schema is not None and body.grammar is not None:
        raise APIError(400, "give a grammar or a schema, not both", param="grammar")
    return service.chat_prompts.tokens(body.messages, body), schema


class ChatWriter:
    """Puts what the engine writes into OpenAI's form, and finds calls in it.

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
        functions = [] if body.tool_choice == "none" else body.tools or []
        self._functions = {f.function.name: f.function.parameters or {} for f in functions}

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
        text, calls, finish = self._read(chunk, CallWatch(self._functions))
        assert finish is not None
        message = AnswerMessage(content=(text.rstrip() or None) if calls else text)
        if calls:
            message.tool_calls = [_answer_call(call) for call in calls]
        choice = ChatChoice(index=index, message=message, finish_reason=finish)
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
        watches = [CallWatch(self._functions) for _ in self.answers]
        stats: dict[int, Stats] = {}
        async for answer, chunk in self._service.queue.pieces(self.answers):
            if chunk.stats is not None:
                stats[answer.index] = chunk.stats
            choice = self._piece(answer.index, chunk, watches[answer.index])
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

    def _piece(self, index: int, chunk: Chunk, watch: CallWatch) -> DeltaChoice:
        text, calls, finish = self._read(chunk, watch)
        delta = Delta(content=text or None)
        if calls:
            delta.tool_calls = [_answer_call(call, i) for i, call in enumerate(calls)]
        choice = DeltaChoice(index=index, delta=delta, finish_reason=finish)
        choice.stop_reason = chunk.stop_string
        if self._body.logprobs and chunk.logprobs:
            choice.logprobs = chat_logprobs(self._vocab, chunk.logprobs)
        return choice

    def _read(self, chunk: Chunk, watch: CallWatch) -> tuple[str, list[Call], Finish | None]:
        """A piece's text without calls; at the end the calls, and why it is the end."""
        text, calls = chunk.text, list[Call]()
        finish = None if chunk.finish_reason is None else finish_of(chunk.finish_reason)
        if self._functions:
            text = watch.push(text)
            if finish is not None:
                rest, calls = watch.finish(is_cut=finish == "length")
                text += rest
        # an answer that was cut in a call has come to its limit, as any other
        return text, calls, "tool_calls" if calls and calls[-1].is_whole else finish


def _says_anything(choice: DeltaChoice) -> bool:
    return bool(choice.delta.content or choice.finish_reason or choice.logprobs)


def _answer_call(call: Call, index: int | None = None) -> AnswerCall:
    function = CalledFunction(name=call.name, arguments=call.arguments)
    return AnswerCall(id=new_id("call"), function=function, index=index)
