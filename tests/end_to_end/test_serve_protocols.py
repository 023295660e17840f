"""Clients of other protocols than OpenAI's chats, the real ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the extra: pip install 'pytreellama[serve]'")
pytest.importorskip("anthropic", reason="needs anthropic: pip install 'pytreellama[test]'")

import anthropic
import httpx
import ollama
import openai

from pytreellama.model.default_model import default_model_path
from served import Served, served

NAME = "small"
KEY = "sesame"
ASKED: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Oslo"]}, "n_days": {"type": "integer"}},
    "required": ["city", "n_days"],
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("protocols")
    options = ("--alias", NAME, "--n-ctx", "2048", "--parallel", "8", "--temp", "0")
    with served(
        default_model_path(), folder, *options, environment={"PYTREELLAMA_API_KEY": KEY}
    ) as one:
        yield one


def post(server: Served, path: str, body: Any, **headers: str) -> httpx.Response:
    headers = headers or {"Authorization": f"Bearer {KEY}"}
    return httpx.post(server.url + path, json=body, headers=headers, timeout=60.0)


@pytest.fixture(scope="module")
def told(server: Served) -> str:
    """What the server answers in chat completions, which all protocols must say too."""
    body = {"messages": ASKED, "max_tokens": 24}
    answer = post(server, "/v1/chat/completions", body)
    return answer.json()["choices"][0]["message"]["content"]


# -- Anthropic


@pytest.fixture(scope="module")
def claude(server: Served) -> Iterator[anthropic.Anthropic]:
    """Sends its key as x-api-key."""
    with anthropic.Anthropic(
        base_url=server.url, api_key=KEY, max_retries=0, timeout=60.0
    ) as client:
        yield client


TOOL: Any = {"name": "plan", "description": "Plans a trip.", "input_schema": SCHEMA}


def test_anthropics_client_gets_the_words_of_a_chat(claude: anthropic.Anthropic, told: str) -> None:
    message = claude.messages.create(model=NAME, messages=ASKED, max_tokens=24)
    assert [block.type for block in message.content] == ["text"]
    assert message.content[0].text == told  # type: ignore[union-attr]
    assert message.stop_reason in ("end_turn", "max_tokens")
    count = claude.messages.count_tokens(model=NAME, messages=ASKED)
    usage = message.usage
    assert usage.input_tokens + (usage.cache_read_input_tokens or 0) == count.input_tokens
    assert 0 < usage.output_tokens <= 24


def test_anthropics_client_streams_the_same_message(claude: anthropic.Anthropic, told: str) -> None:
    with claude.messages.stream(model=NAME, messages=ASKED, max_tokens=24) as stream:
        pieces = list(stream.text_stream)
        message = stream.get_final_message()
    assert len(pieces) > 1
    assert "".join(pieces) == message.content[0].text == told  # type: ignore[union-attr]
    assert message.stop_reason in ("end_turn", "max_tokens")
    assert message.usage.output_tokens > 0


def test_a_stop_sequence_is_named(claude: anthropic.Anthropic, told: str) -> None:
    word = told.split()[2]
    message = claude.messages.create(
        model=NAME, messages=ASKED, max_tokens=24, stop_sequences=["xyzzy", word]
    )
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", word)
    assert message.content[0].text == told[: told.index(word)]  # type: ignore[union-attr]


@pytest.mark.parametrize("streams", [False, True])
def test_anthropics_client_gets_tool_use_and_gives_results_back(
    claude: anthropic.Anthropic, streams: bool
) -> None:
    asked: list[Any] = [{"role": "user", "content": "Plan three days in Oslo."}]
    options: Any = {
        "model": NAME,
        "system": [{"type": "text", "text": "You plan trips."}],
        "tools": [TOOL],
        "max_tokens": 128,
    }
    choice: Any = {"type": "tool", "name": "plan"}
    if streams:
        with claude.messages.stream(messages=asked, tool_choice=choice, **options) as stream:
            message = stream.get_final_message()
    else:
        message = claude.messages.create(messages=asked, tool_choice=choice, **options)
    assert message.stop_reason == "tool_use"
    use = message.content[-1]
    assert use.type == "tool_use"
    assert use.name == "plan"
    assert use.input.keys() == {"city", "n_days"}
    asked.append({"role": "assistant", "content": message.model_dump()["content"]})
    result = {"type": "tool_result", "tool_use_id": use.id, "content": "It rains."}
    asked.append({"role": "user", "content": [result, {"type": "text", "text": "And now?"}]})
    again = claude.messages.create(messages=asked, **options)
    assert again.content


def test_anthropics_client_knows_the_errors(server: Served, claude: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError, match="not served here") as unknown:
        claude.messages.create(model="other", messages=ASKED, max_tokens=1)
    assert unknown.value.body == {
        "type": "error",
        "error": {"type": "not_found_error", "message": unknown.value.body["error"]["message"]},  # type: ignore[index]
    }
    image: Any = {"type": "image", "source": {"type": "url", "url": "http://localhost/a.png"}}
    with pytest.raises(anthropic.BadRequestError, match="blocks of type 'image'"):
        claude.messages.create(
            model=NAME, messages=[{"role": "user", "content": [image]}], max_tokens=1
        )
    wrong = anthropic.Anthropic(base_url=server.url, api_key="wrong", max_retries=0)
    with wrong, pytest.raises(anthropic.AuthenticationError):
        wrong.messages.create(model=NAME, messages=ASKED, max_tokens=1)


def test_an_answer_by_a_schema_is_what_anthropics_client_asked_for(
    claude: anthropic.Anthropic,
) -> None:
    message = claude.messages.create(
        model=NAME,
        messages=ASKED,
        max_tokens=64,
        output_config={"format": {"type": "json_schema", "schema": SCHEMA}},
    )
    assert json.loads(message.content[0].text).keys() == {"city", "n_days"}  # type: ignore[union-attr]


# -- OpenAI's responses


@pytest.fixture(scope="module")
def gpt(server: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{server.url}/v1", api_key=KEY, max_retries=0, timeout=60.0
    ) as client:
        yield client


FUNCTION: Any = {"type": "function", "name": "plan", "parameters": SCHEMA, "strict": False}


def test_a_response_has_the_words_of_a_chat(gpt: openai.OpenAI, told: str) -> None:
    for asked in (ASKED[0]["content"], ASKED):
        response = gpt.responses.create(model=NAME, input=asked, max_output_tokens=24)
        assert response.output_text == told
        assert response.status in ("completed", "incomplete")
        assert response.usage is not None
        assert 0 < response.usage.output_tokens <= 24


def test_a_streamed_response_has_numbered_events_and_joins_to_the_whole(
    gpt: openai.OpenAI, told: str
) -> None:
    with gpt.responses.stream(model=NAME, input=ASKED, max_output_tokens=24) as stream:
        events: list[Any] = list(stream)
    response = events[-1].response
    assert [event.sequence_number for event in events] == list(range(len(events)))
    types = [event.type for event in events]
    assert types[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert types[-1] in ("response.completed", "response.incomplete")
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert len(deltas) > 1
    assert "".join(deltas) == response.output_text == told


def test_a_response_goes_on_from_the_one_before_it(gpt: openai.OpenAI) -> None:
    options: Any = {"model": NAME, "max_output_tokens": 16}
    first = gpt.responses.create(input=ASKED, instructions="Be brief.", **options)
    assert gpt.responses.retrieve(first.id).output_text == first.output_text
    second = gpt.responses.create(input="And of Norway?", previous_response_id=first.id, **options)
    said: list[Any] = [
        *ASKED,
        *(item.model_dump() for item in first.output),
        {"role": "user", "content": "And of Norway?"},
    ]
    assert gpt.responses.create(input=said, **options).output_text == second.output_text
    gpt.responses.delete(first.id)
    with pytest.raises(openai.BadRequestError, match="send the whole conversation"):
        gpt.responses.create(input="Again?", previous_response_id=first.id, **options)
    unkept = gpt.responses.create(input=ASKED, store=False, **options)
    with pytest.raises(openai.NotFoundError):
        gpt.responses.retrieve(unkept.id)


@pytest.mark.parametrize("streams", [False, True])
def test_a_response_calls_a_function_and_reads_its_output(
    gpt: openai.OpenAI, streams: bool
) -> None:
    asked: list[Any] = [{"role": "user", "content": "Plan three days in Oslo."}]
    options: Any = {"model": NAME, "tools": [FUNCTION], "max_output_tokens": 128}
    choice: Any = {"type": "function", "name": "plan"}
    if streams:
        with gpt.responses.stream(input=asked, tool_choice=choice, **options) as stream:
            response: Any = stream.get_final_response()
    else:
        response = gpt.responses.create(input=asked, tool_choice=choice, **options)
    (call,) = response.output
    assert (call.type, call.name, call.status) == ("function_call", "plan", "completed")
    assert json.loads(call.arguments).keys() == {"city", "n_days"}
    asked += [
        call.model_dump(),
        {"type": "function_call_output", "call_id": call.call_id, "output": "It rains."},
    ]
    assert gpt.responses.create(input=asked, **options).output


def test_a_response_by_a_schema_is_parsed(gpt: openai.OpenAI) -> None:
    response: Any = gpt.responses.create(
        model=NAME,
        input=ASKED,
        max_output_tokens=64,
        text={"format": {"type": "json_schema", "name": "trip", "schema": SCHEMA}},
        include=["message.output_text.logprobs"],
    )
    assert json.loads(response.output_text).keys() == {"city", "n_days"}
    assert response.output[0].content[0].logprobs


def test_what_a_response_cannot_have_is_refused_by_its_name(gpt: openai.OpenAI) -> None:
    image: Any = {"role": "user", "content": [{"type": "input_image", "image_url": "a"}]}
    with pytest.raises(openai.BadRequestError, match="parts of type 'input_image'"):
        gpt.responses.create(model=NAME, input=[image])
    with pytest.raises(openai.BadRequestError, match="tools of type 'web_search'"):
        gpt.responses.create(model=NAME, input="a", tools=[{"type": "web_search"}])
    with pytest.raises(openai.BadRequestError, match="conversation is not supported"):
        gpt.responses.create(model=NAME, input="a", conversation="conv_1")


# -- Ollama


@pytest.fixture(scope="module")
def llama(server: Served) -> ollama.Client:
    return ollama.Client(server.url, headers={"Authorization": f"Bearer {KEY}"}, timeout=60.0)


LIMIT = {"num_predict": 24}


def test_ollamas_client_gets_the_words_of_a_chat(llama: ollama.Client, told: str) -> None:
    for name in (NAME, f"{NAME}:latest"):
        answer = llama.chat(name, ASKED, options=LIMIT)
        assert answer.message.content == told
        assert answer.done
        assert answer.done_reason in ("stop", "length")
        assert answer.eval_count is not None
        assert 0 < answer.eval_count <= 24
        assert answer.total_duration
        assert answer.prompt_eval_count
    # a prompt is a chat of one message
    assert llama.generate(NAME, ASKED[0]["content"], options=LIMIT).response == told


def test_ollamas_streams_join_to_the_whole(llama: ollama.Client, told: str) -> None:
    parts = list(llama.chat(NAME, ASKED, options=LIMIT, stream=True))
    assert len(parts) > 2
    assert "".join(part.message.content or "" for part in parts) == told
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert parts[-1].eval_count
    pieces = list(llama.generate(NAME, ASKED[0]["content"], options=LIMIT, stream=True))
    assert "".join(piece.response or "" for piece in pieces) == told


def test_a_raw_prompt_goes_on_as_a_completion_does(server: Served, llama: ollama.Client) -> None:
    body = {"prompt": "Once upon a time", "max_tokens": 16, "stop": "xyzzy"}
    text = post(server, "/v1/completions", body).json()["choices"][0]["text"]
    options: Any = {"num_predict": 16, "stop": ["xyzzy"], "num_ctx": 512}
    for streams in (False, True):
        answer: Any = llama.generate(
            NAME, "Once upon a time", raw=True, options=options, stream=streams
        )
        written = "".join(part.response for part in answer) if streams else answer.response
        assert written == text


@pytest.mark.parametrize("streams", [False, True])
def test_ollamas_client_gets_calls_with_arguments_as_objects(
    llama: ollama.Client, streams: bool
) -> None:
    plan = {"name": "plan", "arguments": {"city": "Oslo", "n_days": 3}}
    said: list[Any] = [
        {"role": "user", "content": "Plan three days in Oslo."},
        {"role": "assistant", "content": "", "tool_calls": [{"function": plan}]},
        {"role": "tool", "content": "It rains.", "tool_name": "plan"},
        {"role": "user", "content": "And Paris?"},
    ]
    tool: Any = {"type": "function", "function": {"name": "plan", "parameters": SCHEMA}}
    schema: Any = {
        "type": "object",
        "properties": {"name": {"const": "plan"}, "arguments": SCHEMA},
        "required": ["name", "arguments"],
    }
    options: Any = {"tools": [tool], "format": schema, "options": {"num_predict": 128}}
    answer: Any = llama.chat(NAME, said, **(options | {"stream": streams}))
    parts = list(answer) if streams else [answer]
    calls = [call for part in parts for call in part.message.tool_calls or []]
    content = "".join(part.message.content or "" for part in parts)
    # there is no tool_choice here: a call is what the model wrote by the schema
    (call,) = calls or [None]
    if call is None:
        assert json.loads(content)["name"] == "plan"
    else:
        assert call.function.name == "plan"
        assert call.function.arguments.keys() == {"city", "n_days"}


def test_a_format_is_kept_to(llama: ollama.Client) -> None:
    answer = llama.chat(NAME, ASKED, format=SCHEMA, options={"num_predict": 64})
    assert json.loads(answer.message.content or "").keys() == {"city", "n_days"}


def test_ollamas_client_reads_the_facts_of_the_model(llama: ollama.Client) -> None:
    (listed,) = llama.list().models
    assert listed.model == f"{NAME}:latest"
    shown = llama.show(NAME)
    assert shown.modelinfo is not None
    assert shown.modelinfo["general.architecture"] == "llama"
    assert shown.modelinfo["llama.context_length"] == 8192
    assert shown.details is not None
    assert shown.details.family == "llama"
    assert shown.details.parameter_size == "135M"
    assert "completion" in (shown.capabilities or [])
    (running,) = llama.ps().models
    assert running.model == f"{NAME}:latest"
    assert llama.chat(NAME, []).done_reason == "load"
    assert llama.generate(NAME).done_reason == "load"


def test_ollamas_client_gets_vectors(llama: ollama.Client) -> None:
    embedded = llama.embed(NAME, ["A fox.", "A dog."])
    assert [len(vector) for vector in embedded.embeddings] == [576, 576]
    assert embedded.prompt_eval_count
    (one,) = llama.embed(NAME, "A fox.").embeddings
    assert one == embedded.embeddings[0]


def test_ollamas_client_knows_the_errors(llama: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="not served here") as unknown:
        llama.chat("other", ASKED)
    assert unknown.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="does not fill in the middle"):
        llama.generate(NAME, "def f():", suffix="return a")
