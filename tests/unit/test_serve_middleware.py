"""Middleware: who may ask, by which name, with how large a body, and what browsers are told."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from pytreellama.serve.middleware import (
    BodyLimitMiddleware,
    HeaderMiddleware,
    HeadMiddleware,
    HostMiddleware,
    KeyMiddleware,
)


async def inner(scope: Scope, receive: Receive, send: Send) -> None:
    """Reads the body, and answers with its length."""
    n_bytes, has_more = 0, True
    while has_more:
        message = await receive()
        n_bytes += len(message.get("body", b""))
        has_more = message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(n_bytes).encode()})


def ask(
    app: ASGIApp,
    path: str = "/v1/models",
    headers: Any = None,
    content: bytes | AsyncIterator[bytes] | None = None,
) -> httpx.Response:
    async def answer() -> httpx.Response:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.request("POST", path, headers=headers, content=content)

    return asyncio.run(answer())


def message_of(answer: httpx.Response) -> str:
    """Of a refusal in OpenAI's form."""
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return error["message"]


class TestKeys:
    app = KeyMiddleware(inner, ["sesame", "schlüssel"])

    @pytest.mark.parametrize(
        "header", [b"Bearer sesame", b"bearer sesame", b"Bearer  sesame ", "Bearer schlüssel"]
    )
    def test_any_of_the_keys_opens(self, header: str | bytes) -> None:
        sent = header.encode() if isinstance(header, str) else header
        assert ask(self.app, headers={"Authorization": sent}).status_code == 200

    def test_a_key_may_come_as_anthropics_clients_send_it(self) -> None:
        for headers in (
            {"x-api-key": "sesame"},
            {"X-API-Key": " sesame "},
            {"Authorization": "Bearer other", "x-api-key": "sesame"},
            {"Authorization": "Bearer sesame", "x-api-key": "other"},
        ):
            assert ask(self.app, headers=headers).status_code == 200
        refused = ask(self.app, "/v1/messages", {"x-api-key": "other"})
        assert refused.status_code == 401
        assert refused.json()["error"]["type"] == "authentication_error"

    @pytest.mark.parametrize(
        "header",
        [
            None,
            b"",
            b"Bearer",
            b"Bearer ",
            b"Bearer sesam",
            b"Bearer sesame2",
            b"Bearer SESAME",
            b"Basic sesame",
            b"sesame",
            "Bearer schlüssel".encode("latin-1"),
            b"Bearer \xff\xfe",
        ],
    )
    @pytest.mark.parametrize("path", ["/v1/models", "/v1/chat/completions", "/metrics"])
    def test_nothing_else_does(self, path: str, header: bytes | None) -> None:
        answer = ask(self.app, path, {} if header is None else {"Authorization": header})
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert answer.json()["error"]["code"] == "invalid_api_key"
        assert "sesame" not in answer.text

    @pytest.mark.parametrize("path", ["/", "/assets/page.js", "/health", "/openapi.json"])
    def test_the_page_and_health_need_none(self, path: str) -> None:
        assert ask(self.app, path).status_code == 200

    def test_without_keys_all_is_open(self) -> None:
        assert ask(KeyMiddleware(inner, [])).status_code == 200

    def test_every_key_is_compared_in_a_time_that_tells_nothing(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        compared: list[bytes] = []
        plain = hmac.compare_digest

        def compare(sent: bytes, known: bytes) -> bool:
            compared.append(known)
            return plain(sent, known)

        monkeypatch.setattr(hmac, "compare_digest", compare)
        assert ask(self.app, headers={"Authorization": "Bearer sesame"}).status_code == 200
        assert compared == [b"sesame", "schlüssel".encode()]


class TestHosts:
    app = HostMiddleware(inner, ["localhost", "[::1]", "Box.local"])

    @pytest.mark.parametrize(
        "host", ["localhost", "LOCALHOST:8000", "[::1]:8000", "[::1]", "box.local:1"]
    )
    def test_its_own_names_are_answered_at_any_port(self, host: str) -> None:
        assert ask(self.app, "/", {"Host": host}).status_code == 200

    @pytest.mark.parametrize(
        "host",
        ["", "evil.example", "localhost.evil.example", "evil.example:8000", "[::2]", "127.0.0.1"],
    )
    @pytest.mark.parametrize("path", ["/", "/health", "/v1/models"])
    def test_others_are_refused_on_every_path(self, path: str, host: str) -> None:
        answer = ask(self.app, path, {"Host": host})
        assert answer.status_code == 403
        assert "--allow-host" in message_of(answer)

    def test_without_names_all_are_answered(self) -> None:
        assert ask(HostMiddleware(inner, []), "/", {"Host": "evil.example"}).status_code == 200


class TestBodies:
    @pytest.mark.parametrize("size", [0, 1, 100])
    def test_a_body_within_the_limit_comes_through(self, size: int) -> None:
        assert ask(BodyLimitMiddleware(inner, 100), content=b"x" * size).text == str(size)

    @pytest.mark.parametrize("told", ["101", "9" * 5000, "-1", "1.0", "", b"\xb2"])
    def test_a_body_that_is_told_to_be_larger_is_not_read(self, told: str | bytes) -> None:
        answer = ask(
            BodyLimitMiddleware(unread, 100), headers={"Content-Length": told}, content=b"x"
        )
        assert answer.status_code == 413
        assert "100 bytes" in message_of(answer)


async def unread(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError("a request came through that should not")


def test_browsers_are_told_to_load_nothing_from_elsewhere_and_faults_are_counted() -> None:
    errors: list[int] = []
    with_headers = HeaderMiddleware(KeyMiddleware(inner, ["sesame"]), errors.append)
    for path in ("/v1/models", "/health"):
        answer = ask(with_headers, path)
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert errors == [401]


@pytest.mark.parametrize(
    "middleware",
    [
        lambda app: KeyMiddleware(app, ["sesame"]),
        lambda app: HostMiddleware(app, ["localhost"]),
        lambda app: BodyLimitMiddleware(app, 1),
        lambda app: HeaderMiddleware(app, lambda status: None),
    ],
)
def test_what_is_no_request_passes_every_middleware(
    middleware: Callable[[ASGIApp], ASGIApp],
) -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    asyncio.run(middleware(app)({"type": "lifespan"}, None, None))  # type: ignore[arg-type]
    assert seen == ["lifespan"]


def test_a_head_request_is_answered_as_get_without_the_body() -> None:
    seen: list[str] = []

    async def noted(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["method"])
        await inner(scope, receive, send)

    async def answer(method: str) -> httpx.Response:
        transport = httpx.ASGITransport(app=HeadMiddleware(noted))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.request(method, "/health")

    head, get = asyncio.run(answer("HEAD")), asyncio.run(answer("GET"))
    assert seen == ["GET", "GET"]
    assert (head.status_code, head.content) == (200, b"")
    assert get.content == b"0"
