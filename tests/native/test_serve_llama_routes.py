"""llama-server's own routes, log-probabilities of prompts and reranking, on a tiny model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the extra: pip install 'pytreellama[serve]'")

import httpx
from fastapi import FastAPI

from pytreellama import Engine, Model
from pytreellama.serve.app import make_app
from pytreellama.serve.settings import ServerSettings
from tiny_models import INFILL

TinyModel = Callable[..., Model]
ONCE = "the one that is"


@pytest.fixture(scope="module")
def engine(tiny_model: TinyModel) -> Iterator[Engine]:
    model = tiny_model("rope", infill=True)
    with Engine(
        model, "suffix", n_ctx=512, n_seq_max=4, n_prefill=16, n_cached_prefixes=4
    ) as engine:
        yield engine


@pytest.fixture(scope="module")
def app(engine: Engine) -> FastAPI:
    return make_app(engine, ServerSettings("tiny", sampling={"temperature": 0.0}))


def ask(app: FastAPI, path: str, **body: Any) -> httpx.Response:
    async def answer() -> httpx.Response:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.post(path, json=body)

    return asyncio.run(answer())


def told(app: FastAPI, path: str, **body: Any) -> Any:
    answer = ask(app, path, **body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def events_of(answer: httpx.Response) -> list[Any]:
    assert answer.status_code == 200, answer.text
    lines = [line for line in answer.text.splitlines() if line.startswith("data: ")]
    data = [line.removeprefix("data: ") for line in lines]
    return [json.loads(one) for one in data if one != "[DONE]"]


def test_a_completion_is_what_the_engine_writes(app: FastAPI, engine: Engine) -> None:
    answer = told(app, "/completion", prompt=ONCE, n_predict=12, return_tokens=True)
    alone = engine.generate(ONCE, max_tokens=12, temperature=0.0)
    assert (answer["content"], answer["tokens"]) == (alone.text, list(alone.tokens))
    assert answer["stop"]
    assert (answer["stop_type"], answer["stopping_word"]) == ("limit", "")
    assert answer["tokens_predicted"] == 12
    assert (
        answer["tokens_evaluated"] == answer["timings"]["prompt_n"] + answer["timings"]["cache_n"]
    )
    assert answer["timings"]["draft_n"] >= answer["timings"]["draft_n_accepted"]
    assert told(app, "/completion", prompt=ONCE, n_predict=1)["tokens"] == []


def test_a_streamed_completion_joins_to_the_whole_and_has_no_done(app: FastAPI) -> None:
    whole = told(app, "/completion", prompt=ONCE, n_predict=12, return_tokens=True)
    answer = ask(app, "/completion", prompt=ONCE, n_predict=12, stream=True)
    assert "[DONE]" not in answer.text
    *pieces, last = events_of(answer)
    assert "".join(piece["content"] for piece in pieces) == whole["content"]
    assert [token for piece in pieces for token in piece["tokens"]] == whole["tokens"]
    assert [piece["stop"] for piece in pieces] == [False] * len(pieces)
    assert (last["stop"], last["content"]) == (True, "")
    assert last["tokens_predicted"] == 12


def test_prompts_are_texts_ids_and_both_mixed(app: FastAPI, engine: Engine) -> None:
    ids = engine.encode_prompt(ONCE)
    expected = told(app, "/completion", prompt=ONCE, n_predict=4)["content"]
    tail = engine.vocab.encode(" that is", add_special=False)
    mixed = [*engine.encode_prompt("the one"), *tail]
    assert told(app, "/completion", prompt=ids, n_predict=4)["content"] == expected
    of_mixed = told(app, "/completion", prompt=["the one", *tail], n_predict=4)["content"]
    assert of_mixed == told(app, "/completion", prompt=mixed, n_predict=4)["content"]
    several = told(app, "/completion", prompt=[ONCE, ids], n_predict=4)
    assert [one["content"] for one in several] == [expected, expected]
    assert [one["index"] for one in several] == [0, 1]


def test_a_stop_string_and_probabilities_are_told(app: FastAPI) -> None:
    whole = told(app, "/completion", prompt=ONCE, n_predict=12)["content"]
    word = whole[3:6]
    answer = told(app, "/completion", prompt=ONCE, n_predict=12, stop=[word], n_probs=2)
    assert (answer["stop_type"], answer["stopping_word"]) == ("word", word)
    assert answer["content"] == whole[: whole.index(word)]
    for one in answer["completion_probabilities"]:
        assert one["id"] == one["top_logprobs"][0]["id"]  # greedy
        assert len(one["top_logprobs"]) == 2


def test_biases_come_in_all_forms(app: FastAPI, engine: Engine) -> None:
    (first,) = told(app, "/completion", prompt=ONCE, n_predict=1, return_tokens=True)["tokens"]
    for bias in ([[first, False]], {str(first): -100}, [[first, -100.0]]):
        answer = told(
            app, "/completion", prompt=ONCE, n_predict=4, return_tokens=True, logit_bias=bias
        )
        assert first not in answer["tokens"]


@pytest.mark.parametrize(
    "bias", [[[5, "abc"]], {"9" * 5000: 1}, [[5, 10**400]], [["5", "x"]]], ids=str
)
def test_a_bias_that_is_no_number_is_refused_and_no_size_is_too_much(
    app: FastAPI, bias: Any
) -> None:
    answer = ask(app, "/completion", prompt=ONCE, n_predict=1, logit_bias=bias)
    assert answer.status_code in (200, 400), answer.text


@pytest.mark.parametrize(
    "wanted",
    [
        {"mirostat": 2, "mirostat_tau": 3.0, "top_k": 5},
        {"dry_multiplier": 5.0, "dry_penalty_last_n": -1, "dry_sequence_breakers": ["x"]},
        {"xtc_probability": 1.0, "xtc_threshold": 0.001},
        {"dynatemp_range": 0.5, "top_n_sigma": 1.5},
    ],
)
def test_every_sampler_is_the_engines(app: FastAPI, engine: Engine, wanted: Any) -> None:
    names = {"n_predict": 12, "temperature": 0.9, "seed": 3} | wanted
    answer = told(app, "/completion", prompt=ONCE, return_tokens=True, **names)
    options: dict[str, Any] = {"max_tokens": 12, "temperature": 0.9, "seed": 3} | wanted
    if "dry_penalty_last_n" in options:
        options["dry_penalty_last_n"] = 2**20
    if "mirostat" in options:  # truncates in the place of others
        del options["top_k"]
    alone = engine.generate(ONCE, **options)
    assert answer["tokens"] == list(alone.tokens)
    (choice,) = told(app, "/v1/completions", prompt=ONCE, **(names | {"max_tokens": 12}))["choices"]
    assert choice["text"] == alone.text


def test_the_progress_of_a_long_prompt_is_told_where_it_is_asked_for(app: FastAPI) -> None:
    prompt = list(range(261, 311))
    for path, length in (("/completion", "n_predict"), ("/v1/completions", "max_tokens")):
        # no prefix that is cached already
        asked = {"prompt": [len(path) + 261, *prompt], length: 2, "stream": True}
        events = events_of(ask(app, path, return_progress=True, **asked))
        found = [event["prompt_progress"] for event in events if event.get("prompt_progress")]
        assert found
        assert all(one["total"] == 51 for one in found)
        processed = [one["processed"] for one in found]
        assert processed == sorted(processed)
        assert processed[-1] == 51
        events = events_of(ask(app, path, **asked))
        assert not any("prompt_progress" in event for event in events)


# -- fill in the middle


def test_infill_and_suffix_write_between_the_two(app: FastAPI, engine: Engine) -> None:
    def encode(text: str) -> list[int]:
        return engine.vocab.encode(text, add_special=False)

    ids = [1, INFILL["pre"], *encode("the one"), INFILL["suf"], *encode("is"), INFILL["mid"]]
    expected = told(app, "/completion", prompt=ids, n_predict=8)["content"]
    answer = told(app, "/infill", input_prefix="the ", prompt="one", input_suffix="is", n_predict=8)
    assert answer["content"] == expected
    body = {"prompt": "the one", "suffix": "is"}
    (choice,) = told(app, "/v1/completions", max_tokens=8, **body)["choices"]
    assert choice["text"] == expected
    raw = told(app, "/api/generate", model="", stream=False, options={"num_predict": 8}, **body)
    assert raw["response"] == expected


def test_a_model_without_the_tokens_refuses_by_the_reason(tiny_model: TinyModel) -> None:
    with Engine(tiny_model("rope"), "none", n_ctx=64) as engine:
        app = make_app(engine, ServerSettings("tiny"))
        for path, body in (
            ("/infill", {"input_prefix": "a", "input_suffix": "b"}),
            ("/v1/completions", {"prompt": "a", "suffix": "b"}),
        ):
            refused = ask(app, path, **body)
            assert refused.status_code == 400
            assert "does not fill in the middle" in refused.json()["error"]["message"]


# -- log-probabilities of prompts


def test_an_echo_has_the_log_probabilities_of_the_prompt(app: FastAPI, engine: Engine) -> None:
    for n_tokens in (0, 3):
        (choice,) = told(
            app,
            "/v1/completions",
            prompt=ONCE,
            echo=True,
            logprobs=2,
            max_tokens=n_tokens,
            temperature=0,
        )["choices"]
        ids = engine.encode_prompt(ONCE)
        logprobs = choice["logprobs"]
        assert choice["text"].startswith(ONCE)
        assert len(logprobs["tokens"]) == len(ids) + n_tokens
        own = engine.text_logprobs(ids, 2)
        assert logprobs["token_logprobs"][0] is None
        assert logprobs["top_logprobs"][0] is None
        assert logprobs["token_logprobs"][1 : len(ids)] == [one.logp for one in own]
        places = list(zip(logprobs["text_offset"], logprobs["tokens"], strict=True))
        for offset, token in places[1 : len(ids)]:
            assert choice["text"][offset:].lstrip().startswith(token.lstrip())


def test_an_echo_streams_the_same_log_probabilities(app: FastAPI) -> None:
    body = {"prompt": ONCE, "echo": True, "logprobs": 1, "max_tokens": 4, "temperature": 0}
    (choice,) = told(app, "/v1/completions", **body)["choices"]
    events = events_of(ask(app, "/v1/completions", stream=True, **body))
    pieces = [event["choices"][0] for event in events]
    assert "".join(piece["text"] for piece in pieces) == choice["text"]
    for name in ("tokens", "token_logprobs", "text_offset"):
        joined = [one for piece in pieces for one in (piece["logprobs"] or {name: []})[name]]
        assert joined == choice["logprobs"][name]


def test_prompt_logprobs_have_ranks(app: FastAPI, engine: Engine) -> None:
    (choice,) = told(app, "/v1/completions", prompt=ONCE, prompt_logprobs=2, max_tokens=1)[
        "choices"
    ]
    ids = engine.encode_prompt(ONCE)
    first, *others = choice["prompt_logprobs"]
    assert first is None
    for id, one in zip(ids[1:], others, strict=True):
        assert str(id) in one
        assert 2 <= len(one) <= 3
        assert {1, 2} <= {entry["rank"] for entry in one.values()}
    refused = ask(app, "/v1/completions", prompt=ONCE, prompt_logprobs=2, stream=True)
    assert refused.status_code == 400
    (plain,) = told(app, "/v1/completions", prompt=ONCE, max_tokens=1)["choices"]
    assert "prompt_logprobs" not in plain


# -- reranking


def test_documents_are_ordered_by_the_probability_of_the_query(
    app: FastAPI, engine: Engine
) -> None:
    documents = ["the one", "is it", "on and on"]
    answer = told(
        app, "/v1/rerank", query="in the", documents=documents, top_n=2, return_documents=True
    )
    scores = [one["relevance_score"] for one in answer["results"]]
    assert len(scores) == 2
    assert scores == sorted(scores, reverse=True)
    assert all(0.0 < score < 1.0 for score in scores)
    for one in answer["results"]:
        assert one["document"]["text"] == documents[one["index"]]
    assert answer["usage"]["prompt_tokens"] > 0
    texts = told(app, "/rerank", query="in the", texts=documents, return_text=True)
    assert [one["index"] for one in texts][:2] == [one["index"] for one in answer["results"]]
    assert [one["text"] for one in texts] == [documents[one["index"]] for one in texts]
    assert ask(app, "/rerank", query="a").status_code == 400


# -- methods


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v1/responses/a", "DELETE, GET"),
        ("/v1/responses", "POST"),
        ("/completion", "POST"),
        ("/api/tags", "GET"),
    ],
)
def test_a_wrong_method_is_told_all_that_are_right(app: FastAPI, path: str, allowed: str) -> None:
    async def answer() -> httpx.Response:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.put(path, json={})

    refused = asyncio.run(answer())
    assert (refused.status_code, refused.headers["Allow"]) == (405, allowed)


# -- speculation


def test_a_request_chooses_its_speculation_and_gets_the_same_text(app: FastAPI) -> None:
    body = {"prompt": "the one that is the one that is the one", "max_tokens": 16}
    paths = {"/v1/completions": body, "/completion": {"prompt": body["prompt"], "n_predict": 16}}
    for path, asked in paths.items():
        texts = set()
        drafted = []
        for wanted in (
            {"enabled": False},
            {"drafter": "none"},
            {"drafter": "suffix"},
            {"drafter": "auto", "n_draft": 4},
        ):
            answer = told(app, path, speculation=wanted, **asked)
            texts.add(answer["content"] if "content" in answer else answer["choices"][0]["text"])
            drafted.append(answer["timings"]["draft_n"] > 0)
        assert len(texts) == 1
        assert drafted == [False, False, True, True]
        refused = ask(app, path, speculation={"drafter": "recycling"}, **asked)
        assert refused.status_code == 400
        assert "expected one of suffix" in refused.json()["error"]["message"]


@pytest.mark.parametrize("form", ["regex", "lark"])
def test_a_text_follows_an_expression_or_a_grammar(app: FastAPI, form: str) -> None:
    constraint = {"regex": "(yes|no)", "lark": 'start: "yes" | "no"'}[form]
    text = told(app, "/v1/completions", prompt=ONCE, max_tokens=8, **{form: constraint})
    assert text["choices"][0]["text"] in ("yes", "no")


@pytest.mark.parametrize("name", ["guided_regex", "guided_json", "structured_outputs"])
def test_a_constraint_that_would_be_ignored_is_refused(app: FastAPI, name: str) -> None:
    answer = ask(app, "/v1/completions", prompt=ONCE, max_tokens=1, **{name: "[0-9]"})
    assert answer.status_code == 400
    assert "not supported; use" in answer.text
