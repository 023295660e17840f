"""OpenAI's own client and a real server: each answer is what was asked for, and the engine's."""

from __future__ import annotations

import asyncio
import json
import math
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="needs the extra: pip install 'pytreellama[serve]'")
pytest.importorskip("openai", reason="needs openai: pip install 'pytreellama[test]'")

import httpx
import openai
from pydantic import BaseModel, ConfigDict, Field

from exactness import needs_exact
from prompts import load_prompts
from pytreellama import Engine, Model
from pytreellama.model.default_model import default_model_path
from served import Served, served

NAME = "small"
N_CTX = 2048
MAX_BODY = 1 << 16
LIMITS = ("--n-ctx", str(N_CTX), "--parallel", "8", "--max-body", str(MAX_BODY))
SAID: list[Any] = [
    {"role": "user", "content": "What is the weather in Paris? Answer in one sentence."}
]
ONCE = "Once upon a time"
ENDLESS = {"ignore_eos": True}

METRICS = (
    "running",
    "queued",
    "cached_prefixes",
    "kept_texts",
    "prefix_checkpoints",
    "prefix_checkpoint_bytes",
    "cache_cells_used",
    "cache_cells",
    "answers_total",
    "faults_total",
    "prompt_tokens_total",
    "cached_tokens_total",
    "tokens_total",
    "steps_total",
    "drafted_tokens_total",
    "accepted_tokens_total",
    "preemptions_total",
    "tokens_per_step_count",
    "first_token_seconds_count",
    "between_tokens_seconds_count",
    "answer_seconds_count",
)


class Place(BaseModel):
    """Where something is."""

    model_config = ConfigDict(extra="forbid")

    city: str = Field(max_length=20)
    country: Literal["France", "Norway", "Peru"]


class Weather(BaseModel):
    """Tells what the weather will be."""

    model_config = ConfigDict(extra="forbid")

    place: Place
    n_days: int = Field(ge=1, le=9)


class Greeting(BaseModel):
    """Says hello to somebody."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=20)


WEATHER = openai.pydantic_function_tool(Weather)
GREETING = openai.pydantic_function_tool(Greeting)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def start(folder: Path) -> Callable[..., Any]:
    """Starts one more server of the same model."""
    return lambda *options, **more: served(default_model_path(), folder, *options, **more)


@pytest.fixture(scope="module")
def server(start: Callable[..., Any]) -> Iterator[Served]:
    with start("--alias", NAME, *LIMITS) as one:
        yield one


@pytest.fixture(scope="module")
def client(server: Served) -> Iterator[openai.OpenAI]:
    with client_of(server) as one:
        yield one


@pytest.fixture(scope="module")
def plain(default_model: Model) -> Iterator[Engine]:
    """What writes the same texts without a server, without guesses and alone."""
    with Engine(default_model, "none", n_ctx=N_CTX) as engine:
        yield engine


def client_of(one: Served, key: str = "any") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{one.url}/v1", api_key=key, max_retries=0, timeout=60.0)


def complete(client: openai.OpenAI, prompt: Any = ONCE, **options: Any) -> Any:
    whole: dict[str, Any] = {"model": NAME, "temperature": 0, "max_tokens": 16, **options}
    return client.completions.create(prompt=prompt, **whole)


def chat(client: openai.OpenAI, messages: Any = SAID, **options: Any) -> Any:
    whole: dict[str, Any] = {"model": NAME, "temperature": 0, "max_tokens": 16, **options}
    return client.chat.completions.create(messages=messages, **whole)


def texts_of(completion: Any) -> list[str]:
    assert [choice.index for choice in completion.choices] == list(range(len(completion.choices)))
    return [choice.text for choice in completion.choices]


def only_call(choice: Any) -> Any:
    assert choice.finish_reason == "tool_calls"
    assert not choice.message.content
    (call,) = choice.message.tool_calls
    assert call.type == "function" and call.id
    return call.function


def arguments_of(function: Any) -> BaseModel:
    """The arguments, which must satisfy the schema of the function that is called."""
    kinds: dict[str, type[BaseModel]] = {"Weather": Weather, "Greeting": Greeting}
    return kinds[function.name].model_validate_json(function.arguments)


def soon(holds: Callable[[], bool], within_s: float = 2.0) -> bool:
    give_up_s = time.monotonic() + within_s
    while time.monotonic() < give_up_s:
        if holds():
            return True
        time.sleep(0.02)
    return holds()


def is_idle(one: Served) -> bool:
    """Has every request ended?"""
    return one.metric("pytreellama_running") + one.metric("pytreellama_queued") == 0


# -- texts


def test_a_text_goes_on_and_is_counted(client: openai.OpenAI) -> None:
    completion = complete(client, max_tokens=9)
    assert completion.object == "text_completion"
    assert completion.model == NAME
    (choice,) = completion.choices
    assert choice.text and choice.finish_reason == "length"
    usage = completion.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (4, 9, 13)


def test_an_answer_has_sixteen_tokens_unless_more_are_asked_for(client: openai.OpenAI) -> None:
    completion = client.completions.create(model=NAME, prompt=ONCE)
    assert completion.usage and completion.usage.completion_tokens <= 16


def test_every_prompt_gets_its_answers_in_order(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"temperature": 1, "max_tokens": 12}
    both = texts_of(complete(client, [ONCE, "The capital of"], n=2, seed=3, **options))
    assert len(set(both)) == 4
    first = texts_of(complete(client, ONCE, n=2, seed=3, **options))
    second = texts_of(complete(client, "The capital of", n=2, seed=3, **options))
    assert both == first + second
    assert texts_of(complete(client, ONCE, seed=4, **options)) == first[1:]


def test_the_same_seed_writes_the_same_text(client: openai.OpenAI) -> None:
    texts = [texts_of(complete(client, temperature=1, seed=seed)) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_token_ids_are_a_prompt(client: openai.OpenAI, plain: Engine) -> None:
    ids = plain.encode_prompt(ONCE)
    assert texts_of(complete(client, ids)) == texts_of(complete(client))
    assert texts_of(complete(client, [ids, ids])) == 2 * texts_of(complete(client))


def test_echo_puts_the_prompt_before_the_text(client: openai.OpenAI) -> None:
    assert texts_of(complete(client, echo=True)) == [ONCE + complete(client).choices[0].text]


def test_a_stop_string_ends_the_text_and_is_no_part_of_it(client: openai.OpenAI) -> None:
    whole = complete(client, max_tokens=24).choices[0].text
    end = whole[10:13]
    (choice,) = complete(client, max_tokens=24, stop=[end, "never"]).choices
    assert choice.text == whole[: whole.index(end)]
    assert choice.finish_reason == "stop"


def test_log_probabilities_belong_to_the_tokens_of_the_text(client: openai.OpenAI) -> None:
    (choice,) = complete(client, logprobs=3).choices
    told = choice.logprobs
    assert "".join(told.tokens) == choice.text
    for token, logp, top, offset in zip(
        told.tokens, told.token_logprobs, told.top_logprobs, told.text_offset, strict=True
    ):
        assert logp <= 0.0
        assert len(top) == 3
        assert top[token] == max(top.values()) == logp
        assert choice.text[offset:].startswith(token)


def test_a_text_in_pieces_is_the_text(client: openai.OpenAI) -> None:
    whole = complete(client, [ONCE, "The capital of"], n=2, max_tokens=24)
    texts, reasons, usage = [""] * 4, [None] * 4, None
    options = {"include_usage": True}
    for chunk in complete(
        client, [ONCE, "The capital of"], n=2, max_tokens=24, stream=True, stream_options=options
    ):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            assert reasons[choice.index] is None
            texts[choice.index] += choice.text
            reasons[choice.index] = choice.finish_reason
    assert texts == texts_of(whole)
    assert reasons == [choice.finish_reason for choice in whole.choices]
    assert usage is not None
    assert usage.completion_tokens == whole.usage.completion_tokens
    assert usage.prompt_tokens == whole.usage.prompt_tokens


# -- chats


def test_a_chat_is_answered(client: openai.OpenAI) -> None:
    completion = chat(client, [{"role": "user", "content": "Say hello."}], max_tokens=None)
    (choice,) = completion.choices
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert choice.finish_reason == "stop"
    assert completion.usage.total_tokens > completion.usage.completion_tokens > 0


def test_content_in_parts_and_the_developer_are_understood(client: openai.OpenAI) -> None:
    parts = [{"type": "text", "text": "What is "}, {"type": "text", "text": "the sea?"}]
    new = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts}]
    old = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is the sea?"},
    ]
    assert chat(client, new).choices[0].message == chat(client, old).choices[0].message


def test_a_message_goes_back_as_the_client_dumps_it(client: openai.OpenAI) -> None:
    said = chat(client).choices[0].message
    plain = {"role": "assistant", "content": said.content}
    again = [
        chat(client, [*SAID, message, {"role": "user", "content": "And now?"}])
        for message in (said.model_dump(), said, plain)
    ]
    assert len({answer.choices[0].message.content for answer in again}) == 1
    assert len({answer.usage.prompt_tokens for answer in again}) == 1


@pytest.mark.parametrize("n", [1, 3])
def test_a_chat_in_pieces_is_the_answer(client: openai.OpenAI, n: int) -> None:
    options: dict[str, Any] = {"n": n, "temperature": 0.8, "seed": 5, "max_tokens": 24}
    whole = chat(client, **options)
    texts, usage = [""] * n, None
    for chunk in chat(client, stream=True, stream_options={"include_usage": True}, **options):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == [choice.message.content for choice in whole.choices]
    assert usage is not None
    assert usage.completion_tokens == whole.usage.completion_tokens


def test_usage_comes_only_where_it_is_asked_for(client: openai.OpenAI) -> None:
    assert all(chunk.usage is None for chunk in chat(client, stream=True, max_tokens=4))


def test_log_probabilities_of_a_chat_are_those_of_its_tokens(client: openai.OpenAI) -> None:
    (choice,) = chat(client, logprobs=True, top_logprobs=4).choices
    for one in choice.logprobs.content:
        assert one.logprob <= 0.0
        assert [top.logprob for top in one.top_logprobs] == sorted(
            (top.logprob for top in one.top_logprobs), reverse=True
        )
        assert (one.token, one.logprob) == (one.top_logprobs[0].token, one.top_logprobs[0].logprob)
        assert len(one.top_logprobs) == 4
        assert sum(math.exp(top.logprob) for top in one.top_logprobs) <= 1.0 + 1e-6
    written = b"".join(bytes(one.bytes) for one in choice.logprobs.content)
    assert written.decode() == choice.message.content


def test_log_probabilities_in_pieces_are_those_of_the_whole(client: openai.OpenAI) -> None:
    whole = chat(client, logprobs=True, top_logprobs=2).choices[0].logprobs.content
    pieces = chat(client, logprobs=True, top_logprobs=2, stream=True)
    told = [c.logprobs.content for chunk in pieces for c in chunk.choices if c.logprobs]
    assert [one for some in told for one in some] == whole


@needs_exact
def test_many_chats_at_once_get_what_the_model_writes_alone(server: Served, plain: Engine) -> None:
    chats = [prompt["messages"] for prompt in load_prompts()]

    async def answers() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="any") as client:
            options: Any = {"model": NAME, "temperature": 0, "max_tokens": 24}
            asked = [
                client.chat.completions.create(messages=messages, **options) for messages in chats
            ]
            return [one.choices[0].message.content or "" for one in await asyncio.gather(*asked)]

    alone = [plain.generate(chat, max_tokens=24, temperature=0).text for chat in chats]
    assert asyncio.run(answers()) == alone


@needs_exact
def test_texts_and_their_log_probabilities_are_the_engine_s(
    client: openai.OpenAI, plain: Engine
) -> None:
    (choice,) = complete(client, logprobs=2).choices
    alone = plain.generate(ONCE, max_tokens=16, logprobs=2)
    assert choice.text == alone.text
    assert alone.logprobs is not None
    assert choice.logprobs.token_logprobs == [one.logp for one in alone.logprobs]


# -- what an answer must be


@pytest.mark.parametrize("seed", range(3))
def test_an_answer_satisfies_the_schema_that_was_asked_for(
    client: openai.OpenAI, seed: int
) -> None:
    parsed = client.chat.completions.parse(
        model=NAME,
        messages=[{"role": "user", "content": "Where is the Eiffel tower?"}],
        response_format=Place,
        temperature=1,
        seed=seed,
        max_tokens=200,
    )
    assert isinstance(parsed.choices[0].message.parsed, Place)


def test_any_json_object_can_be_asked_for(client: openai.OpenAI) -> None:
    messages = [{"role": "user", "content": "Describe a cat as JSON with the fields name and age."}]
    format = {"type": "json_object"}
    (choice,) = chat(client, messages, response_format=format, max_tokens=200).choices
    assert choice.finish_reason == "stop"
    assert isinstance(json.loads(choice.message.content), dict)


def test_no_format_is_a_format(client: openai.OpenAI) -> None:
    told = chat(client, response_format={"type": "text"}).choices[0].message
    assert told == chat(client).choices[0].message


# -- functions


@pytest.mark.parametrize("seed", range(3))
def test_a_call_that_is_required_satisfies_its_function_s_schema(
    client: openai.OpenAI, seed: int
) -> None:
    options: dict[str, Any] = {"temperature": 1, "seed": seed, "max_tokens": 200}
    tools = [WEATHER, GREETING]
    (choice,) = chat(client, tools=tools, tool_choice="required", **options).choices
    arguments_of(only_call(choice))


@pytest.mark.parametrize("tool", [WEATHER, GREETING])
def test_the_function_that_is_named_is_called(client: openai.OpenAI, tool: Any) -> None:
    named = {"type": "function", "function": {"name": tool["function"]["name"]}}
    options: dict[str, Any] = {"tools": [WEATHER, GREETING], "tool_choice": named}
    function = only_call(chat(client, max_tokens=200, **options).choices[0])
    assert function.name == tool["function"]["name"]
    arguments_of(function)


def test_a_call_in_pieces_is_the_call(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"model": NAME, "temperature": 0, "max_tokens": 200}
    tools: Any = [WEATHER]
    whole = chat(client, tools=tools, tool_choice="required", **options).choices[0]
    with client.chat.completions.stream(
        messages=SAID,
        tools=tools,
        tool_choice="required",
        **options,
    ) as stream:
        final = stream.get_final_completion().choices[0]
    assert only_call(final).arguments == only_call(whole).arguments
    arguments_of(only_call(final))


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_that_max_tokens_cut_is_the_beginning_of_the_call(
    client: openai.OpenAI, stream: bool
) -> None:
    def called(max_tokens: int) -> Any:
        options: dict[str, Any] = {"tools": [WEATHER], "tool_choice": "required"}
        asked = {"max_tokens": max_tokens, "temperature": 0, **options}
        if not stream:
            return chat(client, **asked).choices[0]
        with client.chat.completions.stream(messages=SAID, model=NAME, **asked) as events:
            try:
                return events.get_final_completion().choices[0]
            except openai.LengthFinishReasonError as error:
                return error.completion.choices[0]

    whole, cut = called(200), called(16)
    assert cut.finish_reason == "length"
    (call,) = cut.message.tool_calls
    assert call.function.name == "Weather"
    assert only_call(whole).arguments.startswith(call.function.arguments)
    assert len(call.function.arguments) < len(only_call(whole).arguments)


def test_what_a_function_said_goes_back_to_the_model(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"tools": [WEATHER], "max_tokens": 60}
    asked = chat(client, tool_choice="required", **(options | {"max_tokens": 200}))
    called = asked.choices[0].message
    said = {"role": "tool", "tool_call_id": called.tool_calls[0].id, "content": "Rain, 12 degrees."}
    answered = chat(client, [*SAID, called, said], tool_choice="none", **options)
    assert answered.choices[0].message.content
    assert answered.choices[0].message.tool_calls is None
    without = chat(client, [*SAID, called, said | {"content": ""}], tool_choice="none", **options)
    assert answered.usage.prompt_tokens > without.usage.prompt_tokens


def test_tools_that_may_not_be_called_are_not_told_of(client: openai.OpenAI) -> None:
    forbidden = chat(client, tools=[WEATHER], tool_choice="none")
    assert forbidden.choices[0].message == chat(client).choices[0].message


def test_a_model_that_may_call_may_also_answer(client: openai.OpenAI) -> None:
    (choice,) = chat(client, tools=[WEATHER], tool_choice="auto", max_tokens=40).choices
    assert choice.message.content or choice.message.tool_calls


def test_a_function_that_is_not_offered_cannot_be_named(client: openai.OpenAI) -> None:
    named = {"type": "function", "function": {"name": "Nothing"}}
    with pytest.raises(openai.BadRequestError, match="Nothing") as caught:
        chat(client, tools=[WEATHER], tool_choice=named)
    assert caught.value.param == "tool_choice"


# -- evaluations


def test_vectors_are_the_same_as_numbers_and_in_base64(client: openai.OpenAI) -> None:
    texts = ["The sea is blue.", "Ships sail on it."]
    numbers = client.embeddings.create(model=NAME, input=texts, encoding_format="float")
    packed = client.embeddings.create(model=NAME, input=texts)  # the client asks for base64
    as_numbers = np.array([one.embedding for one in numbers.data], dtype=np.float32)
    as_packed = np.array([one.embedding for one in packed.data], dtype=np.float32)
    np.testing.assert_array_equal(as_numbers, as_packed)
    np.testing.assert_allclose(np.linalg.norm(as_numbers, axis=1), 1.0, atol=1e-5)
    assert numbers.usage.prompt_tokens == numbers.usage.total_tokens > 0
    assert [one.index for one in numbers.data] == [0, 1]


@needs_exact
def test_vectors_are_the_engine_s(client: openai.OpenAI, plain: Engine) -> None:
    told = client.embeddings.create(model=NAME, input=ONCE).data[0].embedding
    np.testing.assert_array_equal(np.array(told, dtype=np.float32), plain.embed([ONCE])[0])


@needs_exact
@pytest.mark.parametrize("given", [{"prompt": "The capital of France is"}, {"messages": SAID}])
def test_scores_are_the_engine_s(server: Served, plain: Engine, given: dict[str, Any]) -> None:
    continuations: list[Any] = [" Paris", " Rome, I think", " Rome, of course", [28, 28]]
    body = given | {"model": NAME, "continuations": continuations}
    told = httpx.post(f"{server.url}/v1/score", json=body).raise_for_status().json()
    (prompt,) = given.values()
    scores = plain.score(prompt, continuations)
    assert [one["logprob"] for one in told["data"]] == [one.logp for one in scores]
    assert [one["tokens"] for one in told["data"]] == [list(one.tokens) for one in scores]
    assert [one["token_logprobs"] for one in told["data"]] == [s.logps.tolist() for s in scores]


# -- facts


def test_the_model_is_listed_and_found(client: openai.OpenAI) -> None:
    (listed,) = client.models.list()
    assert listed.id == NAME
    assert client.models.retrieve(NAME) == listed
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


def test_metrics_count_what_was_written(server: Served, client: openai.OpenAI) -> None:
    before = server.metric("pytreellama_tokens_total")
    list(complete(client, max_tokens=7, stream=True))
    with pytest.raises(openai.NotFoundError):
        complete(client, model="other")
    assert soon(lambda: server.metric("pytreellama_tokens_total") >= before + 7)
    values = {name: server.metric(f"pytreellama_{name}") for name in METRICS}
    assert values["cache_cells"] == N_CTX
    assert values["faults_total"] > 0
    assert 0 < values["first_token_seconds_count"] <= values["answer_seconds_count"]
    assert values["accepted_tokens_total"] <= values["drafted_tokens_total"]


# -- what is refused


def test_an_unknown_model_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="other") as caught:
        chat(client, model="other")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_is_too_long_is_refused(client: openai.OpenAI, stream: bool) -> None:
    with pytest.raises(openai.BadRequestError, match=str(N_CTX)) as caught:
        complete(client, "word " * N_CTX, stream=stream)
    assert caught.value.code == "context_length_exceeded"


def test_a_schema_that_is_none_is_refused(client: openai.OpenAI) -> None:
    schema = {"name": "it", "schema": {"type": "nonsense"}}
    with pytest.raises(openai.BadRequestError, match="nonsense"):
        chat(client, response_format={"type": "json_schema", "json_schema": schema})


def test_a_body_that_is_no_json_is_refused(server: Served) -> None:
    answer = httpx.post(
        f"{server.url}/v1/completions",
        content=b'{"prompt": ',
        headers={"Content-Type": "application/json"},
    )
    assert answer.status_code == 400
    assert "JSON" in answer.json()["error"]["message"]


def test_a_body_that_is_too_large_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        complete(client, "a" * MAX_BODY)
    assert caught.value.status_code == 413


def test_only_those_with_a_key_are_answered(start: Callable[..., Any]) -> None:
    with start("--api-key", "one", environment={"PYTREELLAMA_API_KEY": "two"}) as locked:
        for key in ("one", "two"):
            with client_of(locked, key) as client:
                assert client.models.list().data[0].id == default_model_path().stem
        with client_of(locked, "three") as client:
            with pytest.raises(openai.AuthenticationError) as caught:
                chat(client)
            assert caught.value.code == "invalid_api_key"
        assert httpx.get(f"{locked.url}/metrics").status_code == 401
        assert httpx.get(f"{locked.url}/health").json() == {"status": "ok"}


def test_who_finds_no_room_is_told_when_to_come_back(start: Callable[..., Any]) -> None:
    with (
        start("--parallel", "1", "--queue", "0", "--alias", NAME) as full,
        client_of(full) as client,
    ):
        endless = chat(client, stream=True, max_tokens=4000, extra_body=ENDLESS)
        with pytest.raises(openai.RateLimitError) as caught:
            chat(client)
        assert 1 <= int(caught.value.response.headers["Retry-After"]) <= 60
        assert caught.value.code == "queue_full"
        assert soon(lambda: full.metric("pytreellama_running") == 1)
        endless.close()
        assert soon(lambda: is_idle(full))
        assert chat(client).choices[0].message.content


# -- who leaves early, and when the server does


def test_an_answer_that_nobody_reads_ends(server: Served, client: openai.OpenAI) -> None:
    before = server.metric("pytreellama_tokens_total")
    stream = chat(client, stream=True, max_tokens=1900, extra_body=ENDLESS)
    assert soon(lambda: server.metric("pytreellama_running") == 1)
    stream.close()
    assert soon(lambda: is_idle(server))
    assert server.metric("pytreellama_tokens_total") < before + 1900


def test_an_answer_that_nobody_waits_for_ends(server: Served, client: openai.OpenAI) -> None:
    with pytest.raises(openai.APITimeoutError):
        chat(client.with_options(timeout=0.5), max_tokens=1900, extra_body=ENDLESS)
    assert soon(lambda: is_idle(server))


def events(stream: httpx.Response) -> Iterator[str]:
    for line in stream.iter_lines():
        if line.startswith("data: "):
            yield line.removeprefix("data: ")


def asked(url: str, max_tokens: int) -> Any:
    body = {"prompt": ONCE, "max_tokens": max_tokens, "stream": True, **ENDLESS}
    more = {"temperature": 0, "stream_options": {"include_usage": True}}
    return httpx.stream("POST", f"{url}/v1/completions", json=body | more, timeout=60.0)


def test_a_server_that_is_stopped_finishes_what_it_began(start: Callable[..., Any]) -> None:
    with start() as leaving, asked(leaving.url, 150) as stream:
        told = events(stream)
        next(told)
        leaving.ask_to_stop()
        rest = list(told)
        assert rest[-1] == "[DONE]", leaving.log
        assert json.loads(rest[-2])["usage"]["completion_tokens"] == 150
        leaving.wait(5.0)


def test_a_server_that_is_stopped_waits_no_longer_than_it_may(start: Callable[..., Any]) -> None:
    with start("--shutdown-time", "1") as leaving, asked(leaving.url, 8000) as stream:
        told = events(stream)
        next(told)
        leaving.ask_to_stop()
        rest = list(told)
        assert rest[-1] == "[DONE]", leaving.log
        assert '"finish_reason":"length"' in rest[-3]
        leaving.wait(5.0)


def test_an_interrupted_server_leaves_as_cleanly(start: Callable[..., Any]) -> None:
    with start() as leaving:
        leaving.process.send_signal(signal.SIGINT)
        leaving.wait(5.0)


def test_a_restarted_server_loads_its_prefix_cache(
    start: Callable[..., Any], tmp_path: Path
) -> None:
    options = ("--prefix-cache-file", str(tmp_path / "prefixes"), "--alias", NAME)
    told = []
    for _ in range(2):
        with start(*options) as one, client_of(one) as client:
            told.append(chat(client))
    first, second = told
    assert first.usage.prompt_tokens_details.cached_tokens == 0
    assert second.usage.prompt_tokens_details.cached_tokens >= second.usage.prompt_tokens - 1
    assert first.choices[0].message == second.choices[0].message
