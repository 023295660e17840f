"""A crowd of clients, some of whom leave: everyone gets what the model writes alone, all ends well.

The server is a process of its own, with a cache that holds a part of what is asked for at once.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from exactness import needs_exact
from pytreellama import Engine, Model
from pytreellama.sampling.defaults import USUAL_SAMPLING
from served import Served, served

TinyPath = Callable[..., Path]
Body = dict[str, Any]

N_CLIENTS, N_BODIES, SECONDS = 64, 200, 15.0
N_CTX, N_CACHED, N_PARALLEL, N_QUEUE = 512, 8, 8, 60
MAX_GROWTH = 64 << 20
SIZES = {
    "--n-ctx": N_CTX,
    "--parallel": N_PARALLEL,
    "--cached-prefixes": N_CACHED,
    "--queue": N_QUEUE,
}
OPTIONS = (
    *(str(part) for option in SIZES.items() for part in option),
    *("--drafter", "suffix", "--threads", "1", "--log-level", "warning"),
)


# --- what is asked, and what the engine says alone ----------------------------------------------


def prompt_of(rng: random.Random) -> list[int]:
    """Tokens that repeat themselves, and begin as other prompts do."""
    words = random.Random(rng.randint(0, 3))
    known = [words.sample(range(5, 250), 4) for _ in range(3)]
    common = [token for _ in range(12) for token in words.choice(known)]
    own = [token for _ in range(rng.randint(1, 25)) for token in rng.choice(known)]
    return common[: rng.randint(1, len(common))] + own


def body_of(seed: int) -> tuple[str, Body]:
    """A route and what is sent there; the text is greedy or drawn with a seed."""
    rng = random.Random(seed)
    kind = rng.choice(["text"] * 8 + ["score", "embed"])
    if kind == "embed":
        return "/v1/embeddings", {
            "input": [prompt_of(rng) for _ in range(rng.randint(1, 2))],
            "encoding_format": rng.choice(["float", "base64"]),
        }
    if kind == "score":
        continuations = [prompt_of(rng)[: rng.randint(1, 8)] for _ in range(rng.randint(1, 6))]
        return "/v1/score", {"prompt": prompt_of(rng), "continuations": continuations}
    return "/v1/completions", {
        "prompt": prompt_of(rng),
        "max_tokens": rng.randint(1, 60),
        "temperature": rng.choice([0.0, 0.0, 0.8, 1.0]),
        "top_k": rng.choice([0, 40]),
        "seed": rng.randint(0, 99),
        "n": rng.choice([1, 1, 1, 2, 3]),
        "stream": rng.choice([False, True]),
        "stream_options": {"include_usage": True},
    }


def alone(engine: Engine, path: str, body: Body) -> object:
    """What the same request gives when nothing else runs."""
    if path == "/v1/embeddings":
        return engine.embed(body["input"]).tolist()
    if path == "/v1/score":
        return [one.logps.tolist() for one in engine.score(body["prompt"], body["continuations"])]
    asked = {name: body[name] for name in ("max_tokens", "temperature", "top_k")}
    options = {**USUAL_SAMPLING, **asked}
    return [
        engine.generate(body["prompt"], seed=body["seed"] + i, **options).text
        for i in range(body["n"])
    ]


def told(path: str, answer: Body) -> object:
    """What a whole answer says, in the same form."""
    if path == "/v1/embeddings":
        return [vector_of(one["embedding"]) for one in answer["data"]]
    if path == "/v1/score":
        return [one["token_logprobs"] for one in answer["data"]]
    return [choice["text"] for choice in sorted(answer["choices"], key=lambda one: one["index"])]


def vector_of(given: str | list[float]) -> list[float]:
    if isinstance(given, list):
        return given
    return np.frombuffer(base64.b64decode(given), np.float32).tolist()


# --- the crowd ----------------------------------------------------------------------------------


@dataclass
class Crowd:
    """Clients of one server, and what became of their requests.

    Attributes:
        answers: by the number of the request's body, all that came.
        first_s, end_s: to the first piece, and to the end.
    """

    url: str
    answers: dict[int, list[object]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    first_s: list[float] = field(default_factory=list)
    end_s: list[float] = field(default_factory=list)

    async def run(self, seconds: float, seed: int) -> None:
        until_s = time.monotonic() + seconds
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=N_CLIENTS)
        async with httpx.AsyncClient(base_url=self.url, limits=limits, timeout=60.0) as client:
            rngs = [random.Random(seed * N_CLIENTS + i) for i in range(N_CLIENTS)]
            await asyncio.gather(*(self._client(client, rng, until_s) for rng in rngs))

    async def _client(self, client: httpx.AsyncClient, rng: random.Random, until_s: float) -> None:
        while time.monotonic() < until_s:
            index = rng.randrange(N_BODIES)
            path, body = body_of(index)
            leaves_s = rng.uniform(0.0, 0.3) if rng.random() < 0.25 else 60.0
            ask = self._stream if body.get("stream") else self._whole
            try:
                await asyncio.wait_for(ask(client, index, path, body), leaves_s)
            except asyncio.TimeoutError:
                assert leaves_s < 1.0, "an answer did not come within a minute"
                self.counts["left"] += 1

    async def _whole(self, client: httpx.AsyncClient, index: int, path: str, body: Body) -> None:
        asked_s = time.perf_counter()
        answer = await client.post(path, json=body)
        if await self._is_refused(answer):
            return
        self._add(index, told(path, answer.json()), asked_s)

    async def _stream(self, client: httpx.AsyncClient, index: int, path: str, body: Body) -> None:
        asked_s, texts, last = time.perf_counter(), [""] * body["n"], ""
        async with client.stream("POST", path, json=body) as answer:
            if await self._is_refused(answer):
                return
            async for line in answer.aiter_lines():
                if not line:
                    continue
                last = line.removeprefix("data: ")
                if last == "[DONE]":
                    continue
                for choice in json.loads(last)["choices"]:
                    if not any(texts):
                        self.first_s.append(time.perf_counter() - asked_s)
                    texts[choice["index"]] += choice["text"]
        assert last == "[DONE]"
        self._add(index, texts, asked_s)

    async def _is_refused(self, answer: httpx.Response) -> bool:
        """True if it was asked to come again, which it does soon."""
        if answer.status_code == 200:
            return False
        await answer.aread()
        assert answer.status_code == 429, answer.text
        assert int(answer.headers["retry-after"]) >= 1
        self.counts["refused"] += 1
        await asyncio.sleep(0.2)
        return True

    def _add(self, index: int, answer: object, asked_s: float) -> None:
        self.end_s.append(time.perf_counter() - asked_s)
        self.answers.setdefault(index, []).append(answer)
        self.counts["answered"] += 1


def milliseconds(values: list[float]) -> str:
    points = np.percentile(values, [50, 95, 99]) * 1e3
    return " ".join(f"p{p} {ms:.0f} ms" for p, ms in zip((50, 95, 99), points, strict=True))


def wait_until_idle(one: Served) -> None:
    give_up_s = time.monotonic() + 10
    while one.metric("pytreellama_running") or one.metric("pytreellama_queued"):
        assert time.monotonic() < give_up_s, "requests are left"
        time.sleep(0.05)


@dataclass(frozen=True)
class Outcome:
    """A crowd that is through, and the server before, meanwhile and after."""

    crowd: Crowd
    server: Served
    n_files: tuple[int, int]
    rss: tuple[int, int]


@pytest.fixture(scope="module")
def model_path(tiny_model_path: TinyPath) -> Path:
    return tiny_model_path("rope", stops=True)


@pytest.fixture(scope="module")
def outcome(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcome]:
    with served(model_path, tmp_path_factory.mktemp("load"), *OPTIONS) as server:
        process = psutil.Process(server.process.pid)
        crowd = Crowd(server.url)
        asyncio.run(crowd.run(SECONDS / 15, seed=1))  # what is loaded once is loaded
        wait_until_idle(server)
        n_files = process.num_fds()
        asyncio.run(crowd.run(SECONDS / 3, seed=2))
        rss = process.memory_info().rss
        asyncio.run(crowd.run(SECONDS * 2 / 3, seed=3))
        wait_until_idle(server)
        after = (process.num_fds(), process.memory_info().rss)
        yield Outcome(crowd, server, (n_files, after[0]), (rss, after[1]))


@needs_exact
def test_everyone_in_a_crowd_gets_what_the_model_writes_alone(
    outcome: Outcome, model_path: Path
) -> None:
    crowd = outcome.crowd
    print(dict(crowd.counts), f"{len(crowd.answers)} different")
    print("to the first token:", milliseconds(crowd.first_s))
    print("to the end:", milliseconds(crowd.end_s))
    assert crowd.counts["answered"] > 100 and crowd.counts["left"] > 10
    assert outcome.server.metric("pytreellama_preemptions_total") > 0, "there was room for all"
    assert outcome.server.metric("pytreellama_cached_tokens_total") > 0
    assert outcome.server.metric("pytreellama_accepted_tokens_total") > 0
    with Model(model_path) as model, Engine(model, "none", n_ctx=N_CTX, n_threads=1) as engine:
        for index, answers in crowd.answers.items():
            expected = alone(engine, *body_of(index))
            for answer in answers:
                assert answer == expected, body_of(index)


def test_nothing_is_left_of_a_crowd(outcome: Outcome, model_path: Path) -> None:
    server = outcome.server
    assert server.metric("pytreellama_running") == server.metric("pytreellama_queued") == 0
    assert server.metric("pytreellama_cached_prefixes") <= N_CACHED
    assert server.metric("pytreellama_cache_cells_used") <= N_CTX
    before, after = outcome.n_files
    assert after <= before + 8, "files or sockets are left open"
    third, end = outcome.rss
    print(f"{third / 1e6:.0f} MB after a third, {end / 1e6:.0f} MB at the end")
    assert end - third < MAX_GROWTH
    assert "Traceback" not in server.log, server.log


def test_all_of_the_cache_can_be_had_after_a_crowd(outcome: Outcome) -> None:
    prompt = [5 + i % 240 for i in range(N_CTX - 20)]
    body = {"prompt": prompt, "max_tokens": 20, "temperature": 0, "ignore_eos": True}
    answer = httpx.post(f"{outcome.server.url}/v1/completions", json=body, timeout=60).json()
    assert answer["usage"]["total_tokens"] == N_CTX
    assert answer["choices"][0]["finish_reason"] == "length"


# --- a server that is killed --------------------------------------------------------------------


def completion(url: str, body: Body) -> Body:
    return httpx.post(f"{url}/v1/completions", json=body, timeout=60).raise_for_status().json()


def test_a_server_that_was_killed_comes_back_with_the_texts_that_were_saved_before(
    model_path: Path, tmp_path: Path
) -> None:
    cache_file = tmp_path / "prefixes.bin"
    options = (*OPTIONS, "--prefix-cache-file", str(cache_file))
    body = {"prompt": prompt_of(random.Random(5)) * 2, "max_tokens": 40, "temperature": 0}
    with served(model_path, tmp_path, *options) as first:
        expected = completion(first.url, body)
        port = str(httpx.URL(first.url).port)
    saved = cache_file.read_bytes()
    endless = body | {"stream": True, "max_tokens": 300, "ignore_eos": True}
    with (
        served(model_path, tmp_path, *options, "--port", port) as second,
        httpx.stream("POST", f"{second.url}/v1/completions", json=endless) as stream,
    ):
        lines = stream.iter_lines()
        assert next(lines).startswith("data: {")
        second.process.kill()
        second.process.wait()
        with pytest.raises(httpx.TransportError):
            list(lines)
    assert cache_file.read_bytes() == saved
    with served(model_path, tmp_path, *options, "--port", port) as third:
        assert httpx.URL(third.url).port == int(port)
        again = completion(third.url, body)
        assert again["choices"] == expected["choices"]
        assert again["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
        assert "Traceback" not in third.log


def test_a_truncated_prefix_cache_file_that_broke_off_does_not_keep_a_server_from_starting(
    model_path: Path, tmp_path: Path
) -> None:
    cache_file = tmp_path / "prefixes.bin"
    options = (*OPTIONS, "--prefix-cache-file", str(cache_file))
    body = {"prompt": prompt_of(random.Random(5)), "max_tokens": 8, "temperature": 0}
    with served(model_path, tmp_path, *options) as first:
        expected = completion(first.url, body)
    saved = cache_file.read_bytes()
    for n_bytes in (0, len(saved) // 2):
        cache_file.write_bytes(saved[:n_bytes])
        with served(model_path, tmp_path, *options) as second:
            assert completion(second.url, body)["choices"] == expected["choices"]
