"""`/v1/responses`: OpenAI's newer API."""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter, Path, Request
from starlette.responses import Response

from pytreellama.serve.bodies import JsonRoute, caller_of
from pytreellama.serve.callers import Caller, client_of
from pytreellama.serve.openapi import answers_of
from pytreellama.serve.protocols.chats import respond_chat
from pytreellama.serve.protocols.response_store import ResponseStore
from pytreellama.serve.protocols.responses_answers import (
    ResponseDeleted,
    ResponseEvent,
    ResponseObject,
    ResponsesTranslator,
)
from pytreellama.serve.protocols.responses_requests import MessageValues, ResponsesRequest
from pytreellama.serve.service import Service, json_response
from pytreellama.serve.stream_forms import RESPONSES


def responses_router(service: Service) -> APIRouter:
    """The routes, for an app."""
    store = ResponseStore()
    router = APIRouter(tags=["responses"])
    posts = APIRouter(route_class=JsonRoute)

    @posts.post(
        "/responses", responses=answers_of(ResponseObject, streams=True, chunk=ResponseEvent)
    )
    async def responses(body: ResponsesRequest, request: Request) -> Response:
        """Answer an input; `stream` sends events."""
        return await _respond(service, store, body, request)

    router.include_router(posts)
    id_path = Path(description="The response's id.")

    @router.get("/responses/{id}", responses=answers_of(ResponseObject))
    async def stored(request: Request, id: str = id_path) -> Response:
        """A response that was stored."""
        return json_response(store.get(client_of(request), id).response)

    @router.delete("/responses/{id}", responses=answers_of(ResponseDeleted))
    async def delete(request: Request, id: str = id_path) -> Response:
        """Forget a response that was stored."""
        store.remove(client_of(request), id)
        return json_response(ResponseDeleted(id=id))

    return router


async def _respond(
    service: Service, store: ResponseStore, body: ResponsesRequest, request: Request
) -> Response:
    caller = caller_of(request)
    earlier: tuple[MessageValues, ...] = ()
    if body.previous_response_id is not None:
        previous = store.get(caller.client, body.previous_response_id, "previous_response_id")
        earlier = previous.messages
    chat = await caller.finish(caller.run(partial(body.chat, earlier)))
    translator = ResponsesTranslator(
        body, service.settings.model_name, partial(_keep, store, caller, body, earlier)
    )
    return await respond_chat(service, request, caller, chat, translator, RESPONSES)


def _keep(
    store: ResponseStore,
    caller: Caller,
    body: ResponsesRequest,
    earlier: tuple[MessageValues, ...],
    response: ResponseObject,
    message: MessageValues,
) -> None:
    if body.store is not False:
        store.add(caller.client, response, [*earlier, *body.messages(), message])
