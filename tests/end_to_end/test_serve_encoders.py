"""A server of an encoder: embeddings of many texts, and what its other routes say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="needs the extra: pip install 'pytreellama[serve]'")

from starlette.testclient import TestClient

from pytreellama import Engine, Model
from pytreellama.serve.app import make_app
from pytreellama.serve.settings import ServerSettings

TEXTS = ["the cat", "a", "another text, which is longer than the others are"]


@pytest.fixture(scope="module")
def engine(tiny_model: Callable[..., Model]) -> Iterator[Engine]:
    with Engine(tiny_model("bert"), n_queue_max=4) as engine:
        yield engine


@pytest.fixture(scope="module")
def client(tiny_model_path: Callable[..., Path]) -> Iterator[TestClient]:
    # the queue is shorter than a request
    app = make_app(Engine(tiny_model_path("bert"), n_queue_max=4), ServerSettings("bert"))
    with TestClient(app) as client:
        yield client


def test_embeddings_are_those_of_the_engine(client: TestClient, engine: Engine) -> None:
    answer = client.post("/v1/embeddings", json={"input": TEXTS * 10}).json()
    found = np.array([one["embedding"] for one in answer["data"]], np.float32)
    assert (found == np.tile(engine.embed(TEXTS), (10, 1))).all()
    assert answer["usage"]["prompt_tokens"] > 30


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "the cat"}),
        ("/v1/completions", {"prompt": "the cat", "stream": True}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hello"}]}),
        ("/v1/score", {"prompt": "the cat", "continuations": [" on"]}),
    ],
)
def test_what_generates_is_refused_with_the_reason(
    path: str, body: dict[str, Any], client: TestClient
) -> None:
    answer = client.post(path, json=body)
    assert answer.status_code == 400, answer.text
    assert "is an encoder, which embeds texts and generates none" in answer.text


def test_a_text_longer_than_a_pass_is_refused(client: TestClient) -> None:
    answer = client.post("/v1/embeddings", json={"input": "a cat " * 2000})
    assert answer.status_code == 400
    assert "maximum context length" in answer.text


@pytest.mark.parametrize("path", ["/health", "/props", "/slots", "/metrics", "/v1/models"])
def test_facts_are_told_as_of_a_decoder(path: str, client: TestClient) -> None:
    assert client.get(path).status_code == 200


def test_a_reranker_ranks_by_its_classifier(client: TestClient, engine: Engine) -> None:
    answer = client.post("/v1/rerank", json={"query": "is it", "documents": TEXTS}).json()
    scores = engine.rank("is it", TEXTS)
    found = {one["index"]: one["relevance_score"] for one in answer["results"]}
    assert found == {i: float(score) for i, score in enumerate(scores)}
    assert answer["results"][0]["index"] == int(scores.argmax())
