"""Facts of the server: its model, properties, slots, health and metrics."""

from __future__ import annotations

from fastapi import APIRouter, Path
from starlette.responses import Response

from pytreellama import __version__
from pytreellama.serve.answers import Health, ModelCard, ModelList, Properties, Slot
from pytreellama.serve.errors import APIError
from pytreellama.serve.openapi import answers_of, errors
from pytreellama.serve.service import Service, json_response


def models_router(service: Service) -> APIRouter:
    """The routes of models, for an app."""
    router = APIRouter(tags=["facts"])

    @router.get("/models", responses=answers_of(ModelList) | errors(401, 403, 500))
    async def models() -> Response:
        """The model that is served, under each of its names."""
        names = (service.settings.model_name, *service.settings.aliases)
        return json_response(ModelList(data=[_card(service, name) for name in names]))

    @router.get("/models/{model}", responses=answers_of(ModelCard))
    async def model(model: str = Path(description="The model's name.")) -> Response:
        """The model, if it is the one that is served."""
        service.require_model(model)
        return json_response(_card(service, model))

    return router


def health_router(service: Service) -> APIRouter:
    """The route of the engine's health, for an app."""
    router = APIRouter(tags=["facts"])

    @router.get("/health", responses=errors(403, 500, 503) | {200: {"model": Health}})
    async def health() -> Response:
        """Does the engine run?"""
        if service.engine.engine.is_closed:
            raise APIError(503, "the engine does not run")
        return json_response(Health(status="ok"))

    return router


def facts_router(service: Service) -> APIRouter:
    """The other routes, for an app."""
    router = APIRouter(tags=["facts"])

    @router.get("/props", responses=errors(401, 403, 500) | {200: {"model": Properties}})
    async def props() -> Response:
        """The model, its template and the server's defaults, as llama-server tells them."""
        return json_response(_properties(service))

    @router.get("/slots", responses=errors(401, 403, 500) | {200: {"model": list[Slot]}})
    async def slots() -> list[Slot]:
        """Which of the sequences that run at the same time are in use."""
        engine = service.engine.engine
        n_running = engine.load.n_running
        return [
            Slot(id=i, n_ctx=service.text_limit.n_tokens, is_processing=i < n_running)
            for i in range(engine.n_seq_max)
        ]

    @router.get(
        "/metrics",
        responses=errors(401, 403, 500)
        | {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
        response_class=Response,
    )
    async def metrics() -> Response:
        """Counts and times, for Prometheus."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    return router


def _properties(service: Service) -> Properties:
    engine = service.engine.engine
    vocab = engine.vocab

    def text_of(token: int | None) -> str:
        return "" if token is None else vocab.piece_text(token)

    settings = {"n_ctx": service.text_limit.n_tokens, "params": dict(service.settings.sampling)}
    return Properties(
        default_generation_settings=settings,
        total_slots=engine.n_seq_max,
        model_alias=service.settings.model_name,
        model_path=engine.model.path.name,
        chat_template=engine.model.chat_template or "",
        bos_token=text_of(vocab.bos),
        eos_token=text_of(vocab.eos),
        modalities={"vision": False, "audio": False},
        build_info=f"pytreellama {__version__}",
    )


def _card(service: Service, name: str) -> ModelCard:
    engine = service.engine.engine
    model = engine.model
    return ModelCard(
        id=name,
        created=service.created,
        meta={
            "description": model.description,
            "n_ctx": engine.n_ctx,
            "n_ctx_train": model.n_ctx_train,
            "n_embd": model.n_embd_out,
            "n_params": model.n_params,
            "n_vocab": engine.vocab.n_tokens,
            "size": model.size,
        },
    )
