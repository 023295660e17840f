"""Requests of other protocols as the chats and texts that they mean, checked."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import ValidationError

from pytreellama.serve.requests import ChatRequest, CompletionRequest, Generating
from pytreellama.serve.validation import api_error_of_validation


def chat_request(values: dict[str, Any]) -> ChatRequest:
    """A chat that a protocol's request means.

    Raises:
        APIError: a value that no chat may have.
    """
    return _valid(ChatRequest, values)


def completion_request(values: dict[str, Any]) -> CompletionRequest:
    """A text that a protocol's request means; raises as ``chat_request``."""
    return _valid(CompletionRequest, values)


_Body = TypeVar("_Body", bound=Generating)


def _valid(model: type[_Body], values: dict[str, Any]) -> _Body:
    if values.get("stream"):
        values["stream_options"] = {"include_usage": True}
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise api_error_of_validation(error, values, model) from None
