"""Service: what all routes share, and how an answer leaves."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Protocol

from fastapi import Request
from pydantic import BaseModel
from sse_starlette import EventSourceResponse
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from pytreellama.engine import AsyncEngine
from pytreellama.serve.answers import new_id, now
from pytreellama.serve.callers import unless_gone
from pytreellama.serve.chat_prompts import ChatPrompts
from pytreellama.serve.errors import APIError, api_error_of
from pytreellama.serve.metrics import Metrics
from pytreellama.serve.request_queue import Answer, RequestQueue
from pytreellama.serve.settings import LEAVING_S, ServerSettings
from pytreellama.serve.stream_forms import OPENAI, Event, StreamForm
from pytreellama.serve.text_limit import TextLimit
from pytreellama.serve.workers import Workers
from pytreellama.system import build_info

_PING_S = 15
_STREAM_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


@dataclass(slots=True)
class Service:
    """An engine, and all that stands between it and clients.

    Attributes:
        fingerprint: of the build, as ``system_fingerprint``.
    """

    engine: AsyncEngine
    settings: ServerSettings
    metrics: Metrics = field(init=False)
    queue: RequestQueue = field(init=False)
    workers: Workers = field(default_factory=Workers)
    text_limit: TextLimit = field(init=False)
    chat_prompts: ChatPrompts = field(init=False)
    created: int = field(default_factory=now)
    fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        self.metrics = Metrics(self.engine.engine)
        self.queue = RequestQueue(self.engine, self.settings, self.metrics)
        self.text_limit = TextLimit(self.engine.engine)
        self.chat_prompts = ChatPrompts(self.engine.engine.model, self.text_limit)
        self.fingerprint = f"pytreellama-{str(build_info()['key'])[:12]}"

    def require_model(self, name: str | None) -> None:
        """Raise APIError for a model that is not the one that is served; None is that one."""
        names = (self.settings.model_name, *self.settings.aliases)
        if not (name is None or name in names or self.settings.is_any_model):
            raise APIError(
                404,
                f"the model {name!r} is not served here; there is {' or '.join(map(repr, names))} "
                "(--any-model takes any name)",
                param="model",
                code="model_not_found",
            )

    def end_all(self) -> None:
        """End every request where it stands."""
        self.workers.close()
        self.queue.end_all()

    def head(self, kind: str) -> dict[str, Any]:
        """What an answer to a request for text begins with."""
        return {
            "id": new_id(kind),
            "created": now(),
            "model": self.settings.model_name,
            "system_fingerprint": self.fingerprint,
        }

    def max_tokens(self, asked: int | None, default: int | None, n_prompt: int) -> int:
        """Most tokens of an answer: as asked, within what is allowed and the context holds.

        Args:
            asked: -1 is all that the context holds.
            default: where nothing is asked; None is all that the context holds.
            n_prompt: tokens of the prompt.
        """
        room = max(self.text_limit.n_tokens - n_prompt, 1)
        wanted = default if asked is None else asked
        if wanted is None or wanted < 0:
            wanted = room
        return min(wanted, self.settings.max_tokens or room, room)


def json_response(answer: BaseModel) -> Response:
    """An answer as a whole."""
    return Response(answer.model_dump_json(), media_type="application/json")


class Writer(Protocol):
    """Puts what the engine writes into the form of an answer."""

    answers: Sequence[Answer]

    async def whole(self) -> BaseModel:
        """Wait for all of it."""
        ...

    def events(self) -> AsyncGenerator[dict[str, Any]]:
        """Its pieces, as they come."""
        ...


async def respond(
    service: Service,
    request: Request,
    writer: Writer,
    *,
    streams: bool,
    form: StreamForm = OPENAI,
) -> Response:
    """What a writer writes, until the client goes away."""
    if streams:
        kind = LineResponse if form.is_lines else EventResponse
        return kind(service, writer.answers, writer.events(), form)
    try:
        return json_response(await unless_gone(request, writer.whole()))
    finally:
        service.queue.end(writer.answers)


class EventResponse(EventSourceResponse):
    """Answers in pieces, as server-sent events.

    However it ends, as when the client goes away, the answers are ended. An error in mid-stream is
    an event of its own.

    Args:
        events: objects, in order.
        form: how they are written.
    """

    def __init__(
        self,
        service: Service,
        answers: Sequence[Answer],
        events: AsyncGenerator[Event],
        form: StreamForm,
    ) -> None:
        self._service = service
        self._answers = answers
        super().__init__(
            _data(service, events, form),
            ping=_PING_S,
            sep="\n",
            headers=_STREAM_HEADERS,
            # a little longer than answers have: their ends are sent still
            shutdown_grace_period=service.settings.shutdown_s + LEAVING_S,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response, and end its answers however it ends."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            # a generator that was never begun would not do it
            self._service.queue.end(self._answers)


class LineResponse(StreamingResponse):
    """Answers in pieces, as lines of JSON; else as ``EventResponse``."""

    def __init__(
        self,
        service: Service,
        answers: Sequence[Answer],
        events: AsyncGenerator[Event],
        form: StreamForm,
    ) -> None:
        self._service = service
        self._answers = answers
        lines = _data(service, events, form)
        super().__init__(lines, media_type="application/x-ndjson", headers=_STREAM_HEADERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response, and end its answers however it ends."""
        sending = super().__call__(scope, receive, send)
        try:
            # before the first line there is nothing whose sending would fail
            await unless_gone(Request(scope, receive), sending)
        except APIError:
            pass  # the client went away
        finally:
            self._service.queue.end(self._answers)


async def _data(
    service: Service, events: AsyncGenerator[Event], form: StreamForm
) -> AsyncIterator[bytes]:
    async with aclosing(events):
        try:
            async for event in events:
                yield form.write(event)
        except Exception as error:
            api_error = api_error_of(error, service.queue.retry_after_s)
            service.metrics.count_error(api_error.status_code)
            yield form.write(form.error(api_error.status_code, api_error.body))
    if form.end:
        yield form.end
