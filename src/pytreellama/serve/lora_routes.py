"""`/lora-adapters`: the LoRA adapters of the server, and their scales."""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, RootModel
from starlette.responses import Response

from pytreellama.serve.bodies import JsonRoute, caller_of
from pytreellama.serve.errors import api_error_of
from pytreellama.serve.lora_scales import LoraList, scales_by_name
from pytreellama.serve.openapi import answers_of, errors
from pytreellama.serve.service import Service


class LoraScaleList(RootModel[LoraList]):
    """For ``POST /lora-adapters``."""

    model_config = ConfigDict(json_schema_extra={"examples": [[]]})


class LoraAdapter(BaseModel):
    """An adapter of the server."""

    id: int
    name: str
    path: str
    scale: float = Field(description="Of requests without `lora`.")


class LoraAdapterList(RootModel[list[LoraAdapter]]):
    """Of ``/lora-adapters``."""


def lora_router(service: Service) -> APIRouter:
    """The routes, for an app."""
    router = APIRouter(tags=["facts"])

    @router.get(
        "/lora-adapters", responses=errors(401, 403, 500) | {200: {"model": LoraAdapterList}}
    )
    async def adapters() -> list[LoraAdapter]:
        """The LoRA adapters, with the scales that requests without `lora` use."""
        return _adapters(service)

    changing = APIRouter(tags=["facts"], route_class=JsonRoute)

    @changing.post("/lora-adapters", responses=answers_of(LoraAdapterList))
    async def change(body: LoraScaleList, request: Request) -> Response:
        """Set the scales that later requests without `lora` use; those left out become 0."""
        caller = caller_of(request)
        return await caller.finish(caller.run(partial(_change, service, body)))

    router.include_router(changing)
    return router


def _adapters(service: Service) -> list[LoraAdapter]:
    engine = service.engine.engine
    scales, adapters = engine.lora_scales, engine.adapters
    return [
        LoraAdapter(id=i, name=name, path=adapters.path(name).name, scale=scales.get(name, 0.0))
        for i, name in enumerate(adapters.names)
    ]


def _change(service: Service, body: LoraScaleList) -> Response:
    engine = service.engine.engine
    scales = scales_by_name(body.root, engine.adapters.names)
    assert scales is not None
    try:
        engine.lora_scales = scales
    except Exception as error:
        raise api_error_of(error, service.queue.retry_after_s) from error
    answer = LoraAdapterList(_adapters(service))
    return Response(answer.model_dump_json(), media_type="application/json")
