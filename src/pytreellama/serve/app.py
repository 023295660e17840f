"""The app: routes and middleware around one engine."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI
from fastapi.middleware.cors import CORSMiddleware
from starlette.responses import Response

from pytreellama import __version__
from pytreellama.engine import AsyncEngine, Engine
from pytreellama.page.document import CONTENT_TYPES, asset
from pytreellama.serve.callers import Callers
from pytreellama.serve.chat_routes import chat_router
from pytreellama.serve.errors import APIError, handle_errors
from pytreellama.serve.evaluation_routes import evaluation_router
from pytreellama.serve.fact_routes import facts_router, health_router, models_router
from pytreellama.serve.middleware import (
    BodyLimitMiddleware,
    HeaderMiddleware,
    HeadMiddleware,
    HostMiddleware,
    KeyMiddleware,
)
from pytreellama.serve.openapi import describe
from pytreellama.serve.protocols.routes import ROUTERS, V1_ROUTERS
from pytreellama.serve.service import Service
from pytreellama.serve.settings import ServerSettings
from pytreellama.serve.text_routes import text_router
from pytreellama.serve.token_routes import token_router

_log = logging.getLogger(__name__)

_DESCRIPTION = """OpenAI's API for a local model that decodes speculatively with draft trees:
every request's tree is verified in one pass. Every answer is what the model writes alone."""


def make_app(engine: Engine, settings: ServerSettings) -> FastAPI:
    """An ASGI app that serves an engine, and closes it when it is shut down.

    Args:
        engine: with ``n_cached_prefixes``, if prompts of different requests are to share prefixes.
    """
    service = Service(AsyncEngine(engine=engine), settings)
    app = FastAPI(
        title="pytreellama",
        version=__version__,
        description=_DESCRIPTION,
        docs_url=None,  # they load scripts from elsewhere
        redoc_url=None,
        lifespan=lambda app: _lifespan(service),
    )
    for make_router in (text_router, chat_router, evaluation_router, models_router, *V1_ROUTERS):
        _include_twice(app, make_router(service), documented="/v1", other="")
    _include_twice(app, health_router(service), documented="", other="/v1")
    for make_router in (token_router, facts_router, *ROUTERS):
        app.include_router(make_router(service))
    app.include_router(_page_router())
    handle_errors(app)
    describe(app, bool(settings.api_keys))
    # the last one added sees a request first
    app.add_middleware(BodyLimitMiddleware, max_bytes=settings.max_body_bytes)
    app.add_middleware(KeyMiddleware, keys=settings.api_keys)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],  # clients tell much of themselves in headers
        )
    app.add_middleware(HostMiddleware, hosts=settings.allowed_hosts)
    app.add_middleware(HeaderMiddleware, on_error=service.metrics.count_error)
    app.add_middleware(HeadMiddleware)
    app.state.service = service
    app.state.callers = Callers(
        service.workers, settings.request_s, lambda: service.queue.retry_after_s
    )
    return app


@asynccontextmanager
async def _lifespan(service: Service) -> AsyncIterator[None]:
    engine, path = service.engine.engine, service.settings.prefix_cache_file
    await asyncio.to_thread(engine.prepare)
    if path is not None:
        n_prefixes = await asyncio.to_thread(engine.load_prefix_cache, path)
        _log.info("%d cached prefixes are loaded from %s", n_prefixes, path)
    yield
    service.end_all()
    if path is not None:
        await asyncio.to_thread(_save_prefix_cache, engine, path)
    await service.engine.close()


def _save_prefix_cache(engine: Engine, path: str) -> None:
    try:
        n_prefixes = engine.save_prefix_cache(path)
        _log.info("%d cached prefixes are saved to %s", n_prefixes, path)
    except OSError as error:
        _log.warning("the prefix cache cannot be saved to %s: %s", path, error)


def _include_twice(app: FastAPI, router: APIRouter, *, documented: str, other: str) -> None:
    """Clients differ in whether they write the version into paths."""
    app.include_router(router, prefix=documented)
    app.include_router(router, prefix=other, include_in_schema=False)


def _page_router() -> APIRouter:
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    async def page() -> Response:
        return _asset("index.html")

    @router.get("/assets/{name}")
    async def assets(name: str) -> Response:
        if name not in CONTENT_TYPES or name == "index.html":
            raise APIError(404, f"there is no {name!r}")
        return _asset(name)

    return router


def _asset(name: str) -> Response:
    return Response(asset(name), headers={"Content-Type": CONTENT_TYPES[name]})
