"""Clients that go away, and loops that close: what was under way ends, and nobody is bothered."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest
from fastapi import Request

from pytreellama.engine.async_engine import call_in
from pytreellama.serve.callers import unless_gone
from pytreellama.serve.faults import Fault


def request_of(*messages: dict[str, Any]) -> Request:
    """A request whose client does this, and then nothing more."""
    left = list(messages)

    async def receive() -> dict[str, Any]:
        if not left:
            await asyncio.Event().wait()
        return left.pop(0)

    return Request({"type": "http"}, receive)


@pytest.mark.parametrize("fails", [False, True])
def test_work_for_a_client_that_left_is_dropped_and_not_told_of(fails: bool) -> None:
    complaints: list[dict[str, Any]] = []
    ended: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("ended")
            if fails:
                raise RuntimeError("it fails as it is dropped")

    async def leave() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, what: complaints.append(what))
        with pytest.raises(Fault) as caught:
            await unless_gone(request_of({"type": "http.disconnect"}), work())
        assert caught.value.status_code == 499
        await asyncio.sleep(0)

    asyncio.run(leave())
    gc.collect()  # a task complains as it is forgotten
    assert ended == ["ended"]
    assert complaints == []


def test_work_for_a_client_that_stays_is_done() -> None:
    async def work() -> int:
        await asyncio.sleep(0)
        return 5

    assert asyncio.run(unless_gone(request_of(), work())) == 5


def test_a_loop_that_is_closed_is_told_nothing() -> None:
    """Whoever tells it is the engine's thread, which must go on."""
    loop = asyncio.new_event_loop()
    loop.close()
    call_in(loop, lambda: None)
