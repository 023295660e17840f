"""A server of several models: loaded when they are asked for, unloaded when they are idle."""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the extra: pip install 'pytreellama[serve]'")

import httpx
from fastapi import FastAPI
from starlette.testclient import TestClient

from pytreellama import Engine, Model
from pytreellama.errors import ModelLoadError
from pytreellama.serve.app import make_app
from pytreellama.serve.host.host_app import make_host_app
from pytreellama.serve.host.model_files import models_in, named_models
from pytreellama.serve.host.model_host import ModelHost
from pytreellama.serve.settings import ServerSettings
from served import served

SETTINGS = ServerSettings("host", max_body_bytes=1 << 16)
BODY = {"prompt": "the cat on the", "max_tokens": 8, "temperature": 0}


@pytest.fixture(scope="module")
def models(
    tmp_path_factory: pytest.TempPathFactory, tiny_model_path: Callable[..., Path]
) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    for name, kind in (("a", "rope"), ("b", "neox"), ("c", "bert")):
        shutil.copy(tiny_model_path(kind), folder / f"{name}.gguf")
    (folder / "broken.gguf").write_bytes(b"GGUF" + bytes(60))
    for name in ("a.eagle3.gguf", "a.medusa.gguf", "mmproj-a.gguf"):
        (folder / name).write_bytes(b"no model")
    return named_models(models_in(folder))


class Opened:
    """Opens apps, and knows which and when."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.may_open = threading.Event()
        self.may_open.set()

    def __call__(self, name: str, path: Path) -> FastAPI:
        assert self.may_open.wait(60)
        self.names.append(name)
        with Model(path) as model:
            engine = Engine(model, "none", n_ctx=256, n_seq_max=2, n_threads=1)
        return make_app(engine, replace(SETTINGS, model_name=name), is_outermost=False)


@contextmanager
def hosting(
    models: dict[str, Path], settings: ServerSettings = SETTINGS, **options: Any
) -> Iterator[tuple[TestClient, ModelHost, Opened]]:
    opened = Opened()
    host = ModelHost(models, opened, **options)
    with TestClient(make_host_app(host, settings)) as client:
        yield client, host, opened
    assert host.loaded == []


def ask(client: TestClient, model: str | None, **fields: Any) -> Any:
    body = BODY | ({} if model is None else {"model": model}) | fields
    return client.post("/v1/completions", json=body)


def states(client: TestClient) -> dict[str, str]:
    return {one["id"]: one["meta"]["status"] for one in client.get("/v1/models").json()["data"]}


def test_each_request_is_answered_by_its_model(models: dict[str, Path]) -> None:
    expected = {}
    for name in ("a", "b"):
        with Engine(models[name], "none", n_ctx=256, n_threads=1) as engine:
            expected[name] = engine.generate("the cat on the", max_tokens=8, temperature=0.0).text
    with hosting(models) as (client, _, opened):
        assert set(states(client).values()) == {"unloaded"}
        for name in ("a", "b", "a", "b"):
            answer = ask(client, name).json()
            assert (answer["model"], answer["choices"][0]["text"]) == (name, expected[name])
        assert opened.names == ["a", "b"]
        assert states(client) == {"a": "loaded", "b": "loaded", "c": "unloaded", **_BROKEN}
        vectors = client.post("/v1/embeddings", json={"model": "c", "input": ["a", "b"]}).json()
        assert len(vectors["data"]) == 2


_BROKEN = {"broken": "unloaded"}


def test_a_request_without_a_model_goes_to_the_one_used_last(models: dict[str, Path]) -> None:
    with hosting(models) as (client, _, opened):
        assert ask(client, None).json()["model"] == "a"  # the first
        ask(client, "b")
        assert ask(client, None).json()["model"] == "b"
        assert opened.names == ["a", "b"]


def test_streams_and_facts_come_from_the_model_that_is_named(models: dict[str, Path]) -> None:
    with hosting(models) as (client, _, _):
        lines = ask(client, "b", stream=True).text
        assert '"model":"b"' in lines
        assert lines.rstrip().endswith("data: [DONE]")
        assert client.get("/props", params={"model": "a"}).json()["model_path"] == "a.gguf"
        assert client.get("/props").json()["model_path"] == "a.gguf"
        assert client.get("/v1/models/b").json()["meta"]["n_ctx"] == 256
        text = client.get("/metrics").text
        assert 'pytreellama_tokens_total{model="b"} 8.0' in text
        assert 'pytreellama_tokens_total{model="a"} 0.0' in text
        assert client.get("/").status_code == 200


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/embeddings", "/tokenize"])
def test_an_unknown_model_is_refused_and_none_is_loaded(path: str, models: dict[str, Path]) -> None:
    with hosting(models) as (client, _, opened):
        answer = client.post(path, json={"model": "d", "prompt": "a", "input": "a"})
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "model_not_found"
        assert client.get("/v1/models/d").status_code == 404
        assert client.get("/favicon.ico").status_code == 404
        assert opened.names == []


def test_any_name_may_mean_the_model_used_last(models: dict[str, Path]) -> None:
    with hosting(models, replace(SETTINGS, is_any_model=True)) as (client, _, opened):
        assert ask(client, "a").status_code == 200
        answer = client.get("/props", params={"model": "gpt"})
        assert answer.json()["model_path"] == "a.gguf"
        assert opened.names == ["a"]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"{", "the body is not JSON"), (b'{"model": 5}', "model: "), (b"\xff", "not JSON")],
)
def test_bodies_that_cannot_be_read_load_nothing(
    content: bytes, message: str, models: dict[str, Path]
) -> None:
    with hosting(models) as (client, _, opened):
        headers = {"content-type": "application/json"}
        answer = client.post("/v1/completions", content=content, headers=headers)
        assert answer.status_code == 400
        assert message in answer.json()["error"]["message"]
        large = {"model": "a", "prompt": "x" * (1 << 17)}
        assert client.post("/v1/completions", json=large).status_code == 413
        assert opened.names == []


def test_keys_are_asked_for_before_a_model_is_loaded(models: dict[str, Path]) -> None:
    with hosting(models, replace(SETTINGS, api_keys=("sesame",))) as (client, _, opened):
        assert ask(client, "a").status_code == 401
        assert client.get("/v1/models").status_code == 401
        assert client.get("/health").status_code == 200
        assert opened.names == []
        headers = {"authorization": "Bearer sesame"}
        answer = client.post("/v1/completions", json=BODY, headers=headers)
        assert answer.status_code == 200


def test_a_model_that_cannot_be_loaded_is_an_answer(models: dict[str, Path]) -> None:
    with hosting(models) as (client, _, _):
        for _ in range(2):
            answer = ask(client, "broken")
            assert answer.status_code == 500
            error = answer.json()["error"]
            assert error["code"] == "model_load_failed"
            assert "broken.gguf" in error["message"]
            assert str(models["broken"].parent) not in error["message"]
        assert ask(client, "a").status_code == 200


def test_the_model_used_longest_ago_leaves_for_another(models: dict[str, Path]) -> None:
    with hosting(models, n_max=2) as (client, _, opened):
        for name in ("a", "b", "a"):
            ask(client, name)
        client.post("/v1/embeddings", json={"model": "c", "input": "a"})
        assert states(client) == {"a": "loaded", "b": "unloaded", "c": "loaded", **_BROKEN}
        assert ask(client, "b").json()["model"] == "b"
        assert states(client)["a"] == "unloaded"
        assert opened.names == ["a", "b", "c", "b"]


def test_a_model_that_nobody_uses_is_unloaded(models: dict[str, Path]) -> None:
    with hosting(models, idle_s=0.2) as (client, _, opened):
        ask(client, "a")
        until_s = time.monotonic() + 20
        while states(client)["a"] == "loaded" and time.monotonic() < until_s:
            time.sleep(0.05)
        assert states(client)["a"] == "unloaded"
        assert ask(client, "a").status_code == 200
        assert opened.names == ["a", "a"]


def test_models_are_loaded_and_unloaded_by_hand(models: dict[str, Path]) -> None:
    with hosting(models) as (client, _, opened):
        assert client.post("/models/b/load").json()["meta"]["status"] == "loaded"
        assert client.post("/models/b/unload").json()["meta"]["status"] == "unloaded"
        assert client.post("/models/b/unload").status_code == 200
        assert client.post("/models/d/load").status_code == 404
        assert opened.names == ["b"]


def run_together(
    models: dict[str, Path], bodies: Sequence[dict[str, Any]], **options: Any
) -> tuple[list[httpx.Response], Opened]:
    """Answers to requests that are sent together while the first load is held up."""
    opened = Opened()
    opened.may_open.clear()

    async def run() -> list[httpx.Response]:
        host = ModelHost(models, opened, **options)
        app = make_host_app(host, SETTINGS)
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://host", timeout=120) as client,
        ):
            asking = [
                asyncio.create_task(client.post("/v1/completions", json=BODY | body))
                for body in bodies
            ]
            await asyncio.sleep(0.2)
            assert not any(task.done() for task in asking)
            opened.may_open.set()
            return await asyncio.gather(*asking)

    return asyncio.run(run()), opened


def test_requests_wait_while_their_model_is_loaded_once(models: dict[str, Path]) -> None:
    answers, opened = run_together(models, [{"model": "a"}] * 4)
    assert [answer.status_code for answer in answers] == [200] * 4
    assert opened.names == ["a"]


def test_models_take_turns_where_one_fits_and_all_are_answered(models: dict[str, Path]) -> None:
    bodies = [{"model": name, "max_tokens": 40} for name in "ababbaab"]
    answers, opened = run_together(models, bodies, n_max=1)
    assert [answer.json()["model"] for answer in answers] == list("ababbaab")
    assert len(opened.names) <= len(bodies)


def test_a_busy_model_is_waited_for_so_long_and_no_longer(models: dict[str, Path]) -> None:
    async def run() -> None:
        opened = Opened()
        host = ModelHost(models, opened, n_max=1, wait_s=0.2)
        a, b = host.models["a"], host.models["b"]
        async with host.use(a):
            with pytest.raises(Exception, match="is in use, and no more models fit"):
                async with host.use(b):
                    pass
            assert a.state == "loaded"
        async with host.use(b):
            assert a.state == "unloaded"
        await host.close()
        with pytest.raises(Exception, match="being stopped"):
            async with host.use(a):
                pass

    asyncio.run(run())


def test_a_folder_gives_models_by_name(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in (
        *("one.gguf", "two-00001-of-00002.gguf", "two-00002-of-00002.gguf", "mmproj-one.gguf"),
        *("notes.txt", "sub/three.gguf"),
    ):
        (tmp_path / name).touch()
    found = named_models(models_in(tmp_path))
    assert {name: path.name for name, path in found.items()} == {
        "one": "one.gguf",
        "two": "two-00001-of-00002.gguf",
        "three": "three.gguf",
    }
    (tmp_path / "sub" / "one.gguf").touch()
    with pytest.raises(ModelLoadError, match="two models are called 'one'"):
        named_models(models_in(tmp_path))
    with pytest.raises(ModelLoadError, match="expected a folder"):
        models_in(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelLoadError, match="there is no GGUF model"):
        models_in(tmp_path / "empty")


def test_the_command_serves_a_folder(models: dict[str, Path], tmp_path: Path) -> None:
    options = ("--models-dir", str(models["a"].parent), "--models-max", "1", "--n-ctx", "256")
    with served(models["a"], tmp_path, *options, "--drafter", "none") as server:
        for name in ("b", "a"):
            answer = httpx.post(
                f"{server.url}/v1/completions", json=BODY | {"model": name}, timeout=60
            )
            assert answer.json()["model"] == name, answer.text


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/openapi.json"), ("POST", "/health"), ("POST", "/"), ("GET", "/assets/a/b")],
)
def test_without_a_key_no_model_is_chosen(models: dict[str, Path], method: str, path: str) -> None:
    settings = replace(SETTINGS, api_keys=("secret",))
    with hosting(models, settings, n_max=1) as (client, _, opened):
        known = {"Authorization": "Bearer secret"}
        assert client.post("/v1/models/a/load", headers=known).status_code == 200
        client.request(method, path, params={"model": "b"})
        assert opened.names == ["a"]


def test_another_origins_page_loads_and_unloads_nothing(models: dict[str, Path]) -> None:
    foreign = {"Origin": "http://elsewhere.example", "Content-Type": "text/plain"}
    with hosting(models) as (client, _, opened):
        for what in ("load", "unload"):
            answer = client.post(f"/v1/models/a/{what}", headers=foreign, content="x")
            assert answer.status_code == 400
        assert opened.names == []
