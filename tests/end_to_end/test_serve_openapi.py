"""The OpenAPI document tells the truth: what it allows is served, the rest refused as it says."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import schemathesis
from fastapi import FastAPI
from pydantic import BaseModel
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import from_schema
from schemathesis.engine.events import EngineEvent, FatalError, NonFatalError, ScenarioFinished

from pytreellama import Engine, Model
from pytreellama.serve.answers import (
    ChatChunk,
    ChatCompletion,
    EmbeddingList,
    ErrorBody,
    ModelCard,
    ModelList,
    ScoreList,
    TextCompletion,
)
from pytreellama.serve.app import make_app
from pytreellama.serve.error_forms import AnthropicErrorBody, OllamaErrorBody
from pytreellama.serve.protocols.anthropic_answers import AnthropicCount, AnthropicMessage
from pytreellama.serve.protocols.llama_answers import LlamaCompletion, RerankList
from pytreellama.serve.protocols.ollama_answers import (
    OllamaChat,
    OllamaEmbedding,
    OllamaEmbeddings,
    OllamaModels,
    OllamaRunningModels,
    OllamaText,
    OllamaVersion,
)
from pytreellama.serve.protocols.responses_answers import ResponseObject
from pytreellama.serve.settings import ServerSettings

TinyModel = Callable[..., Model]

KEY = {"Authorization": "Bearer sesame"}

_CONFIG = {
    "seed": 1,
    "workers": 1,
    "headers": KEY,
    "request-timeout": 120.0,  # 2,048 texts to embed, on a machine that does other things
    "generation": {"deterministic": True, "max-examples": 100, "no-shrink": True},
    "phases": {"stateful": {"enabled": False}},  # nothing that is answered can be asked for later
    "checks": {
        # What has the right form may be wrong all the same: a grammar, a token id, a template's
        # variable, a whole number that is written 1.0. The document's own examples are tried below.
        "positive_data_acceptance": {"enabled": False}
    },
}


# bodies with so many fields that all their boundaries take minutes
_PROTOCOLS = "^/(api/|completion|infill|v1/(messages|responses|rerank))"
_FEW: dict[str, Any] = _CONFIG | {
    "generation": {"deterministic": True, "max-examples": 20, "no-shrink": True},
    "phases": {"stateful": {"enabled": False}, "coverage": {"enabled": False}},
}


@contextmanager
def app_of(model: Model) -> Iterator[FastAPI]:
    settings = ServerSettings(model_name="tiny", max_tokens=8, request_s=60.0, api_keys=("sesame",))
    with Engine(model, "suffix", n_ctx=512, n_seq_max=4, n_cached_prefixes=4) as engine:
        yield make_app(engine, settings)


@pytest.fixture(scope="module")
def app(tiny_model: TinyModel) -> Iterator[FastAPI]:
    with app_of(tiny_model("rope", stops=True, infill=True)) as app:
        yield app


@pytest.fixture(scope="module")
def events(tiny_model: TinyModel) -> list[EngineEvent]:
    """What happened while all was tried that the document tells of, and what it excludes."""
    model = tiny_model("rope", stops=True, infill=True)
    found: list[EngineEvent] = []
    for config, is_protocol in ((_CONFIG, False), (_FEW, True)):
        with app_of(model) as app:
            schema = schemathesis.openapi.from_asgi(
                "/openapi.json", app, config=SchemathesisConfig.from_dict(config)
            )
            choose = schema.include if is_protocol else schema.exclude
            # it shuts the app down at the end
            found += from_schema(choose(path_regex=_PROTOCOLS)).execute()
    return found


def ask(app: FastAPI, path: str, body: object = None) -> httpx.Response:
    async def answer() -> httpx.Response:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            if body is None:
                return await client.get(path, headers=KEY)
            return await client.post(path, json=body, headers=KEY)

    return asyncio.run(answer())


def document_of(app: FastAPI) -> dict[str, Any]:
    return ask(app, "/openapi.json").json()


def test_every_answer_is_one_that_the_document_tells_of(events: list[EngineEvent]) -> None:
    """Statuses, content types, bodies and events; bad data, methods and keys are refused."""
    failures = [
        f"{scenario.recorder.label}: {check.name}: {check.failure_info.failure.message}\n"
        f"{check.failure_info.code_sample}"
        for scenario in events
        if isinstance(scenario, ScenarioFinished)
        for checks in scenario.recorder.checks.values()
        for check in checks
        if check.failure_info is not None
    ]
    errors = [str(event) for event in events if isinstance(event, (NonFatalError, FatalError))]
    assert not failures + errors, "\n\n".join(failures + errors)


def test_every_route_has_been_asked_with_success_and_every_one_that_takes_data_without(
    events: list[EngineEvent],
) -> None:
    seen: dict[str, set[int]] = {}
    for scenario in events:
        if isinstance(scenario, ScenarioFinished):
            statuses = seen.setdefault(scenario.recorder.label, set())
            answers = scenario.recorder.interactions.values()
            statuses |= {one.response.status_code for one in answers if one.response is not None}
    assert len(seen) == 31
    for label, statuses in seen.items():
        asked = {200, 400} if label.startswith("POST") else {200}
        path = label.partition(" ")[2]
        is_twin = label != f"POST {path}" and f"POST {path}" in seen  # other methods: asked once
        if re.match(_PROTOCOLS, path) is None and not is_twin:
            asked.add(405)
        if "/responses/{id}" in label:  # nobody guesses the id of a response
            asked = {404}
        assert statuses >= asked, label


def test_what_the_document_gives_as_examples_is_served(app: FastAPI) -> None:
    document = document_of(app)
    n_examples = 0
    for path, operations in document["paths"].items():
        if "post" not in operations:
            continue
        content = operations["post"]["requestBody"]["content"]
        name = content["application/json"]["schema"]["$ref"].rpartition("/")[2]
        for example in document["components"]["schemas"][name]["examples"]:
            n_examples += 1
            answer = ask(app, path, example)
            assert answer.status_code == 200, answer.text
    assert n_examples == 19


def test_the_document_promises_no_422_and_asks_for_keys_where_the_server_does(app: FastAPI) -> None:
    document = document_of(app)
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert "422" not in operation["responses"]
            assert ("security" in operation) == (path != "/health")
    assert "422" not in json.dumps(document["paths"])
    assert "ValidationError" not in json.dumps(document)


def require_whole(text: str, model: type[BaseModel]) -> None:
    """Valid, and with every field that the model tells of and no other."""
    answer = model.model_validate_json(text, strict=True)
    assert answer.model_dump(mode="json") == json.loads(text)


_TEXT = {"prompt": "Once upon", "max_tokens": 8, "seed": 1}
_CHAT = {"messages": [{"role": "user", "content": "Hi!"}], "seed": 1}
_CHAT_OF_CLAUDE = {"messages": _CHAT["messages"], "max_tokens": 8}
_CHAT_OF_OLLAMA = {"model": "", "messages": _CHAT["messages"], "stream": False}
_TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
_ALL_STEPS = {"include_usage": True, "include_steps": True}

ASKED = [
    ("/v1/completions", _TEXT, TextCompletion),
    ("/v1/completions", _TEXT | {"n": 2, "logprobs": 2, "ignore_eos": True}, TextCompletion),
    ("/v1/completions", _TEXT | {"echo": True, "stop": ["e"]}, TextCompletion),
    ("/v1/completions", _TEXT | {"echo": True, "logprobs": 1}, TextCompletion),
    ("/v1/completions", _TEXT | {"return_progress": True}, TextCompletion),
    (
        "/v1/completions",
        _TEXT | {"prompt": [[5], [6, 7]], "stream_options": _ALL_STEPS},
        TextCompletion,
    ),
    ("/v1/chat/completions", _CHAT, ChatChunk),
    ("/v1/chat/completions", _CHAT | {"n": 3, "stream_options": _ALL_STEPS}, ChatChunk),
    ("/v1/chat/completions", _CHAT | {"logprobs": True, "top_logprobs": 3}, ChatChunk),
    ("/v1/chat/completions", _CHAT | {"tools": [_TOOL], "tool_choice": "required"}, ChatChunk),
    ("/v1/chat/completions", _CHAT | {"response_format": {"type": "json_object"}}, ChatChunk),
]


@pytest.mark.parametrize(("path", "body", "chunk"), ASKED)
def test_every_answer_and_every_chunk_has_the_fields_of_its_model_and_no_others(
    app: FastAPI, path: str, body: dict[str, Any], chunk: type[BaseModel]
) -> None:
    whole = ask(app, path, body)
    require_whole(whole.text, ChatCompletion if chunk is ChatChunk else chunk)
    stream = ask(app, path, body | {"stream": True})
    lines = [line for line in stream.text.splitlines() if line]
    assert lines.pop() == "data: [DONE]"
    for line in lines:
        require_whole(line.removeprefix("data: "), chunk)
    finished = [choice["finish_reason"] for choice in whole.json()["choices"]]
    events = [json.loads(line.removeprefix("data: ")) for line in lines]
    reasons = {
        choice["index"]: choice["finish_reason"]
        for event in events
        for choice in event["choices"]
        if choice["finish_reason"] is not None
    }
    assert [reasons[i] for i in range(len(finished))] == finished


@pytest.mark.parametrize(
    ("path", "body", "model"),
    [
        ("/v1/models", None, ModelList),
        ("/v1/models/tiny", None, ModelCard),
        ("/v1/embeddings", {"input": "a"}, EmbeddingList),
        ("/v1/embeddings", {"input": ["a", "b"], "encoding_format": "base64"}, EmbeddingList),
        ("/v1/score", {"prompt": "a", "continuations": ["b", [5, 6]]}, ScoreList),
        ("/v1/responses", {"input": "a", "store": False}, ResponseObject),
        ("/v1/messages", _CHAT_OF_CLAUDE, AnthropicMessage),
        ("/v1/messages/count_tokens", _CHAT_OF_CLAUDE, AnthropicCount),
        ("/v1/messages", {}, AnthropicErrorBody),
        ("/api/chat", _CHAT_OF_OLLAMA, OllamaChat),
        ("/api/generate", {"model": "", "prompt": "a", "stream": False}, OllamaText),
        ("/api/generate", {"model": "", "prompt": "", "stream": False}, OllamaText),
        ("/api/embed", {"model": "", "input": "a"}, OllamaEmbeddings),
        ("/api/embeddings", {"model": "", "prompt": "a"}, OllamaEmbedding),
        ("/api/tags", None, OllamaModels),
        ("/api/ps", None, OllamaRunningModels),
        ("/api/version", None, OllamaVersion),
        ("/api/chat", {}, OllamaErrorBody),
        ("/completion", {"prompt": "a", "n_predict": 2, "n_probs": 2}, LlamaCompletion),
        ("/infill", {"input_prefix": "a", "input_suffix": "b", "n_predict": 2}, LlamaCompletion),
        ("/v1/rerank", {"query": "a", "documents": ["a"], "return_documents": True}, RerankList),
        ("/v1/models/other", None, ErrorBody),
        ("/v1/completions", {"prompt": []}, ErrorBody),
        ("/nowhere", None, ErrorBody),
    ],
)
def test_other_answers_have_the_fields_of_their_models_and_no_others(
    app: FastAPI, path: str, body: object, model: type[BaseModel]
) -> None:
    require_whole(ask(app, path, body).text, model)
