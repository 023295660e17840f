"""Service: what all routes share, and how an answer leaves."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request
from pydantic import BaseModel
from sse_starlette import EventSourceResponse
from starlette.responses import Response

from pytreellama.core.system import build_info
from pytreellama.engine import AsyncEngine
from pytreellama.serve.answers import now
from pytreellama.serve.chat_prompts import ChatPrompts
from pytreellama.serve.faults import Fault, fault_of
from pytreellama.serve.metrics import Metrics
from pytreellama.serve.settings import Settings
from pytreellama.serve.writing import Desk

_log = logging.getLogger(__name__)

_PING_S = 15


@dataclass(slots=True)
class Service:
    """An engine, and all that stands between it and clients.

    Attributes:
        fingerprint: of the build and the model, as ``system_fingerprint``.
    """

    engine: AsyncEngine
    settings: Settings
    metrics: Metrics = field(init=False)
    desk: Desk = field(init=False)
    chat_prompts: ChatPrompts = field(init=False)
    created: int = field(default_factory=now)
    fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        self.metrics = Metrics(self.engine.engine)
        self.desk = Desk(self.engine, self.settings, self.metrics)
        self.chat_prompts = ChatPrompts(self.engine.engine.model)
        self.fingerprint = f"pytreellama-{str(build_info()['key'])[:12]}"

    def require_model(self, name: str | None) -> None:
        """Raise Fault for a model that is not the one that is served; None is that one."""
        if name not in (None, self.settings.model_name):
            raise Fault(
                404,
                f"the model {name!r} is not served here; there is {self.settings.model_name!r}",
                param="model",
                code="model_not_found",
            )

    def max_tokens(self, asked: int | None, default: int | None, n_prompt: int) -> int:
        """Most tokens of an answer: as asked, within what is allowed and the context holds."""
        room = max(self.engine.engine.context.n_ctx - n_prompt, 1)
        limits = (asked or default or room, self.settings.max_tokens or room, room)
        return min(limits)


def json_response(answer: BaseModel) -> Response:
    """An answer as a whole."""
    return Response(answer.model_dump_json(), media_type="application/json")


def event_response(
    service: Service, request: Request, events: AsyncIterator[dict[str, Any]]
) -> Response:
    """An answer in pieces, as server-sent events; the last one's data is ``[DONE]``.

    A client that goes away closes ``events``. A fault in mid-stream is an event of its own.
    """

    async def data() -> AsyncIterator[dict[str, str]]:
        try:
            async for event in events:
                yield {"data": json.dumps(event, separators=(",", ":"), ensure_ascii=False)}
        except Exception as error:
            fault = fault_of(error, service.desk.retry_after_s)
            service.metrics.faults.labels(str(fault.status)).inc()
            yield {"data": fault.body.model_dump_json()}
        finally:
            await events.aclose()  # type: ignore[attr-defined]
        yield {"data": "[DONE]"}

    return EventSourceResponse(
        data(),
        ping=_PING_S,
        sep="\n",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        shutdown_grace_period=service.settings.shutdown_s,
    )
