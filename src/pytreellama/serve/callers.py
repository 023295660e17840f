"""Callers: requests while they are prepared, each with its client and the time that it may take."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from fastapi import Request

from pytreellama.serve.errors import APIError
from pytreellama.serve.workers import Workers

_T = TypeVar("_T")

QUICK_BYTES = 1 << 16
"""A body of so many bytes, with neither grammar nor schema, is prepared in milliseconds."""


@dataclass(frozen=True, slots=True)
class Caller:
    """A request that is prepared on the server's worker threads.

    Attributes:
        client: with whom other clients take turns: a key that was accepted, or else an address.
        is_slow: its jobs may take long, so they must not be before others' short ones.
        asked_s: when it came, by ``time.perf_counter``.
        limit_s: seconds that it may take from then on.
    """

    request: Request
    workers: Workers
    client: str
    is_slow: bool
    asked_s: float
    limit_s: float
    retry_after_s: Callable[[], int]

    @property
    def left_s(self) -> float:
        """Seconds that are left of its time."""
        return max(self.asked_s + self.limit_s - time.perf_counter(), 0.0)

    def slow(self, is_slow: bool = True) -> Caller:
        """The same one, whose jobs may take long from now on."""
        return replace(self, is_slow=self.is_slow or is_slow)

    async def run(self, act: Callable[[], _T], drop: Callable[[_T], object] | None = None) -> _T:
        """Call a function on a worker thread; see ``Lane.run``."""
        return await self.workers.run(act, client=self.client, is_slow=self.is_slow, drop=drop)

    async def finish(self, work: Awaitable[_T]) -> _T:
        """Wait for work until the client disconnects or the request's time is over.

        Raises:
            APIError: timed out or disconnected; the work is cancelled.
        """
        return await unless_gone(self.request, self._in_time(work))

    async def _in_time(self, work: Awaitable[_T]) -> _T:
        try:
            return await asyncio.wait_for(work, self.left_s)
        except asyncio.TimeoutError:
            raise APIError(
                503,
                f"it was not done within {self.limit_s:g} seconds; the server is too busy",
                code="timeout",
                retry_after_s=self.retry_after_s(),
            ) from None


def client_of(request: Request) -> str:
    """Who sent a request: a key that was accepted, or else an address."""
    address = "" if request.client is None else request.client.host
    client: str = request.scope.get("pytreellama.key", address)
    return client


@dataclass(frozen=True, slots=True)
class Callers:
    """Knows each request's caller.

    Attributes:
        limit_s: seconds that a request may take.
        retry_after_s: says in how many seconds there should be room.
    """

    workers: Workers
    limit_s: float
    retry_after_s: Callable[[], int]

    def of(self, request: Request, *, is_slow: bool = False) -> Caller:
        """The caller of a request that just came."""
        return Caller(
            request,
            self.workers,
            client_of(request),
            is_slow,
            time.perf_counter(),
            self.limit_s,
            self.retry_after_s,
        )


async def unless_gone(request: Request, work: Awaitable[_T]) -> _T:
    """Do some work, and drop it where the client goes away first.

    Raises:
        APIError: it went away; nobody hears of it.
    """
    working = asyncio.ensure_future(work)
    working.add_done_callback(_retrieved)
    watching = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait([working, watching], return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise APIError(499, "the client went away")
    finally:
        for task in (working, watching):
            task.cancel()


def _retrieved(working: asyncio.Future[Any]) -> None:
    """Consume the exception after a client disconnect, so that asyncio does not log it."""
    if not working.cancelled():
        working.exception()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
