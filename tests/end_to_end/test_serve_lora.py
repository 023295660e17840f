"""LoRA adapters over HTTP: fields of requests, and the routes that change a server's scales."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the extra: pip install 'pytreellama[serve]'")

from starlette.testclient import TestClient

from pytreellama import Engine, Model
from pytreellama.serve.app import make_app
from pytreellama.serve.settings import ServerSettings
from tiny_lora import write_tiny_lora

PROMPT = "the cat on the mat and the"


@pytest.fixture(scope="module")
def paths(
    tmp_path_factory: pytest.TempPathFactory, tiny_model_path: Callable[..., Path]
) -> dict[str, Path]:
    folder, model = tmp_path_factory.mktemp("lora"), tiny_model_path("rope")
    return {
        name: write_tiny_lora(folder / f"{name}.gguf", model, seed=seed)
        for name, seed in (("a", 1), ("b", 2))
    }


@pytest.fixture(scope="module")
def client(tiny_model: Callable[..., Model], paths: dict[str, Path]) -> Iterator[TestClient]:
    engine = Engine(tiny_model("rope"), lora=paths, n_ctx=256, n_seq_max=2, n_threads=1)
    with TestClient(make_app(engine, ServerSettings("rope"))) as client:
        yield client


def written(client: TestClient, **fields: Any) -> str:
    body = {"prompt": PROMPT, "max_tokens": 16, "temperature": 0, **fields}
    answer = client.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    text: str = answer.json()["choices"][0]["text"]
    return text


def test_scales_by_id_and_by_name_are_those_of_the_engine(
    client: TestClient, tiny_model: Callable[..., Model], paths: dict[str, Path]
) -> None:
    model = tiny_model("rope")
    options: dict[str, Any] = {"max_tokens": 16, "temperature": 0.0}
    with Engine(model, "none", lora=paths, n_ctx=256, n_threads=1) as engine:
        both, b, bare = (
            engine.generate(PROMPT, lora=lora, **options).text for lora in (None, {"b": 0.5}, {})
        )
    assert written(client) == both
    assert written(client, lora=[{"id": 1, "scale": 0.5}]) == b
    assert written(client, lora={"b": 0.5}) == b
    assert written(client, lora=[]) == written(client, lora={}) == bare
    assert len({both, b, bare}) == 3


def test_the_servers_scales_are_told_and_changed(client: TestClient) -> None:
    told = client.get("/lora-adapters").json()
    assert told == [
        {"id": 0, "name": "a", "path": "a.gguf", "scale": 1.0},
        {"id": 1, "name": "b", "path": "b.gguf", "scale": 1.0},
    ]
    before = written(client)
    try:
        answer = client.post("/lora-adapters", json=[{"id": 1, "scale": 0.5}])
        assert [one["scale"] for one in answer.json()] == [0.0, 0.5]
        assert written(client) == written(client, lora={"b": 0.5}) != before
    finally:
        client.post("/lora-adapters", json=[{"id": 0, "scale": 1.0}, {"id": 1, "scale": 1.0}])
    assert written(client) == before


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ([{"id": 2, "scale": 1.0}], "invalid id=2"),
        ([{"id": 0, "scale": 1.0}, {"id": 0, "scale": 0.5}], "each id once"),
        ([{"id": 0}], "scale"),
        ({"c": 1.0}, "expected one of a, b"),
        ({"a": 1e9}, "less than or equal to 1000"),
        ("a", "lora"),
    ],
)
def test_wrong_scales_are_refused(lora: Any, message: str, client: TestClient) -> None:
    body = {"prompt": PROMPT, "max_tokens": 2, "lora": lora}
    answer = client.post("/v1/completions", json=body)
    assert answer.status_code == 400, answer.text
    assert message in answer.text
    if isinstance(lora, list):
        assert client.post("/lora-adapters", json=lora).status_code == 400


def test_a_chat_takes_scales_too(client: TestClient) -> None:
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 8, "temperature": 0}
    bare, changed = (
        client.post("/v1/chat/completions", json=body | {"lora": lora}).json()["choices"][0]
        for lora in ({}, {"a": 1.0})
    )
    assert bare["message"] != changed["message"]


def test_a_path_of_several_routes_names_all_its_methods(client: TestClient) -> None:
    answer = client.delete("/lora-adapters")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, POST"
