"""Middleware: checks of every request before its body is read; plain ASGI, for streaming."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pytreellama.serve.errors import APIError

_SAFE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; frame-ancestors 'none'; "
    "form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_OPEN_PATHS = ("/", "/health", "/v1/health", "/openapi.json")


def needs_key(path: str) -> bool:
    """True if a path requires an API key, on a server that has keys."""
    return path not in _OPEN_PATHS and not path.startswith("/assets/")


class KeyMiddleware:
    """Requires one of the API keys, if there are any.

    A key comes as ``Authorization: Bearer KEY``, or as ``x-api-key: KEY``, as Anthropic's clients
    send it.
    The page, ``/health`` and ``/openapi.json`` need no key. Keys are compared in constant time.
    The accepted key is stored in the scope as ``pytreellama.key``.
    """

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self._app = app
        self._keys = [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] != "http" or not self._is_asked(scope):
            await self._app(scope, receive, send)
            return
        key = self._known_key(scope)
        if key is not None:
            await self._app({**scope, "pytreellama.key": key}, receive, send)
            return
        api_error = APIError(
            401,
            "the API key is missing or wrong; send Authorization: Bearer KEY",
            code="invalid_api_key",
        )
        await api_error.response(scope["path"])(scope, receive, send)

    def _is_asked(self, scope: Scope) -> bool:
        return bool(self._keys) and needs_key(scope["path"])

    def _known_key(self, scope: Scope) -> str | None:
        """The key that came with a request, if it is one of ours."""
        headers = Headers(scope=scope)
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        given = [bearer] if kind.lower() == "bearer" else []
        given += headers.getlist("x-api-key")
        return next((key.strip() for key in given if self._is_known(key.strip())), None)

    def _is_known(self, key: str) -> bool:
        sent = key.encode("latin-1")  # the bytes as they came
        return any([hmac.compare_digest(sent, known) for known in self._keys])


class HostMiddleware:
    """Refuses requests whose ``Host`` header is not a name of this server.

    Protects a server on loopback from DNS rebinding by a page in a browser.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str]) -> None:
        self._app = app
        self._hosts = frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] != "http" or not self._hosts:
            await self._app(scope, receive, send)
            return
        host = _without_port(Headers(scope=scope).get("host", "")).lower()
        if host in self._hosts:
            await self._app(scope, receive, send)
            return
        api_error = APIError(
            403,
            f"this server is not called {host!r}; it answers to "
            f"{', '.join(sorted(self._hosts))} (--allow-host adds one)",
            code="host_not_allowed",
        )
        await api_error.response(scope["path"])(scope, receive, send)


class BodyLimitMiddleware:
    """Refuses bodies above a size limit before they are read into memory."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        told = Headers(scope=scope).get("content-length", "0")
        if not told.isdecimal() or int(told[:20]) > self._max_bytes:
            await self._too_large().response(scope["path"])(scope, receive, send)
            return
        n_bytes = 0

        async def counted() -> Message:
            nonlocal n_bytes
            message = await receive()
            n_bytes += len(message.get("body", b""))
            if n_bytes > self._max_bytes:
                raise self._too_large()
            return message

        await self._app(scope, counted, send)

    def _too_large(self) -> APIError:
        return APIError(
            413,
            f"the body is larger than {self._max_bytes} bytes, the most that this server takes",
            code="body_too_large",
        )


class HeadMiddleware:
    """Responds to HEAD as to GET, without the body; FastAPI does this only for its own routes."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def without_body(message: Message) -> None:
            await send({**message, "body": b""} if "body" in message else message)

        await self._app({**scope, "method": "GET"}, receive, without_body)


class HeaderMiddleware:
    """Adds security headers: no content from other origins, no content-type sniffing.

    Args:
        on_error: called with the status of every response of 400 or above.
    """

    def __init__(self, app: ASGIApp, on_error: Callable[[int], None]) -> None:
        self._app = app
        self._on_error = on_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _SAFE_HEADERS.items():
                    headers.setdefault(name, value)
                if message["status"] >= 400:
                    self._on_error(message["status"])
            await send(message)

        await self._app(scope, receive, with_headers)


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]
