"""Chats with models whose templates differ: no system, turns that alternate, parts, tools."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from pytreellama import Engine, Model
from pytreellama.serve.chat_prompts import ChatPrompts
from pytreellama.serve.requests import ChatRequest
from pytreellama.serve.text_limit import TextLimit
from served import Served, served
from tiny_models import write_tiny_model

ALTERNATING = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate') }}{% endif %}"
    "<|im_start|>{{ message.role }}\n{{ message.content | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PARTS = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{% for part in message.content %}"
    "{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
)
ITEMS = (
    "{% if tools %}{{ tools | tojson }}\n{% endif %}{% for message in messages %}"
    "{{ message.content }}{% for call in message.tool_calls or [] %}"
    "{% for name, value in call.function.arguments | items %}{{ name }}={{ value }};{% endfor %}"
    "{% endfor %}{% endfor %}"
)
THINKING = "{% for message in messages %}{{ message.content }}{% endfor %}<think>"
DROPPING = "{% for message in messages %}{{ message.role }}{% endfor %}"

TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
CALLS = [
    {"id": str(i), "type": "function", "function": {"name": "look", "arguments": ""}}
    for i in range(2)
]
ASKED = {"role": "user", "content": "What is there?"}
HISTORY: list[dict[str, Any]] = [
    ASKED,
    {"role": "assistant", "tool_calls": CALLS},
    {"role": "tool", "content": "A fox.", "tool_call_id": "0"},
    {"role": "tool", "content": "A dog.", "tool_call_id": "1"},
]


@pytest.fixture(scope="module")
def prompt_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., str]]:
    """The prompt that a model of these templates goes on from."""
    folder, known = tmp_path_factory.mktemp("templates"), dict[str, Engine]()
    with ExitStack() as opened:

        def prompt(template: Any, messages: list[dict[str, Any]], **options: Any) -> str:
            if str(template) not in known:
                path = folder / f"{len(known)}.gguf"
                write_tiny_model(path, "rope", n_layer=1, chat_template=template)
                model = opened.enter_context(Model(path))
                engine = Engine(model, "none", n_ctx=4096, n_threads=1)
                known[str(template)] = opened.enter_context(engine)
            engine = known[str(template)]
            request = ChatRequest.model_validate({"messages": messages, **options}, strict=True)
            prompts = ChatPrompts(engine.model, TextLimit(engine))
            return engine.vocab.decode(prompts.tokens(request.messages, request), special=True)

        yield prompt


def test_tools_are_told_to_a_template_without_a_system(prompt_of: Callable[..., str]) -> None:
    text = prompt_of(ALTERNATING, [ASKED], tools=[TOOL])
    assert '{"name": "look"' in text and "What is there?" in text
    assert text.count("<|im_start|>") == 2


def test_results_of_parallel_calls_are_one_turn(prompt_of: Callable[..., str]) -> None:
    text = prompt_of(ALTERNATING, HISTORY, tools=[TOOL])
    assert text.count("<|im_start|>") == 4
    assert text.count("<tool_response>") == 2 and "A dog." in text


def test_a_template_of_parts_is_given_parts(prompt_of: Callable[..., str]) -> None:
    for content in ("What is there?", [{"type": "text", "text": "What is there?"}]):
        assert "What is there?" in prompt_of(PARTS, [{"role": "user", "content": content}])
    assert "A dog." in prompt_of(PARTS, HISTORY, tools=[TOOL])


def test_arguments_are_objects_for_a_template_that_goes_through_them(
    prompt_of: Callable[..., str],
) -> None:
    call = {"id": "2", "type": "function", "function": {"name": "look", "arguments": '{"at": 3}'}}
    messages = [*HISTORY, {"role": "assistant", "tool_calls": [*CALLS, call]}]
    assert prompt_of(ITEMS, messages, tools=[TOOL]).endswith("at=3;")


def test_the_template_for_tools_is_used_with_tools_alone(prompt_of: Callable[..., str]) -> None:
    templates = [
        {"name": "default", "template": "plain {{ messages[0].content }}"},
        {"name": "tool_use", "template": "{{ tools | length }} tools {{ messages[0].content }}"},
    ]
    assert "plain What" in prompt_of(templates, [ASKED])
    assert "1 tools What" in prompt_of(templates, [ASKED], tools=[TOOL])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Served]]:
    folder, known = tmp_path_factory.mktemp("served"), dict[str, Served]()
    with ExitStack() as servers:

        def start(template: str) -> Served:
            if template not in known:
                path: Path = folder / f"{len(known)}.gguf"
                write_tiny_model(path, "rope", n_ctx_train=2048, chat_template=template)
                one = served(path, folder, "--drafter", "none")
                known[template] = servers.enter_context(one)
            return known[template]

        yield start


def answer(one: Served, messages: list[dict[str, Any]], **options: Any) -> httpx.Response:
    body = {"messages": messages, "max_tokens": 1, **options}
    return httpx.post(f"{one.url}/v1/chat/completions", json=body, timeout=60)


def test_a_server_answers_where_turns_alternate(server: Callable[[str], Served]) -> None:
    one = server(ALTERNATING)
    assert answer(one, HISTORY, tools=[TOOL]).status_code == 200
    own = answer(one, [{"role": "system", "content": "Be brief."}, ASKED], tools=[TOOL])
    assert own.status_code == 400
    assert "System role not supported" in own.json()["error"]["message"]
    call = {"id": "0", "type": "function", "function": {"name": "look", "arguments": "[1]"}}
    wrong = answer(one, [ASKED, {"role": "assistant", "tool_calls": [call]}])
    assert wrong.status_code == 400
    assert wrong.json()["error"]["param"] == "messages.1.tool_calls.0.function.arguments"
    odd = answer(one, [ASKED], chat_template_kwargs={"self": 1, "documents": "x", "template": []})
    assert odd.status_code == 200


def test_a_server_refuses_to_drop_what_a_user_says(server: Callable[[str], Served]) -> None:
    dropped = answer(server(DROPPING), [ASKED])
    assert dropped.status_code == 400
    assert "does not write what a user says" in dropped.json()["error"]["message"]


def test_a_server_splits_reasoning_that_the_prompt_opens(server: Callable[[str], Served]) -> None:
    one = server(THINKING)
    options: dict[str, Any] = {"temperature": 0, "max_tokens": 24, "ignore_eos": True}
    (choice,) = answer(one, [ASKED], **options).json()["choices"]
    reasoning = choice["message"]["reasoning_content"]
    assert choice["message"]["content"] == "" and reasoning
    (left,) = answer(one, [ASKED], reasoning_format="none", **options).json()["choices"]
    assert left["message"]["content"].strip() == reasoning
    assert "reasoning_content" not in left["message"]
    deltas = streamed(one, [ASKED], **options)
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == reasoning
    assert not any(delta.get("content") for delta in deltas)


def test_a_server_streams_a_call_argument_by_argument(server: Callable[[str], Served]) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"const": "x" * 60}, "b": {"const": [1, 2, 3]}},
        "required": ["a", "b"],
    }
    tool = {"type": "function", "function": {"name": "look", "parameters": schema}}
    options: dict[str, Any] = {"tools": [tool], "tool_choice": "required", "max_tokens": 400}
    deltas = streamed(server(ITEMS), [ASKED], **options)
    calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
    assert [call["index"] for call in calls] == [0] * len(calls) and len(calls) > 1
    assert calls[0]["id"] and calls[0]["type"] == "function"
    assert calls[0]["function"]["name"] == "look"
    assert not any("id" in call or "name" in call["function"] for call in calls[1:])
    arguments = json.loads("".join(call["function"]["arguments"] for call in calls))
    assert arguments == {"a": "x" * 60, "b": [1, 2, 3]}
    whole = answer(server(ITEMS), [ASKED], **options).json()["choices"][0]
    assert whole["finish_reason"] == "tool_calls" and whole["message"]["content"] is None


def test_a_server_takes_tools_and_a_format_together(server: Callable[[str], Served]) -> None:
    format = {
        "type": "json_object",
        "schema": {"type": "object", "properties": {"a": {"const": 1}}},
    }
    options: dict[str, Any] = {"tools": [TOOL], "response_format": format, "max_tokens": 200}
    (choice,) = answer(server(ITEMS), [ASKED], **options).json()["choices"]
    called = choice["message"].get("tool_calls")
    assert called or json.loads(choice["message"]["content"]) in ({}, {"a": 1})
    refused = answer(server(ITEMS), [ASKED], tool_choice="required", **options)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "response_format"
    two = answer(server(ITEMS), [ASKED], grammar='root ::= "a"', **options)
    assert two.status_code == 400 and two.json()["error"]["param"] == "grammar"


def streamed(one: Served, messages: list[dict[str, Any]], **options: Any) -> list[dict[str, Any]]:
    """The deltas of an answer."""
    text = answer(one, messages, stream=True, **options).text
    events = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data")]
    assert events.pop() == "[DONE]"
    return [json.loads(event)["choices"][0]["delta"] for event in events]
