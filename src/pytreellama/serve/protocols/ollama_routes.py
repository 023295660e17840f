"""`/api/...`: Ollama's API, for tools that know no other."""

from __future__ import annotations

import hashlib
import time
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from pytreellama import __version__
from pytreellama.chat.template import ChatTemplate
from pytreellama.errors import ChatTemplateError
from pytreellama.serve.answers import Embedded
from pytreellama.serve.bodies import JsonRoute, caller_of
from pytreellama.serve.callers import Caller
from pytreellama.serve.error_forms import OllamaErrorBody
from pytreellama.serve.evaluation_routes import embed
from pytreellama.serve.openapi import answers_of
from pytreellama.serve.protocols.chats import respond_chat, respond_text
from pytreellama.serve.protocols.ollama_answers import (
    OllamaChat,
    OllamaDetails,
    OllamaEmbeddings,
    OllamaModel,
    OllamaModels,
    OllamaRunning,
    OllamaRunningModels,
    OllamaShown,
    OllamaText,
    OllamaTranslator,
    OllamaVersion,
    loaded,
    time_of,
)
from pytreellama.serve.protocols.ollama_requests import (
    OllamaChatRequest,
    OllamaEmbedRequest,
    OllamaGenerateRequest,
    OllamaShowRequest,
    plain_name,
)
from pytreellama.serve.requests import EmbeddingRequest
from pytreellama.serve.service import Service, json_response
from pytreellama.serve.stream_forms import OLLAMA

_FOREVER = "9999-12-31T23:59:59Z"


def ollama_router(service: Service) -> APIRouter:
    """The routes, for an app."""
    router = APIRouter(tags=["Ollama"], prefix="/api")
    router.include_router(_post_router(service))

    @router.get("/tags", responses=answers_of(OllamaModels, error=OllamaErrorBody))
    async def tags() -> Response:
        """The models that are served."""
        return json_response(OllamaModels(models=[_model(service)]))

    @router.get("/ps", responses=answers_of(OllamaRunningModels, error=OllamaErrorBody))
    async def running() -> Response:
        """The models that are loaded."""
        facts = _model(service).model_dump(exclude={"modified_at"})
        one = OllamaRunning(
            **facts,
            expires_at=_FOREVER,
            size_vram=0,
            context_length=service.text_limit.n_tokens,
        )
        return json_response(OllamaRunningModels(models=[one]))

    @router.get("/version", responses=answers_of(OllamaVersion, error=OllamaErrorBody))
    async def version() -> Response:
        """This server's version."""
        return json_response(OllamaVersion(version=__version__))

    return router


def _post_router(service: Service) -> APIRouter:
    router = APIRouter(route_class=JsonRoute)

    @router.post("/chat", responses=answers_of(OllamaChat, lines=True, error=OllamaErrorBody))
    async def chat(body: OllamaChatRequest, request: Request) -> Response:
        """Answer messages, by default as a stream of JSON lines."""
        service.require_model(plain_name(body.model))
        caller = caller_of(request)
        if not body.messages:
            return json_response(loaded(body.model, is_chat=True))
        chat = await caller.finish(caller.run(body.chat))
        translator = OllamaTranslator(body.model, is_chat=True)
        return await respond_chat(service, request, caller, chat, translator, OLLAMA)

    @router.post("/generate", responses=answers_of(OllamaText, lines=True, error=OllamaErrorBody))
    async def generate(body: OllamaGenerateRequest, request: Request) -> Response:
        """Answer a prompt, or continue it, by default as a stream of JSON lines."""
        service.require_model(plain_name(body.model))
        caller = caller_of(request)
        if not (body.prompt or body.suffix):
            return json_response(loaded(body.model, is_chat=False))
        translator = OllamaTranslator(body.model, is_chat=False)
        if body.is_chat:
            return await respond_chat(service, request, caller, body.chat(), translator, OLLAMA)
        text = body.completion()
        return await respond_text(service, request, caller, text, translator, OLLAMA)

    @router.post("/show", responses=answers_of(OllamaShown, error=OllamaErrorBody))
    async def show(body: OllamaShowRequest, request: Request) -> Response:
        """A model's template and facts."""
        service.require_model(plain_name(body.model or body.name))
        return Response(_shown(service).model_dump_json(by_alias=True), media_type=_JSON)

    @router.post("/embed", responses=answers_of(OllamaEmbeddings, error=OllamaErrorBody))
    async def embeddings(body: OllamaEmbedRequest, request: Request) -> Response:
        """Vectors of texts."""
        caller = caller_of(request)
        return await caller.finish(_embed(service, body, caller))

    return router


_JSON = "application/json"


async def _embed(service: Service, body: OllamaEmbedRequest, caller: Caller) -> Response:
    asked = EmbeddingRequest(
        model=plain_name(body.model),
        input=body.input,
        dimensions=body.dimensions,
        parse_special=None,
        user=None,
    )
    embedded = await embed(service, asked, caller)
    answer = OllamaEmbeddings(
        model=body.model,
        embeddings=[_vector(one) for one in embedded.data],
        total_duration=round(1e9 * (time.perf_counter() - caller.asked_s)),
        prompt_eval_count=embedded.usage.prompt_tokens,
    )
    return await caller.run(partial(json_response, answer))


def _vector(one: Embedded) -> list[float]:
    assert isinstance(one.embedding, list)
    return one.embedding


def _name(service: Service) -> str:
    """Tools look for a tag in names."""
    name = service.settings.model_name
    return name if ":" in name else f"{name}:latest"


def _model(service: Service) -> OllamaModel:
    model, name = service.engine.engine.model, _name(service)
    modified = time_of(model.path.stat().st_mtime) if model.path.exists() else time_of(0)
    return OllamaModel(
        name=name,
        model=name,
        modified_at=modified,
        size=model.size,
        # of a file's contents for Ollama; no client computes it
        digest=hashlib.sha256(f"{model.path.name} {model.size}".encode()).hexdigest(),
        details=_details(service),
    )


def _details(service: Service) -> OllamaDetails:
    model = service.engine.engine.model
    return OllamaDetails(
        family=model.architecture,
        families=[model.architecture],
        parameter_size=_short(model.n_params),
        quantization_level=model.file_type,
    )


def _short(n: int) -> str:
    """A number of weights as model cards write it."""
    for unit, letter in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if n >= unit:
            return f"{n / unit:.3g}{letter}"
    return str(n)


def _shown(service: Service) -> OllamaShown:
    model = service.engine.engine.model
    defaults = service.settings.sampling
    return OllamaShown(
        modelfile=f"FROM {model.path.name}",
        parameters="\n".join(f"{name} {value:g}" for name, value in defaults.items()),
        template=model.chat_template or "",
        details=_details(service),
        info=_metadata(service),
        capabilities=_capabilities(service),
        modified_at=_model(service).modified_at,
    )


def _metadata(service: Service) -> dict[str, Any]:
    """The file's metadata; numbers as numbers."""
    model = service.engine.engine.model
    facts: dict[str, Any] = {
        name: int(text) if text.isdecimal() and text.isascii() and len(text) < 16 else text
        for name, text in model.metadata.items()
        if name != "tokenizer.chat_template"
    }
    return facts | {"general.parameter_count": model.n_params}


def _capabilities(service: Service) -> list[str]:
    model = service.engine.engine.model
    capabilities = ["completion"]
    try:
        template = ChatTemplate.of_model(model, has_tools=True).source
    except ChatTemplateError:
        template = ""
    if template:
        capabilities.append("tools")  # a template that knows none is told of them in words
    if "enable_thinking" in template or "reasoning_content" in template:
        capabilities.append("thinking")
    if model.vocab.infill_tokens is not None:
        capabilities.append("insert")
    return capabilities
