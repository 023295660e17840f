"""Bodies of requests: what is bounded before anything is made of it, and how errors are worded."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("fastapi", reason="needs the extra: pip install 'pytreellama[serve]'")

from pydantic import BaseModel

from pytreellama.serve.bodies import (
    N_CONTAINERS_MAX,
    N_KEYS_MAX,
    N_VALUES_MAX,
    _outside_strings,
    read_body,
)
from pytreellama.serve.callers import QUICK_BYTES
from pytreellama.serve.errors import APIError
from pytreellama.serve.requests import ChatRequest, CompletionRequest, ScoreRequest


def read(
    body: object, model: type[BaseModel] = CompletionRequest, *, is_strict: bool = True
) -> Any:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_body(model, content, is_strict=is_strict)


def api_error_of(
    body: object, model: type[BaseModel] = CompletionRequest
) -> tuple[str, str | None]:
    with pytest.raises(APIError) as caught:
        read(body, model)
    assert caught.value.status_code == 400
    return caught.value.body.error.message, caught.value.body.error.param


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("stop", ["a"] * 65, "stop: List should have at most 64 items"),
        ("stop", ["a"] * 100_000, "stop: List should have at most 64 items"),
        ("stop", "a" * 1_000_000, "stop: String should have at most 1000 characters"),
        ("stop", 5, "stop: Input should be a valid string or a valid list"),
        ("stop", ["a", 5], "stop.1: Input should be a valid string"),
        ("prompt", [], "prompt: List should have at least 1 item"),
        ("prompt", "", "prompt: String should have at least 1 character"),
        ("prompt", [[]], "prompt.0: List should have at least 1 item"),
        ("prompt", 5, "prompt: Input should be a valid string or a valid list"),
        ("prompt", [5, "a"], "prompt.1: Input should be a valid integer"),
        ("prompt", ["a", 5], "prompt.1: Input should be a valid string"),
        ("prompt", ["a"] * 3000, "prompt: List should have at most 2048 items"),
        ("promt", "a", "promt is not a field that this server knows"),
        ("n", 10**9, "n: Input should be less than or equal to 1024"),
        ("max_tokens", 10**400, "max_tokens: Input should be less than or equal to"),
        ("max_tokens", True, "max_tokens: Input should be a valid integer"),
        ("seed", 10**20, "seed: Input should be less than or equal to"),
    ],
)
def test_a_fault_says_what_is_wrong_with_the_form_that_was_meant(
    field: str, value: object, message: str
) -> None:
    told, param = api_error_of({"prompt": "a"} | {field: value})
    assert told.startswith(message)
    assert param == message.split(":")[0].split(" ")[0]


@pytest.mark.parametrize(
    ("choice", "message", "param"),
    [
        (
            "all",
            "tool_choice: Input should be 'none', 'auto' or 'required' or a valid dictionary",
            "",
        ),
        ({"type": "function", "function": {"name": 5}}, "Input should be a valid string", ".name"),
    ],
)
def test_a_fault_within_one_of_several_forms_is_told_where_it_is(
    choice: object, message: str, param: str
) -> None:
    body = {"messages": [{"role": "user", "content": "a"}], "tool_choice": choice}
    told, named = api_error_of(body, ChatRequest)
    assert message in told
    assert named is not None and named.endswith(param)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "EOF"),
        (b"{", "EOF"),
        (b'{"prompt": "\xff"}', "invalid unicode"),
        (b'{"prompt": "\\ud800"}', "hex escape"),
        (b'{"prompt": "a", "temperature": NaN}', "expected value"),
        (b'{"prompt": "a", "temperature": -Infinity}', "invalid number"),
        (b'{"prompt": "a", "seed": ' + b"1" * 5_000 + b"}", "number out of range"),
        (b"[" * 30_000 + b"]" * 30_000, "recursion limit"),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "recursion limit"),
        ('{"prompt": "a"}'.encode("utf-16"), "expected value"),
    ],
)
def test_what_is_no_json_is_refused(body: bytes, why: str) -> None:
    message, param = api_error_of(body)
    assert message.startswith("the body is not JSON: ")
    assert why in message
    assert param is None


def test_of_a_key_that_comes_twice_the_last_one_counts() -> None:
    assert read(b'{"prompt": "a", "prompt": "b"}').prompt == "b"


def test_a_byte_order_mark_is_not_part_of_the_body() -> None:
    assert read(b'\xef\xbb\xbf{"prompt": "a"}').prompt == "a"


def repeated(head: str, one: str, tail: str, n: int) -> bytes:
    return (head + ",".join([one] * n) + tail).encode()


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (repeated('{"prompt":[', "{}", "]}", N_CONTAINERS_MAX), "objects and arrays"),
        (repeated('{"prompt":[', "[]", "]}", 1_000_000), "objects and arrays"),
        (repeated('{"prompt":[', "null", "]}", N_VALUES_MAX + 2), "values"),
        (repeated('{"prompt":"a","metadata":{', '"b":"c"', "}}", N_KEYS_MAX), "keys"),
        (b"[" * 100_000, "objects and arrays"),
    ],
)
def test_more_elements_than_a_request_needs_are_refused_before_they_are_made(
    body: bytes, what: str
) -> None:
    message, _ = api_error_of(body)
    assert what in message
    assert "more than" in message


@pytest.mark.parametrize(
    "body",
    [
        repeated("{", '"b":0', "}", 1_000).replace(b"b", b"x"),
        ("{" + ",".join(f'"x{i}":0' for i in range(60_000)) + "}").encode(),
        (
            '{"prompt":"a","metadata":{' + ",".join(f'"{i}":0' for i in range(60_000)) + "}}"
        ).encode(),
    ],
)
def test_a_fault_is_short_however_much_is_wrong(body: bytes) -> None:
    message, _ = api_error_of(body)
    assert len(message) < 300


@pytest.mark.parametrize(
    ("model", "body"),
    [
        (CompletionRequest, {"prompt": "[{,:" * 1_000_000}),
        (CompletionRequest, {"prompt": '"\\' * 1_000_000}),
        (CompletionRequest, {"prompt": [5] * 900_000}),
        (CompletionRequest, {"prompt": [[5] * 400] * 2_000}),
        (CompletionRequest, {"prompt": "a", "logit_bias": {str(i): 1 for i in range(60_000)}}),
        (ScoreRequest, {"prompt": "a", "continuations": ["b" * 2_000] * 2_000}),
        (
            ChatRequest,
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}] * 4_096},
        ),
    ],
)
def test_large_bodies_that_are_right_are_read(model: type[BaseModel], body: Any) -> None:
    assert len(json.dumps(body)) > QUICK_BYTES
    assert read(body, model).model_dump(exclude_unset=True) == body


@given(st.recursive(st.text() | st.integers(), lambda inner: st.lists(inner)))
def test_what_is_outside_of_strings_is_what_json_is_made_of(value: object) -> None:
    written = json.dumps(value)
    outside = b"".join(_outside_strings(written.encode()))

    def count(of: object) -> int:
        return 1 + sum(map(count, of)) if isinstance(of, list) else 0

    assert outside.count(b"[") == count(value)


@pytest.mark.parametrize("model", [ChatRequest, CompletionRequest, ScoreRequest])
def test_a_misspelt_field_is_suggested(model: type[BaseModel]) -> None:
    body = {"continuations": ["a"], "prompt": "a", "messages": [{"role": "user", "content": "a"}]}
    meant = "prompt" if model is ScoreRequest else "temperature"
    wrong = {"temprature": 1} if model is not ScoreRequest else {"promptt": "a"}
    message, _ = api_error_of(
        {k: v for k, v in body.items() if k in model.model_fields} | wrong, model
    )
    assert message.endswith(f"is not a field that this server knows; did you mean {meant!r}?")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"temprature": 0}, "temprature"),
        ({"messages": [{"role": "user", "content": "a", "mood": 1}]}, "messages.0.mood"),
        ({"stream_options": {"include_cost": True}}, "stream_options.include_cost"),
        ({"response_format": {"type": "text", "of": 1}}, "response_format.of"),
    ],
)
def test_unknown_fields_are_ignored_unless_the_server_is_strict(
    body: dict[str, Any], param: str
) -> None:
    whole = {"messages": [{"role": "user", "content": "a"}]} | body
    assert read(whole, ChatRequest, is_strict=False)
    message, named = api_error_of(whole, ChatRequest)
    assert named == param
    assert "is not a field that this server knows" in message


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (
            "messages",
            [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a"}}]}],
            "messages.0.content.0.type: parts of type 'image_url' are not supported",
        ),
        ("functions", [{"name": "a"}], "functions is not supported; use tools"),
        ("function_call", "auto", "function_call is not supported; use tool_choice"),
        ("modalities", ["text", "audio"], "modalities.1: Input should be 'text'"),
        ("max_tokens", -2, "max_tokens: Input should be greater than or equal to -1"),
        ("top_k", -2, "top_k: Input should be greater than or equal to -1"),
    ],
)
def test_what_a_chat_cannot_have_is_said(field: str, value: object, message: str) -> None:
    body = {"messages": [{"role": "user", "content": "a"}]} | {field: value}
    assert api_error_of(body, ChatRequest)[0].startswith(message)
