"""Ollama's requests are chats and texts, and answers become its objects and lines."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the extra: pip install 'pytreellama[serve]'")

from pydantic import ValidationError

from pytreellama.serve.answers import Timings, Usage
from pytreellama.serve.errors import APIError
from pytreellama.serve.protocols.ollama_answers import OllamaTranslator, loaded, time_of
from pytreellama.serve.protocols.ollama_requests import (
    OllamaChatRequest,
    OllamaGenerateRequest,
    plain_name,
)
from pytreellama.serve.protocols.pieces import CallPiece, ChatPiece
from pytreellama.serve.requests import ChatRequest

USAGE = Usage(prompt_tokens=9, completion_tokens=4, total_tokens=13)
TIMINGS = Timings(
    cache_n=1,
    prompt_n=8,
    prompt_ms=2.5,
    prompt_per_second=3200.0,
    predicted_n=4,
    predicted_ms=10.0,
    predicted_per_second=400.0,
    draft_n=7,
    draft_n_accepted=2,
)
PIECES = [
    ChatPiece(reasoning="Let me see."),
    ChatPiece(text="I look"),
    ChatPiece(text=" it up.", calls=(CallPiece(0, "call-1", "look", ""),)),
    ChatPiece(calls=(CallPiece(0, "", "", '{"at": "a'),)),
    ChatPiece(calls=(CallPiece(0, "", "", 'b"}'), CallPiece(1, "call-2", "stop", "{}"))),
    ChatPiece(finish="tool_calls", timings=TIMINGS),
    ChatPiece(usage=USAGE),
]
WHOLE = ChatPiece(
    text="I look it up.",
    reasoning="Let me see.",
    calls=(CallPiece(0, "call-1", "look", '{"at": "ab"}'), CallPiece(1, "call-2", "stop", "{}")),
    finish="tool_calls",
    usage=USAGE,
    timings=TIMINGS,
)
CALLS = [
    {"id": "call-1", "function": {"index": 0, "name": "look", "arguments": {"at": "ab"}}},
    {"id": "call-2", "function": {"index": 1, "name": "stop", "arguments": {}}},
]
COUNTS = {
    "done": True,
    "done_reason": "stop",
    "total_duration": 12_500_000,
    "load_duration": 0,
    "prompt_eval_count": 9,
    "prompt_eval_duration": 2_500_000,
    "eval_count": 4,
    "eval_duration": 10_000_000,
    "draft_count": 7,
    "draft_accepted_count": 2,
}


def chat_of(**values: Any) -> ChatRequest:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi!"}], **values}
    return OllamaChatRequest.model_validate(body, strict=True).chat()


def generate(**values: Any) -> OllamaGenerateRequest:
    return OllamaGenerateRequest.model_validate({"model": "m", "prompt": "Hi!", **values})


@pytest.mark.parametrize(
    ("given", "name"), [("m:latest", "m"), ("m:7b", "m:7b"), ("m", "m"), ("", None), (None, None)]
)
def test_the_tag_latest_is_no_part_of_a_name(given: str | None, name: str | None) -> None:
    assert plain_name(given) == name


def test_options_have_the_names_of_ours() -> None:
    chat = chat_of(
        options={
            "num_predict": -2,
            "num_ctx": 512,
            "temperature": 0,
            "top_k": 7,
            "top_p": 0.9,
            "min_p": 0.1,
            "typical_p": 0.8,
            "repeat_last_n": 33,
            "repeat_penalty": 1.2,
            "presence_penalty": 0.1,
            "frequency_penalty": 0.2,
            "seed": 5,
            "stop": ["a"],
            "num_thread": 4,
        }
    )
    assert chat.max_tokens == -1
    assert chat.stops() == ("a",)
    assert chat.sampling() == {
        "temperature": 0.0,
        "top_k": 7,
        "top_p": 0.9,
        "min_p": 0.1,
        "typical_p": 0.8,
        "penalty_last_n": 33,
        "repeat_penalty": 1.2,
        "presence_penalty": 0.1,
        "frequency_penalty": 0.2,
        "seed": 5,
    }


def test_a_stream_is_the_default() -> None:
    assert chat_of().stream
    assert chat_of().wants_usage
    assert not chat_of(stream=False).stream


def test_a_round_of_tools_keeps_arguments_and_numbers_calls() -> None:
    look = {"function": {"name": "look", "arguments": {"at": "ab"}}}
    chat = chat_of(
        messages=[
            {"role": "assistant", "content": "", "tool_calls": [look, look], "thinking": "Hm."},
            {"role": "tool", "content": "rain", "tool_name": "look"},
        ]
    )
    called, answered = chat.messages
    assert called.reasoning_content == "Hm."
    assert [call.id for call in called.tool_calls or []] == ["call-0", "call-1"]
    assert json.loads((called.tool_calls or [])[1].function.arguments) == {"at": "ab"}
    assert (answered.role, answered.name, answered.content) == ("tool", "look", "rain")


def test_formats_and_thinking_keep_their_meaning() -> None:
    assert chat_of(format="json").response_format.type == "json_object"  # type: ignore[union-attr]
    assert chat_of(format={"type": "string"}).json_schema == {"type": "string"}
    assert chat_of(format="").response_format is None
    assert chat_of(think=False).chat_template_kwargs == {"enable_thinking": False}
    low = chat_of(think="low")
    assert low.chat_template_kwargs == {"enable_thinking": True}
    assert low.reasoning_effort == "low"
    assert chat_of(speculation={"enabled": False}).n_draft == 0


def test_a_prompt_is_a_chat_unless_it_is_raw_or_has_a_suffix() -> None:
    asked = generate(system="Be kind.")
    assert asked.is_chat
    assert [message.content for message in asked.chat().messages] == ["Be kind.", "Hi!"]
    raw = generate(raw=True, options={"num_predict": 5})
    assert not raw.is_chat
    assert (raw.completion().prompt, raw.completion().max_tokens) == ("Hi!", 5)
    between = generate(suffix="b", format="json")
    assert not between.is_chat
    assert between.completion().suffix == "b"
    assert between.completion().max_tokens == -1  # not OpenAI's 16
    assert between.completion().json_schema == {"type": "object"}
    with pytest.raises(APIError, match="raw prompts"):
        generate(raw=True, system="a").completion()


@pytest.mark.parametrize("field", ["images", "context", "template"])
def test_what_is_not_supported_is_refused(field: str) -> None:
    with pytest.raises(ValidationError, match=field):
        generate(**{field: "a" if field == "template" else [1] if field == "context" else ["a"]})
    assert generate(**{field: "" if field == "template" else []}).is_chat


def test_a_whole_answer_has_calls_as_objects_and_durations_in_nanoseconds() -> None:
    answer = OllamaTranslator("m", is_chat=True).whole(WHOLE).model_dump()
    assert answer.pop("created_at").endswith("Z")
    assert answer == {
        "model": "m",
        "message": {
            "role": "assistant",
            "content": "I look it up.",
            "thinking": "Let me see.",
            "tool_calls": CALLS,
        },
        **COUNTS,
    }


def test_a_stream_sends_whole_calls_and_counts_at_its_end() -> None:
    translator = OllamaTranslator("m", is_chat=True)
    lines = [*translator.begin(9)]
    for piece in PIECES:
        lines.extend(translator.push(piece))
    lines.extend(translator.finish())
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
    messages = [line["message"] for line in lines]
    assert "".join(message["content"] for message in messages) == "I look it up."
    assert "".join(message.get("thinking", "") for message in messages) == "Let me see."
    assert [call for message in messages for call in message.get("tool_calls", [])] == CALLS
    assert {name: lines[-1][name] for name in COUNTS} == COUNTS


def test_a_text_is_a_response_and_a_cut_one_says_so() -> None:
    piece = ChatPiece(text="a", finish="length", timings=TIMINGS, usage=USAGE)
    answer = OllamaTranslator("m", is_chat=False).whole(piece).model_dump()
    assert answer["response"] == "a"
    assert answer["done_reason"] == "length"
    assert "message" not in answer
    assert "thinking" not in answer


def test_a_request_to_load_is_done_at_once() -> None:
    chat, text = (loaded("m", is_chat=is_chat).model_dump() for is_chat in (True, False))
    assert (chat["done_reason"], chat["message"]["content"]) == ("load", "")
    assert (text["done"], text["response"]) == (True, "")
    assert "eval_count" not in text


def test_times_are_as_ollama_writes_them() -> None:
    assert time_of(0) == "1970-01-01T00:00:00Z"
