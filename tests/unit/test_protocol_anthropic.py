"""Anthropic's messages are chats, and chats' answers become its messages and events."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the extra: pip install 'pytreellama[serve]'")

from pytreellama.serve.answers import PromptDetails, Usage
from pytreellama.serve.errors import APIError
from pytreellama.serve.protocols.anthropic_answers import AnthropicTranslator
from pytreellama.serve.protocols.anthropic_requests import AnthropicRequest
from pytreellama.serve.protocols.pieces import CallPiece, ChatPiece
from pytreellama.serve.requests import ChatRequest

USAGE = Usage(
    prompt_tokens=9,
    completion_tokens=4,
    total_tokens=13,
    prompt_tokens_details=PromptDetails(cached_tokens=5),
)
PIECES = [
    ChatPiece(reasoning="Let me "),
    ChatPiece(reasoning="see."),
    ChatPiece(text="I look"),
    ChatPiece(text=" it up.", calls=(CallPiece(0, "call-1", "look", ""),)),
    ChatPiece(calls=(CallPiece(0, "", "", '{"at": "a'),)),
    ChatPiece(calls=(CallPiece(0, "", "", 'b"}'), CallPiece(1, "call-2", "stop", "{}"))),
    ChatPiece(finish="tool_calls"),
    ChatPiece(usage=USAGE),
]
CONTENT = [
    {"type": "thinking", "thinking": "Let me see.", "signature": ""},
    {"type": "text", "text": "I look it up."},
    {"type": "tool_use", "id": "call-1", "name": "look", "input": {"at": "ab"}},
    {"type": "tool_use", "id": "call-2", "name": "stop", "input": {}},
]


def chat_of(**values: Any) -> ChatRequest:
    body = {"messages": [{"role": "user", "content": "Hi!"}], "max_tokens": 8, **values}
    return AnthropicRequest.model_validate(body).chat()


def told(chat: ChatRequest) -> list[dict[str, Any]]:
    return [message.model_dump(exclude_none=True) for message in chat.messages]


def test_the_system_prompt_is_the_first_message() -> None:
    parts = [{"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}}]
    for system in ("Be kind.", parts):
        assert told(chat_of(system=system)) == [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "Hi!"},
        ]


def test_a_round_of_tools_becomes_calls_and_messages_of_tools() -> None:
    result = [{"type": "text", "text": "rain"}]
    messages = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": CONTENT[:3]},
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "call-1", "content": result},
                {"type": "text", "text": "And now?"},
            ],
        },
    ]
    asked, called, answered, now = told(chat_of(messages=messages))
    assert asked == {"role": "user", "content": "Weather?"}
    assert called["content"] == "I look it up."
    assert called["reasoning_content"] == "Let me see."
    (call,) = called["tool_calls"]
    assert (call["id"], call["function"]["name"]) == ("call-1", "look")
    assert json.loads(call["function"]["arguments"]) == {"at": "ab"}
    assert answered == {"role": "tool", "tool_call_id": "call-1", "content": "rain"}
    assert now == {"role": "user", "content": "And now?"}


@pytest.mark.parametrize(
    ("given", "choice"),
    [
        ({"type": "auto"}, "auto"),
        ({"type": "any"}, "required"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "look"}, {"type": "function", "function": {"name": "look"}}),
    ],
)
def test_each_tool_choice_has_its_own_meaning(given: Any, choice: Any) -> None:
    schema = {"type": "object", "properties": {"at": {"type": "string"}}}
    chat = chat_of(
        tools=[{"name": "look", "input_schema": schema}],
        tool_choice=given | {"disable_parallel_tool_use": True},
    )
    (tool,) = chat.tools or []
    assert (tool.function.name, tool.function.parameters) == ("look", schema)
    assert chat.model_dump()["tool_choice"] == choice
    assert chat.parallel_tool_calls is False


def test_options_keep_their_meaning() -> None:
    chat = chat_of(
        stop_sequences=["a", "b"],
        temperature=0.5,
        top_p=0.9,
        top_k=7,
        stream=True,
        thinking={"type": "enabled", "budget_tokens": 1024},
        speculation={"enabled": False},
    )
    assert chat.stops() == ("a", "b")
    assert chat.sampling() == {"temperature": 0.5, "top_p": 0.9, "top_k": 7}
    assert chat.max_tokens == 8
    assert chat.wants_usage
    assert chat.chat_template_kwargs == {"enable_thinking": True}
    assert chat.n_draft == 0


def test_a_block_that_lacks_a_field_is_refused_by_its_place() -> None:
    block = {"type": "tool_result", "content": "rain"}
    with pytest.raises(APIError) as refused:
        chat_of(messages=[{"role": "user", "content": [block]}])
    assert refused.value.body.error.param == "messages.0.content.0.tool_use_id"


def test_a_whole_answer_has_the_blocks_in_order() -> None:
    whole = ChatPiece(
        text="I look it up.",
        reasoning="Let me see.",
        calls=(CallPiece(0, "call-1", "look", '{"at": "ab"}'), CallPiece(1, "call-2", "stop", "")),
        finish="tool_calls",
        usage=USAGE,
    )
    message = AnthropicTranslator("m").whole(whole).model_dump()
    assert message["content"] == CONTENT
    assert message["stop_reason"] == "tool_use"
    assert message["usage"] == {
        "input_tokens": 4,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 5,
        "output_tokens": 4,
    }


def test_a_stream_has_one_block_open_at_a_time_and_joins_to_the_whole() -> None:
    translator = AnthropicTranslator("m")
    events = list(translator.begin(9))
    for piece in PIECES:
        events.extend(translator.push(piece))
    events.extend(translator.finish())
    assert [events[0]["type"], events[-2]["type"], events[-1]["type"]] == [
        "message_start",
        "message_delta",
        "message_stop",
    ]
    assert events[0]["message"]["usage"]["input_tokens"] == 9
    assert events[-2]["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    assert events[-2]["usage"]["output_tokens"] == 4
    contents: list[dict[str, Any]] = []
    parts: list[str] = []
    is_open = False
    for event in events[1:-2]:
        if event["type"] == "content_block_start":
            assert not is_open
            assert event["index"] == len(contents)
            contents.append(event["content_block"])
            parts.clear()
            is_open = True
            continue
        assert is_open
        assert event["index"] == len(contents) - 1
        last = contents[-1]
        if event["type"] == "content_block_stop":
            is_open = False
            if last["type"] == "tool_use":
                last["input"] = json.loads("".join(parts))
            continue
        _, value = event["delta"].values()
        parts.append(value)
        if last["type"] != "tool_use":
            last[last["type"]] += value
    assert contents == CONTENT


@pytest.mark.parametrize(
    ("piece", "reason", "sequence"),
    [
        (ChatPiece(finish="stop"), "end_turn", None),
        (ChatPiece(finish="stop", stop_string="x"), "stop_sequence", "x"),
        (ChatPiece(finish="length"), "max_tokens", None),
    ],
)
def test_why_an_answer_ended_is_told_in_anthropics_words(
    piece: ChatPiece, reason: str, sequence: str | None
) -> None:
    message = AnthropicTranslator("m").whole(piece)
    assert (message.stop_reason, message.stop_sequence) == (reason, sequence)
    assert [block.model_dump() for block in message.content] == [{"type": "text", "text": ""}]


def test_a_call_that_was_cut_has_the_arguments_that_came() -> None:
    cut = ChatPiece(calls=(CallPiece(0, "c", "look", '{"at": "a", "to": "b'),), finish="length")
    (use,) = AnthropicTranslator("m").whole(cut).content
    assert use.input == {"at": "a", "to": "b"}
