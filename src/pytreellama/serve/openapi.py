"""The OpenAPI document, made of the routes, without what the framework would promise wrongly."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from pytreellama.serve.answers import ErrorBody
from pytreellama.serve.middleware import needs_key

_CHUNKS: set[type[BaseModel]] = set()  # no answers as a whole: the framework knows none of them
_REF = "#/components/schemas/{model}"

_ERRORS = {
    400: "The request cannot be served as it is.",
    401: "The API key is missing or wrong.",
    403: "The server was called by a name that is not its own.",
    404: "There is no such model.",
    413: "The body is too large.",
    429: "Too many requests; `Retry-After` says when to ask again.",
    500: "The server failed.",
    503: "The server is too busy, or its engine does not run.",
}


def answers_of(
    model: type[BaseModel],
    *,
    streams: bool = False,
    lines: bool = False,
    chunk: type[BaseModel] | None = None,
    error: type[BaseModel] = ErrorBody,
) -> dict[int | str, dict[str, Any]]:
    """The responses of a route, errors included.

    Args:
        streams: it may answer in server-sent events too.
        lines: it may answer in JSON lines too.
        chunk: what an event holds, where that is not the whole answer's form.
        error: the form of errors.
    """
    success: dict[str, Any] = {"model": model, "description": "The answer."}
    if streams:
        success["content"] = {"text/event-stream": {"itemSchema": _event(chunk or model, error)}}
    if lines:
        forms = [{"$ref": _REF.format(model=one.__name__)} for one in (model, error)]
        success["content"] = {"application/x-ndjson": {"itemSchema": {"anyOf": forms}}}
    if chunk is not None:
        _CHUNKS.add(chunk)
    return {200: success} | errors(error=error)


def _event(model: type[BaseModel], error: type[BaseModel]) -> dict[str, Any]:
    """An event of a stream: a piece of the answer, an error in mid-stream, or the end."""
    forms = [{"$ref": _REF.format(model=one.__name__)} for one in (model, error)]
    written = {
        "type": "string",
        "contentMediaType": "application/json",
        "contentSchema": {"anyOf": forms},
    }
    data = {"anyOf": [{"const": "[DONE]"}, written]}
    return {"type": "object", "properties": {"data": data}, "required": ["data"]}


def errors(*statuses: int, error: type[BaseModel] = ErrorBody) -> dict[int | str, dict[str, Any]]:
    """What a route may answer instead; all of them by default."""
    return {
        status: {"model": error, "description": text}
        for status, text in _ERRORS.items()
        if not statuses or status in statuses
    }


def describe(app: FastAPI, has_keys: bool) -> None:
    """Let an app's document say what is true of it."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app, has_keys)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _document(app: FastAPI, has_keys: bool) -> dict[str, Any]:
    document = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    for path, operations in document["paths"].items():
        for operation in operations.values():
            # errors have OpenAI's form here, with a status of 400
            operation["responses"].pop("422", None)
            if has_keys and needs_key(path):
                operation["security"] = [{"key": []}]
    schemas = document["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for chunk in _CHUNKS:
        schema = chunk.model_json_schema(ref_template=_REF, mode="serialization")
        schemas |= {**schema.pop("$defs", {}), chunk.__name__: schema, **schemas}
    if has_keys:
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return document
