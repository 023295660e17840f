"""Guards: what a request must be before anything reads it; plain ASGI, so that streams stay so."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pytreellama.serve.faults import Fault

_SAFE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; frame-ancestors 'none'; "
    "form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_NEEDS_KEY = ("/v1/", "/metrics")


def needs_key(path: str) -> bool:
    """Is a key asked for there, where there are any?"""
    return path.startswith(_NEEDS_KEY)


class KeyGuard:
    """Asks for one of several API keys, as ``Authorization: Bearer KEY``, where there are any.

    The page and ``/health`` need none. Keys are compared in a time that tells nothing of them. What
    is behind it finds the key that was sent at ``pytreellama.key`` of the scope.
    """

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self._app = app
        self._keys = [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http" or not self._is_asked(scope):
            await self._app(scope, receive, send)
            return
        key = self._known_key(scope)
        if key is not None:
            await self._app({**scope, "pytreellama.key": key}, receive, send)
            return
        fault = Fault(
            401,
            "the API key is missing or wrong; send Authorization: Bearer KEY",
            code="invalid_api_key",
        )
        await fault.response()(scope, receive, send)

    def _is_asked(self, scope: Scope) -> bool:
        return bool(self._keys) and needs_key(scope["path"])

    def _known_key(self, scope: Scope) -> str | None:
        """The key that came with a request, if it is one of ours."""
        given = Headers(scope=scope).get("authorization", "")
        kind, _, key = given.partition(" ")
        sent = key.strip().encode("latin-1")  # the bytes as they came
        matches = [hmac.compare_digest(sent, known) for known in self._keys]
        return key.strip() if kind.lower() == "bearer" and any(matches) else None


class HostGuard:
    """Refuses requests that call this server by a name that is not its own.

    A page in a browser can reach a server on loopback under a name whose address its owner has
    changed meanwhile (DNS rebinding); that name is in the request's ``Host``.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str]) -> None:
        self._app = app
        self._hosts = frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http" or not self._hosts:
            await self._app(scope, receive, send)
            return
        host = _without_port(Headers(scope=scope).get("host", "")).lower()
        if host in self._hosts:
            await self._app(scope, receive, send)
            return
        fault = Fault(
            403,
            f"this server is not called {host!r}; it answers to "
            f"{', '.join(sorted(self._hosts))} (--allow-host adds one)",
            code="host_not_allowed",
        )
        await fault.response()(scope, receive, send)


class BodyGuard:
    """Refuses bodies that are larger than allowed, before they are in memory."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        told = Headers(scope=scope).get("content-length", "0")
        if not told.isdecimal() or int(told[:20]) > self._max_bytes:
            await self._fault().response()(scope, receive, send)
            return
        n_bytes = 0

        async def counted() -> Message:
            nonlocal n_bytes
            message = await receive()
            n_bytes += len(message.get("body", b""))
            if n_bytes > self._max_bytes:
                raise self._fault()
            return message

        await self._app(scope, counted, send)

    def _fault(self) -> Fault:
        return Fault(
            413,
            f"the body is larger than {self._max_bytes} bytes, the most that this server takes",
            code="body_too_large",
        )


class HeadGuard:
    """Answers HEAD as GET, without the body: what the framework does only for its own routes."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def without_body(message: Message) -> None:
            await send({**message, "body": b""} if "body" in message else message)

        await self._app({**scope, "method": "GET"}, receive, without_body)


class HeaderGuard:
    """Tells browsers to load nothing from elsewhere, and to believe content types.

    Args:
        on_fault: told of every status from 400 on.
    """

    def __init__(self, app: ASGIApp, on_fault: Callable[[int], None]) -> None:
        self._app = app
        self._on_fault = on_fault

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _SAFE_HEADERS.items():
                    headers.setdefault(name, value)
                if message["status"] >= 400:
                    self._on_fault(message["status"])
            await send(message)

        await self._app(scope, receive, guarded)


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]
