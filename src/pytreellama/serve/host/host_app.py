"""The app of several models: gives each request to the app of the model that it asks for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import parse_qs

from fastapi import APIRouter, FastAPI, Path, Request
from pydantic import BaseModel, ValidationError
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from pytreellama.serve.answers import Health, ModelCard, ModelList
from pytreellama.serve.app import add_middleware, page_router
from pytreellama.serve.bodies import require_own_page
from pytreellama.serve.callers import QUICK_BYTES
from pytreellama.serve.errors import APIError, handle_errors
from pytreellama.serve.host.labelled_metrics import HostMetrics
from pytreellama.serve.host.model_host import HostedModel, ModelHost
from pytreellama.serve.middleware import needs_key
from pytreellama.serve.service import json_response
from pytreellama.serve.settings import ServerSettings

_OF_ANY_MODEL = ("/props", "/slots", "/openapi.json", "/lora-adapters")
"""What a GET without a model may load one for."""


def make_host_app(host: ModelHost, settings: ServerSettings) -> FastAPI:
    """An ASGI app that serves several models, and closes them when it is shut down.

    Args:
        settings: of these, keys, hosts, origins, limits of bodies and ``is_any_model`` count.
    """
    metrics = HostMetrics(host)
    app = FastAPI(
        title="pytreellama",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,  # that of a model's app has all routes
        lifespan=lambda app: _lifespan(host),
    )
    for prefix in ("/v1", ""):
        app.include_router(_models_router(host), prefix=prefix)
    app.include_router(_facts_router(host, metrics))
    app.include_router(page_router())
    app.mount("/", _Dispatcher(host, settings.is_any_model))
    handle_errors(app)
    add_middleware(app, settings, metrics.count_error)
    app.state.service = host
    return app


@asynccontextmanager
async def _lifespan(host: ModelHost) -> AsyncIterator[None]:
    watching = asyncio.create_task(host.watch())
    try:
        yield
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
        await host.close()


def _models_router(host: ModelHost) -> APIRouter:
    router = APIRouter()

    @router.get("/models")
    async def models() -> Response:
        return json_response(ModelList(data=[_card(model) for model in host.models.values()]))

    @router.get("/models/{name}")
    async def model(name: str = Path()) -> Response:
        return json_response(_card(_named(host, name)))

    @router.post("/models/{name}/load")
    async def load(request: Request, name: str = Path()) -> Response:
        require_own_page(request)
        model = _named(host, name)
        async with host.use(model):
            return json_response(_card(model))

    @router.post("/models/{name}/unload")
    async def unload(request: Request, name: str = Path()) -> Response:
        require_own_page(request)
        model = _named(host, name)
        await host.unload(model)
        return json_response(_card(model))

    return router


def _facts_router(host: ModelHost, metrics: HostMetrics) -> APIRouter:
    router = APIRouter()

    @router.get("/health")
    @router.get("/v1/health")
    async def health() -> Response:
        for model in host.loaded:
            if model.service is not None and model.service.engine.engine.is_closed:
                raise APIError(503, f"the engine of {model.name} does not run")
        return json_response(Health(status="ok"))

    @router.get("/metrics")
    async def numbers() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    return router


def _named(host: ModelHost, name: str) -> HostedModel:
    model = host.models.get(name)
    if model is None:
        raise APIError(
            404,
            f"the model {name!r} is not served here; there is "
            f"{' or '.join(map(repr, host.models))} (--any-model takes any name)",
            param="model",
            code="model_not_found",
        )
    return model


def _card(model: HostedModel) -> ModelCard:
    meta: dict[str, int | str] = {"status": model.state}
    with suppress(OSError):
        meta["size"] = model.path.stat().st_size
    service = model.service
    if service is not None:
        meta["n_ctx"] = service.engine.engine.n_ctx
    return ModelCard(id=model.name, created=0, meta=meta)


class _Named(BaseModel):
    """All that is read of a body here."""

    model: str | None = None


class _Dispatcher:
    """Reads which model a request asks for, and lets that model's app answer."""

    def __init__(self, host: ModelHost, is_any_model: bool) -> None:
        self._host = host
        self._is_any_model = is_any_model

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] != "http":
            return
        if not needs_key(scope["path"]):
            await self._answer_open(scope, receive, send)
            return
        body = await _body(receive)
        name = _in_query(scope) or await _in_body(body)
        if name is None and scope["method"] == "GET":
            self._require_known(scope["path"])
        model = self._model(name)
        async with self._host.use(model) as app:
            await app({**scope, "root_path": ""}, _again(body, receive), send)

    async def _answer_open(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer what needs no key: it chooses no model, and loads none beside another."""
        if scope["path"] != "/openapi.json" or scope["method"] != "GET":
            raise APIError(404, "Not Found")
        async with self._host.use(self._host.default()) as app:
            await app({**scope, "root_path": ""}, receive, send)

    def _require_known(self, path: str) -> None:
        """Refuse what no model answers to, before one is loaded for it."""
        if not self._host.loaded and path not in _OF_ANY_MODEL:
            raise APIError(404, "Not Found")

    def _model(self, name: str | None) -> HostedModel:
        if name is None or (self._is_any_model and name not in self._host.models):
            return self._host.default()
        return _named(self._host, name)


async def _body(receive: Receive) -> bytes:
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise APIError(499, "the client went away")
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    """What an app receives that comes after the body was read."""
    is_told = False

    async def received() -> Message:
        nonlocal is_told
        if is_told:
            return await receive()
        is_told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return received


def _in_query(scope: Scope) -> str | None:
    names = parse_qs(scope["query_string"].decode("latin-1")).get("model")
    return names[0] if names else None


async def _in_body(body: bytes) -> str | None:
    """The model that a JSON body asks for; None if it asks for none."""
    if not body:
        return None
    if len(body) > QUICK_BYTES:
        return await asyncio.to_thread(_model_of, body)
    return _model_of(body)


def _model_of(body: bytes) -> str | None:
    try:
        return _Named.model_validate_json(body.removeprefix(b"\xef\xbb\xbf")).model
    except ValidationError as error:
        what = error.errors(include_url=False, include_input=False)[0]
        if what["loc"]:
            raise APIError(400, f"model: {what['msg']}", param="model") from None
        if what["type"] != "json_invalid":  # an array, as some routes take
            return None
        raise APIError(400, f"the body is not JSON: {what['msg']}") from None
