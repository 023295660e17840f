"""Bodies of requests: from bytes to a checked model, without holding up the event loop."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from email.message import Message
from functools import partial
from typing import Any

from fastapi import Request
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.responses import Response

from pytreellama.serve.callers import QUICK_BYTES, Caller, Callers
from pytreellama.serve.faults import Fault
from pytreellama.serve.validation import fault_of_validation

N_CONTAINERS_MAX = 1 << 15
"""Objects and arrays in one body; 4,096 messages of parts need fewer."""
N_KEYS_MAX = 1 << 16
"""Keys of all objects in one body; a ``logit_bias`` for most of a vocabulary needs fewer."""
N_VALUES_MAX = 1 << 20
"""Elements in one body; token ids are most of these."""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class JsonRoute(APIRoute):
    """A route whose one body is a pydantic model.

    The framework parses and checks bodies in the event loop, which for a few megabytes takes
    seconds. This one leaves large bodies to the worker threads, and refuses those with more
    elements than any valid request has before it makes objects of them.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """See APIRoute. The endpoint is called with ``body`` and ``request``."""
        field = self.body_field
        assert field is not None, f"{self.path} has no body"
        model: type[BaseModel] = field.field_info.annotation  # type: ignore[assignment]

        async def handle(request: Request) -> Response:
            content = await request.body()
            _require_json(request.headers.get("content-type", ""))
            callers: Callers = request.app.state.callers
            is_large = len(content) > QUICK_BYTES
            request.state.caller = caller = callers.of(request, is_slow=is_large)
            read = partial(read_body, model, content)
            body = await caller.finish(caller.run(read)) if is_large else read()
            answer: Response = await self.endpoint(body=body, request=request)
            return answer

        return handle


def caller_of(request: Request) -> Caller:
    """Who sent a request of a ``JsonRoute``."""
    caller: Caller = request.state.caller
    return caller


def read_body(model: type[BaseModel], content: bytes) -> BaseModel:
    """A body that is checked.

    Raises:
        Fault: it is no JSON, has too many elements, or is not what the model says.
    """
    if len(content) > QUICK_BYTES:
        _require_few(content)
    try:
        value = from_json(content.removeprefix(_BYTE_ORDER_MARK), allow_inf_nan=False)
    except ValueError as error:
        raise Fault(400, f"the body is not JSON: {error}") from None
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise fault_of_validation(error, value) from None


def _require_json(content_type: str) -> None:
    """A page of another origin may send anything else without asking first."""
    message = Message()
    message["content-type"] = content_type
    subtype = message.get_content_subtype()
    is_json = subtype == "json" or subtype.endswith("+json")
    if message.get_content_maintype() != "application" or not is_json:
        raise Fault(400, "the body is no JSON object; send one as application/json")


def _require_few(content: bytes) -> None:
    counts = _counts(content)
    if _are_few(counts):
        return
    counts = _counts(_without_strings(content))
    if not _are_few(counts):
        n_containers, n_keys, n_values = counts
        raise Fault(
            400,
            f"the body has {n_containers} objects and arrays, {n_keys} keys and more than "
            f"{n_values} values; this server takes {N_CONTAINERS_MAX}, {N_KEYS_MAX} and "
            f"{N_VALUES_MAX} in one request: send several",
        )


def _counts(content: bytes) -> tuple[int, int, int]:
    """Upper bounds of the objects and arrays, the keys, and the other elements in JSON."""
    return content.count(b"[") + content.count(b"{"), content.count(b":"), content.count(b",")


def _are_few(counts: tuple[int, int, int]) -> bool:
    n_containers, n_keys, n_values = counts
    return n_containers <= N_CONTAINERS_MAX and n_keys <= N_KEYS_MAX and n_values <= N_VALUES_MAX


def _without_strings(content: bytes) -> bytes:
    """JSON without what is between quotes."""
    unescaped = content.replace(rb"\\", b"").replace(rb"\"", b"")
    return b"".join(unescaped.split(b'"')[::2])
