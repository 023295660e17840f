"""The forms that errors have in each protocol, chosen by the path that was asked for."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

from pytreellama.serve.answers import ErrorBody

_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


class AnthropicErrorFacts(BaseModel):
    """What went wrong."""

    type: str
    message: str


class AnthropicErrorBody(BaseModel):
    """Of every answer of Anthropic's API with a status of 400 and more."""

    type: Literal["error"] = "error"
    error: AnthropicErrorFacts


class OllamaErrorBody(BaseModel):
    """Of every answer of Ollama's API with a status of 400 and more."""

    error: str


def error_content(path: str, status: int, body: ErrorBody) -> dict[str, Any]:
    """The JSON object that says what went wrong, as clients of a path read it."""
    if is_anthropic(path):
        return anthropic_error(status, body)
    if path.startswith("/api/"):
        return ollama_error(status, body)
    return body.model_dump()


def is_anthropic(path: str) -> bool:
    """True for the paths of Anthropic's API."""
    return path.removeprefix("/v1").startswith("/messages")


def anthropic_error(status: int, body: ErrorBody) -> dict[str, Any]:
    """As Anthropic's client reads it."""
    kind = _ANTHROPIC_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    facts = AnthropicErrorFacts(type=kind, message=body.error.message)
    return AnthropicErrorBody(error=facts).model_dump()


def ollama_error(status: int, body: ErrorBody) -> dict[str, Any]:
    """As Ollama's client reads it."""
    return OllamaErrorBody(error=body.error.message).model_dump()
