"""Bodies of requests: from bytes to a checked model, without holding up the event loop."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Sequence
from email.message import Message
from functools import partial
from typing import Any

from fastapi import Request
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from pytreellama.serve.callers import QUICK_BYTES, Caller, Callers
from pytreellama.serve.errors import APIError
from pytreellama.serve.validation import api_error_of_validation

N_CONTAINERS_MAX = 1 << 15
"""Objects and arrays in one body; 4,096 messages of parts need fewer."""
N_KEYS_MAX = 1 << 16
"""Keys of all objects in one body; a ``logit_bias`` for most of a vocabulary needs fewer."""
N_VALUES_MAX = 1 << 20
"""Elements in one body; token ids are most of these."""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_PIECE_BYTES = 1 << 16


class JsonRoute(APIRoute):
    """A route whose one body is a pydantic model.

    The framework parses and checks bodies in the event loop, which for a few megabytes takes
    seconds. This one leaves large bodies to the worker threads, and refuses those with more
    elements than any valid request has before it makes objects of them.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler; the endpoint is called with ``body`` and ``request``."""
        field = self.body_field
        assert field is not None, f"{self.path} has no body"
        model: type[BaseModel] = field.field_info.annotation  # type: ignore[assignment]

        async def handle(request: Request) -> Response:
            try:
                content = await request.body()
            except ClientDisconnect:
                raise APIError(499, "the client went away") from None
            _require_json(request.headers.get("content-type", ""))
            callers: Callers = request.app.state.callers
            is_large = len(content) > QUICK_BYTES
            request.state.caller = caller = callers.of(request, is_slow=is_large)
            is_strict: bool = request.app.state.service.settings.is_strict
            read = partial(read_body, model, content, is_strict=is_strict)
            body = await caller.finish(caller.run(read)) if is_large else read()
            answer: Response = await self.endpoint(body=body, request=request)
            return answer

        return handle


def caller_of(request: Request) -> Caller:
    """Who sent a request of a ``JsonRoute``."""
    caller: Caller = request.state.caller
    return caller


def read_body(model: type[BaseModel], content: bytes, *, is_strict: bool = False) -> BaseModel:
    """A body that is checked.

    Args:
        model: what it must be.
        content: JSON.
        is_strict: refuse unknown fields instead of ignoring them.

    Raises:
        APIError: it is no JSON, has too many elements, or is not what the model says.
    """
    if len(content) > QUICK_BYTES:
        _require_few(content)
    try:
        value = from_json(content.removeprefix(_BYTE_ORDER_MARK), allow_inf_nan=False)
    except ValueError as error:
        raise APIError(400, f"the body is not JSON: {error}") from None
    try:
        return model.model_validate(value, extra="forbid" if is_strict else None)
    except ValidationError as error:
        raise api_error_of_validation(error, value, model) from None


def _require_json(content_type: str) -> None:
    """A page of another origin may send anything else without asking first."""
    message = Message()
    message["content-type"] = content_type
    subtype = message.get_content_subtype()
    is_json = subtype == "json" or subtype.endswith("+json")
    if message.get_content_maintype() != "application" or not is_json:
        raise APIError(400, "the body must be a JSON object, with Content-Type: application/json")


def require_own_page(request: Request) -> None:
    """Refuse a page of another origin that did not ask first: one that sends no JSON."""
    if "origin" in request.headers:
        _require_json(request.headers.get("content-type", ""))


def _require_few(content: bytes) -> None:
    """Raise APIError for JSON with too many elements, counted before it is parsed."""
    if _excess(_counts(content)) is None:
        return  # even with what stands in strings
    n_all = [0] * len(_LIMITS)
    for piece in _outside_strings(content):
        n_all = [n + n_more for n, n_more in zip(n_all, _counts(piece), strict=True)]
        excess = _excess(n_all)
        if excess is not None:
            raise APIError(400, f"the body has more than {excess} in one request; send several")


_LIMITS = {
    "objects and arrays": (b"[{", N_CONTAINERS_MAX),
    "keys": (b":", N_KEYS_MAX),
    "values": (b",", N_VALUES_MAX),
}


def _counts(content: bytes) -> list[int]:
    return [sum(content.count(mark) for mark in marks) for marks, _ in _LIMITS.values()]


def _excess(counts: Sequence[int]) -> str | None:
    """The first limit that is exceeded."""
    for (name, (_, n_most)), n in zip(_LIMITS.items(), counts, strict=True):
        if n > n_most:
            return f"{n_most} {name}"
    return None


def _outside_strings(content: bytes) -> Iterator[bytes]:
    """JSON without what is between quotes, in pieces: other threads go on between them."""
    unescaped = content.replace(rb"\\", b"").replace(rb"\"", b"")
    is_inside = False
    for start in range(0, len(unescaped), _PIECE_BYTES):
        parts = unescaped[start : start + _PIECE_BYTES].split(b'"')
        yield b"".join(parts[is_inside::2])
        is_inside ^= len(parts) % 2 == 0
