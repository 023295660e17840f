"""How streams and errors are written in each protocol."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("fastapi", reason="needs the extra: pip install 'pytreellama[serve]'")

from pytreellama.serve.error_forms import error_content, is_anthropic
from pytreellama.serve.errors import APIError
from pytreellama.serve.stream_forms import (
    ANTHROPIC,
    LLAMA_SERVER,
    OLLAMA,
    OPENAI,
    RESPONSES,
    StreamForm,
)

EVENT = {"type": "a.b", "text": "one\ntwo"}
REFUSED = APIError(400, "too long", param="prompt", code="context_length_exceeded")


@pytest.mark.parametrize(
    ("form", "begin", "end"),
    [
        (OPENAI, b"data: ", b"\n\n"),
        (LLAMA_SERVER, b"data: ", b"\n\n"),
        (ANTHROPIC, b"event: a.b\ndata: ", b"\n\n"),
        (RESPONSES, b"event: a.b\ndata: ", b"\n\n"),
        (OLLAMA, b"", b"\n"),
    ],
)
def test_an_event_is_one_line_of_json(form: StreamForm, begin: bytes, end: bytes) -> None:
    written = form.write(EVENT)
    assert written.startswith(begin)
    assert written.endswith(end)
    line = written.removeprefix(begin).removesuffix(end)
    assert b"\n" not in line
    assert json.loads(line) == EVENT


def test_only_openais_streams_end_with_done() -> None:
    assert OPENAI.end == b"data: [DONE]\n\n"
    assert not any(form.end for form in (LLAMA_SERVER, ANTHROPIC, RESPONSES, OLLAMA))


def test_an_error_among_events_has_the_protocols_form() -> None:
    body = REFUSED.body
    for form in (OPENAI, LLAMA_SERVER):
        assert form.error(400, body)["error"]["code"] == "context_length_exceeded"
    assert ANTHROPIC.error(400, body) == {
        "type": "error",
        "error": {"type": "invalid_request_error", "message": "too long"},
    }
    found = RESPONSES.error(400, body)
    assert (found["type"], found["message"], found["param"]) == ("error", "too long", "prompt")
    assert OLLAMA.error(400, body) == {"error": "too long"}
    for form in (ANTHROPIC, RESPONSES, OLLAMA):
        form.write(form.error(400, body))  # named by its type, where events are


@pytest.mark.parametrize(
    ("path", "keys"),
    [
        ("/v1/chat/completions", {"error"}),
        ("/v1/messages", {"type", "error"}),
        ("/messages/count_tokens", {"type", "error"}),
        ("/api/chat", {"error"}),
        ("/nowhere", {"error"}),
    ],
)
def test_an_error_has_the_form_of_the_path_that_was_asked_for(path: str, keys: set[str]) -> None:
    content = error_content(path, 400, REFUSED.body)
    assert content.keys() == keys
    assert isinstance(content["error"], str) == path.startswith("/api/")
    assert is_anthropic(path) == ("type" in keys)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (404, "not_found_error"),
        (405, "invalid_request_error"),
        (413, "request_too_large"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (503, "overloaded_error"),
    ],
)
def test_anthropics_client_gets_the_kind_of_error_that_it_knows(status: int, kind: str) -> None:
    content = error_content("/v1/messages", status, APIError(status, "a").body)
    assert content["error"]["type"] == kind
