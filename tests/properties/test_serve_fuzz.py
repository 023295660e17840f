"""Whatever a client sends: an answer or a refusal in OpenAI's form, and nothing stays behind."""

from __future__ import annotations

import asyncio
import copy
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import example, given
from hypothesis import strategies as st

from pytreellama import Engine, Model
from pytreellama.serve.app import make_app
from pytreellama.serve.settings import ServerSettings

TinyModel = Callable[..., Model]

MAX_BYTES = 1 << 16


def _tool_with(parameters: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "look", "parameters": parameters}}


_TOOL = _tool_with({"type": "object"})
_CALL = {"id": "1", "type": "function", "function": {"name": "look", "arguments": "{}"}}

VALID: list[tuple[str, dict[str, Any]]] = [
    ("/v1/completions", {"prompt": "Once", "max_tokens": 2, "logit_bias": {"5": 1.0}}),
    ("/v1/completions", {"prompt": [[5, 6], [7]], "n": 2, "logprobs": 1, "stop": ["a"]}),
    (
        "/v1/completions",
        {"prompt": "a", "stream": True, "stream_options": {"include_steps": True}, "top_k": 3},
    ),
    (
        "/v1/chat/completions",
        {
            "messages": [
                {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": None, "tool_calls": [_CALL]},
                {"role": "tool", "content": "A fox.", "tool_call_id": "1"},
            ],
            "tools": [_TOOL],
            "tool_choice": "auto",
            "chat_template_kwargs": {"mood": [1, None]},
            "metadata": {"a": "b"},
        },
    ),
    (
        "/v1/chat/completions",
        {
            "messages": [{"role": "user", "content": "Hi"}],
            "response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "null"}}},
            "seed": -1,
            "temperature": 1.5,
            "logprobs": True,
            "top_logprobs": 2,
            "stream": True,
        },
    ),
    (
        "/v1/chat/completions",
        {
            "messages": [{"role": "user", "content": "Hi"}],
            "tools": [_TOOL],
            "tool_choice": {"type": "function", "function": {"name": "look"}},
        },
    ),
    ("/v1/embeddings", {"input": ["a", "b"], "encoding_format": "base64"}),
    ("/v1/score", {"prompt": "a", "continuations": ["b", [5, 6]]}),
    ("/v1/score", {"messages": [{"role": "user", "content": "Hi"}], "continuations": ["b"]}),
]
PATHS = sorted({path for path, _ in VALID})


@dataclass(frozen=True)
class Server:
    """An app, the engine behind it, and the loop that it runs in."""

    app: FastAPI
    engine: Engine
    loop: asyncio.AbstractEventLoop

    def ask(
        self,
        path: str,
        content: bytes | AsyncIterator[bytes],
        content_type: str = "application/json",
        **headers: str,
    ) -> httpx.Response:
        """What it answers, which is never that it failed; and it has done all there was to do."""
        answer = self.loop.run_until_complete(
            self._ask(path, content, {"content-type": content_type, **headers})
        )
        require_answer(answer)
        self.require_idle()
        return answer

    async def _ask(
        self, path: str, content: bytes | AsyncIterator[bytes], headers: dict[str, Any]
    ) -> httpx.Response:
        transport = httpx.ASGITransport(app=self.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.post(path, content=content, headers=headers)

    def require_idle(self) -> None:
        give_up_s = time.monotonic() + 1
        while self.engine.n_open or self.engine.load.n_running or self.engine.load.n_waiting:
            assert time.monotonic() < give_up_s, f"{self.engine.load} is left of the request"
            time.sleep(0.001)

    def require_alive(self) -> None:
        body = json.dumps({"prompt": "a", "max_tokens": 1}).encode()
        assert self.ask("/v1/completions", body).status_code == 200


def require_answer(answer: httpx.Response) -> None:
    """An answer, or a refusal in OpenAI's form."""
    assert answer.status_code < 500, answer.text
    if answer.is_success:
        for line in answer.text.splitlines():
            if line.startswith("data: {"):
                require_no_failure(json.loads(line.removeprefix("data: ")))
        return
    assert answer.status_code >= 400
    assert answer.headers["content-type"] == "application/json"
    require_no_failure(answer.json())
    assert "error" in answer.json()


def require_no_failure(event: dict[str, Any]) -> None:
    """Whatever it is, it is no fault of the server's; a stream may turn out to be impossible."""
    error = event.get("error")
    if error is not None:
        assert error.keys() == {"message", "type", "param", "code"}
        assert isinstance(error["message"], str) and error["message"]
        assert isinstance(error["param"], (str, type(None)))
        assert error["type"] != "server_error", error


@pytest.fixture(scope="module")
def server(tiny_model: TinyModel) -> Iterator[Server]:
    settings = ServerSettings(
        model_name="tiny",
        max_tokens=4,
        max_body_bytes=MAX_BYTES,
        request_s=5.0,
        allowed_hosts=("localhost",),
    )
    loop = asyncio.new_event_loop()
    model = tiny_model("rope", stops=True)
    with Engine(
        model, "suffix", n_ctx=512, n_seq_max=4, n_cached_prefixes=2, n_threads=1
    ) as engine:
        one = Server(make_app(engine, settings), engine, loop)
        yield one
        one.require_alive()
    loop.run_until_complete(end_tasks())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


async def end_tasks() -> None:
    """Of libraries, which think that their loop runs for ever."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


# --- what is sent -------------------------------------------------------------------------------

_odd_texts = st.text(st.characters(codec=None, categories=None), max_size=8) | st.sampled_from(
    ["\ud800", "\udfff a", "\0", "{{ 1 / 0 }}", "<|im_end|>", "é" * 600, "-1", "1e400", ""]
)
_odd_numbers = st.sampled_from(
    [
        *(0, -1, 1, 2**31, 2**32 - 1, 2**63, -(2**63) - 1, 10**400),
        *(1e308, -0.0, 0.5, 1.0, 1e-320, float("nan"), float("inf"), float("-inf")),
    ]
)
_scalars = st.none() | st.booleans() | _odd_numbers | st.integers() | _odd_texts
_values = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_odd_texts, inner, max_size=3),
    max_leaves=6,
)


def _places(value: object, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Of all that is in a value of JSON, itself included."""
    inner = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    return [path, *(place for key, one in inner for place in _places(one, (*path, key)))]


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


@st.composite
def _mutated(draw: st.DrawFn) -> tuple[str, Any]:
    """A valid request in which some values are others, more or fewer."""
    path, body = copy.deepcopy(draw(st.sampled_from(VALID)))
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.sampled_from(_places(body)))
        if not place:
            continue
        parent, key = _at(body, place[:-1]), place[-1]
        act = draw(st.sampled_from(["replace", "replace", "remove", "add", "double"]))
        if act == "replace":
            parent[key] = draw(_values)
        elif act == "remove":
            del parent[key]
        elif isinstance(parent, dict):
            other = draw(st.sampled_from(_FIELDS) | _odd_texts)
            parent[other] = draw(_values) if act == "add" else copy.deepcopy(parent[key])
        else:
            parent.append(draw(_values) if act == "add" else copy.deepcopy(parent[key]))
    return path, body


_FIELDS = sorted(
    {key for _, body in VALID for place in _places(body) for key in place if isinstance(key, str)}
    | {"n", "grammar", "min_p", "echo", "best_of", "suffix", "user", "dimensions", "typical_p"}
    | {"repeat_penalty", "penalty_last_n", "frequency_penalty", "ignore_eos", "top_p", "$ref"}
)


def dumped(value: object) -> bytes:
    """As JSON; half surrogate pairs as escapes, NaN as Python and JavaScript write it."""
    return json.dumps(value).encode()


# --- tests --------------------------------------------------------------------------------------


_HALF = {"a": ["\ud800"], "\udfff": 1}


@given(request=_mutated())
@example(request=(VALID[3][0], VALID[3][1] | {"chat_template_kwargs": _HALF}))
@example(request=(VALID[3][0], VALID[3][1] | {"\ud800": 1}))
@example(request=(VALID[5][0], {**VALID[5][1], "tools": [_tool_with(_HALF)]}))
def test_requests_that_are_nearly_right_are_answered_or_refused(
    server: Server, request: tuple[str, Any]
) -> None:
    server.ask(request[0], dumped(request[1]))
    server.require_alive()


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/completions", {}, "prompt"),
        ("/v1/completions", {"prompt": ["a", 5]}, "prompt.1"),
        ("/v1/completions", {"prompt": [[5], [-1]]}, "prompt.1.0"),
        ("/v1/completions", {"prompt": "a", "n": 0}, "n"),
        ("/v1/completions", {"prompt": "a", "logit_bias": {"5": 101}}, "logit_bias.5"),
        ("/v1/chat/completions", {"messages": [{"content": "a"}]}, "messages.0.role"),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": 5}]},
            "messages.0.content",
        ),
        ("/v1/score", {"prompt": "a", "continuations": ["b", []]}, "continuations.1"),
    ],
)
def test_a_refusal_names_the_field_as_it_stands_in_the_body(
    server: Server, path: str, body: dict[str, Any], param: str
) -> None:
    error = server.ask(path, dumped(body)).json()["error"]
    assert error["param"] == param
    assert "constrained" not in error["message"]


@given(path=st.sampled_from(PATHS), value=_values)
def test_any_json_is_refused(server: Server, path: str, value: Any) -> None:
    assert server.ask(path, dumped(value)).status_code == 400
    server.require_alive()


@given(
    path=st.sampled_from(PATHS),
    content=st.binary(max_size=200),
    content_type=st.sampled_from(
        [
            "application/json",
            "text/plain",
            "",
            "application/json; charset=utf-16",
            "multipart/form-data",
        ]
    ),
)
@example(path="/v1/completions", content=b'{"prompt": "\xff"}', content_type="application/json")
@example(path="/v1/completions", content=b"\xff\xfe{\x00}\x00", content_type="application/json")
@example(path="/v1/completions", content=b"9" * 5000, content_type="application/json")
@example(path="/v1/completions", content=b"", content_type="application/json")
def test_any_bytes_are_refused(
    server: Server, path: str, content: bytes, content_type: str
) -> None:
    assert server.ask(path, content, content_type).status_code == 400
    server.require_alive()


@given(request=st.sampled_from(VALID), data=st.data())
def test_a_body_that_breaks_off_is_refused(
    server: Server, request: tuple[str, dict[str, Any]], data: st.DataObject
) -> None:
    path, body = request
    whole = dumped(body)
    assert server.ask(path, whole[: data.draw(st.integers(0, len(whole) - 1))]).status_code == 400


@pytest.mark.parametrize(("path", "body"), VALID)
def test_valid_requests_are_answered_as_json_alone(
    server: Server, path: str, body: dict[str, Any]
) -> None:
    assert server.ask(path, dumped(body)).status_code == 200
    for other in ("text/plain", "application/x-www-form-urlencoded", "nonsense"):
        assert server.ask(path, dumped(body), other).status_code == 400


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("n", [100, 1_000, 10_000])
@pytest.mark.parametrize(("begin", "end"), [("[", "]"), ('{"a":', "}"), ('{"prompt":[', "]}")])
def test_nesting_of_any_depth_is_refused(
    server: Server, path: str, n: int, begin: str, end: str
) -> None:
    middle = "1" if begin != "[" else ""
    assert server.ask(path, (begin * n + middle + end * n).encode()[:MAX_BYTES]).status_code == 400
    server.require_alive()


@pytest.mark.parametrize("n", [10, 100, 300, 900, 5_000])
@pytest.mark.parametrize("field", ["chat_template_kwargs", "tools", "response_format", "metadata"])
def test_deep_values_where_any_json_is_allowed_are_answered_or_refused(
    server: Server, field: str, n: int
) -> None:
    deep = '{"items":' * n + "{}" + "}" * n
    value = {
        "tools": f'[{{"type":"function","function":{{"name":"a","parameters":{deep}}}}}],'
        '"tool_choice":"required"',
        "response_format": f'{{"type":"json_schema","json_schema":{{"schema":{deep}}}}}',
    }.get(field, deep)
    body = f'{{"messages":[{{"role":"user","content":"a"}}],"{field}":{value}}}'
    server.ask("/v1/chat/completions", body.encode())
    server.require_alive()


_GBNF = [
    "",
    "root",
    "root ::= root",
    'root ::= "a" | b',
    'root ::= ("a"',
    "root ::= [z-a]",
    'root ::= "a"{1000000000}',
    'root ::= "a"{3,1}',
    "root ::= [^\0]",
    'x ::= "a"',
    "\ud800",
    "root ::= " + "(" * 20_000,
    "root ::= a\na ::= b\nb ::= a",
    '{"type": "object"}',
    'start: "a"',
]


@pytest.mark.parametrize("grammar", _GBNF)
def test_a_grammar_that_is_none_is_refused(server: Server, grammar: str) -> None:
    body = {"prompt": "a", "grammar": grammar}
    assert server.ask("/v1/completions", dumped(body)).status_code == 400
    server.require_alive()


_SCHEMAS: list[dict[str, Any]] = [
    {"type": "nonsense"},
    {"type": 5},
    {"$ref": "#/nowhere"},
    {"$ref": "http://example.org/schema"},
    {"$ref": "#"},
    {"enum": []},
    {"pattern": "("},
    {"type": "string", "minLength": 5, "maxLength": 1},
    {"type": "string", "pattern": "(a+)+$" * 50},
    {"allOf": [{"type": "string"}, {"type": "number"}]},
    {"type": "array", "minItems": 10**9},
    {"type": "string", "minLength": 10**9},
    {"const": "\ud800"},
    {"properties": {"\ud800": {}}},
    {"type": "number", "minimum": float("nan")},
    {"type": "integer", "minimum": 10**400},
    {"not": {}},
    {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
]


@pytest.mark.parametrize("schema", _SCHEMAS, ids=str)
@pytest.mark.parametrize("stream", [False, True])
def test_a_schema_that_nothing_follows_is_refused_or_does_no_harm(
    server: Server, schema: dict[str, Any], stream: bool
) -> None:
    body = {
        "messages": [{"role": "user", "content": "Hi"}],
        "response_format": {"type": "json_schema", "json_schema": {"schema": schema}},
        "stream": stream,
    }
    answer = server.ask("/v1/chat/completions", dumped(body))
    if schema == {"$ref": "#"}:
        assert answer.status_code == 400, answer.text
    server.require_alive()


class TestLargeBodies:
    body = dumped({"prompt": "a" * MAX_BYTES})

    def test_a_body_that_is_too_large_is_refused(self, server: Server) -> None:
        assert server.ask("/v1/completions", self.body).status_code == 413

    def test_so_is_one_whose_length_is_not_told(self, server: Server) -> None:
        async def pieces() -> AsyncIterator[bytes]:
            for start in range(0, len(self.body), 1000):
                yield self.body[start : start + 1000]

        answer = server.ask("/v1/completions", pieces())
        assert "content-length" not in answer.request.headers
        assert answer.status_code == 413

    def test_so_is_one_whose_length_is_told_wrongly(self, server: Server) -> None:
        told = {"content-length": "10"}
        assert server.ask("/v1/completions", self.body, **told).status_code == 413


@given(host=st.text(st.characters(max_codepoint=0xFF, exclude_categories=["Cc"]), max_size=20))
@example(host="localhost.evil.example")
@example(host="evil.example:localhost")
@example(host="[localhost")
def test_a_name_that_is_not_its_own_is_refused(server: Server, host: str) -> None:
    if host.partition(":")[0].lower() == "localhost":
        return
    answer = server.loop.run_until_complete(
        server._ask("/v1/completions", dumped({"prompt": "a"}), {"host": host.encode("latin-1")})
    )
    require_answer(answer)
    assert answer.status_code == 403
