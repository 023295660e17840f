"""`/v1/messages` and `/v1/messages/count_tokens`: Anthropic's API."""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter, Request
from starlette.responses import Response

from pytreellama.serve.bodies import JsonRoute, caller_of
from pytreellama.serve.error_forms import AnthropicErrorBody
from pytreellama.serve.openapi import answers_of
from pytreellama.serve.protocols.anthropic_answers import (
    AnthropicCount,
    AnthropicEvent,
    AnthropicMessage,
    AnthropicTranslator,
)
from pytreellama.serve.protocols.anthropic_requests import AnthropicPrompt, AnthropicRequest
from pytreellama.serve.protocols.chats import respond_chat
from pytreellama.serve.service import Service, json_response
from pytreellama.serve.stream_forms import ANTHROPIC


def anthropic_router(service: Service) -> APIRouter:
    """The routes, for an app."""
    router = APIRouter(tags=["Anthropic"], route_class=JsonRoute)

    @router.post(
        "/messages",
        responses=answers_of(
            AnthropicMessage, streams=True, chunk=AnthropicEvent, error=AnthropicErrorBody
        ),
    )
    async def messages(body: AnthropicRequest, request: Request) -> Response:
        """Answer messages in Anthropic's form; `stream` sends its events."""
        caller = caller_of(request)
        chat = await caller.finish(caller.run(body.chat))
        translator = AnthropicTranslator(service.settings.model_name)
        return await respond_chat(service, request, caller, chat, translator, ANTHROPIC)

    @router.post(
        "/messages/count_tokens", responses=answers_of(AnthropicCount, error=AnthropicErrorBody)
    )
    async def count_tokens(body: AnthropicPrompt, request: Request) -> Response:
        """Tokens of the prompt that messages become."""
        caller = caller_of(request)
        return await caller.finish(caller.run(partial(_count, service, body)))

    return router


def _count(service: Service, body: AnthropicPrompt) -> Response:
    service.require_model(body.model)
    chat = body.chat()
    n_tokens = len(service.chat_prompts.tokens(chat.messages, chat))
    return json_response(AnthropicCount(input_tokens=n_tokens))
