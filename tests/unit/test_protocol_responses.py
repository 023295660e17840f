"""Responses are chats, and chats' answers become responses and their events."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the extra: pip install 'pytreellama[serve]'")

from pytreellama.serve.answers import PromptDetails, Usage
from pytreellama.serve.errors import APIError
from pytreellama.serve.protocols.pieces import CallPiece, ChatPiece
from pytreellama.serve.protocols.response_store import ResponseStore
from pytreellama.serve.protocols.responses_answers import ResponseObject, ResponsesTranslator
from pytreellama.serve.protocols.responses_requests import ResponsesRequest
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
    ChatPiece(text="I look", logprobs=({"token": "I"}, {"token": " look"})),
    ChatPiece(text=" it up.", calls=(CallPiece(0, "call-1", "look", ""),)),
    ChatPiece(calls=(CallPiece(0, "", "", '{"at": "a'),)),
    ChatPiece(calls=(CallPiece(0, "", "", 'b"}'), CallPiece(1, "call-2", "stop", "{}"))),
    ChatPiece(finish="tool_calls"),
    ChatPiece(usage=USAGE),
]
WHOLE = ChatPiece(
    text="I look it up.",
    reasoning="Let me see.",
    calls=(CallPiece(0, "call-1", "look", '{"at": "ab"}'), CallPiece(1, "call-2", "stop", "{}")),
    finish="tool_calls",
    logprobs=({"token": "I"}, {"token": " look"}),
    usage=USAGE,
)
MESSAGE = {
    "role": "assistant",
    "reasoning_content": "Let me see.",
    "content": "I look it up.",
    "tool_calls": [
        {"id": "call-1", "function": {"name": "look", "arguments": '{"at": "ab"}'}},
        {"id": "call-2", "function": {"name": "stop", "arguments": "{}"}},
    ],
}


def request(**values: Any) -> ResponsesRequest:
    return ResponsesRequest.model_validate({"input": "Hi!", **values})


def chat_of(**values: Any) -> ChatRequest:
    return request(**values).chat([])


def told(chat: ChatRequest) -> list[dict[str, Any]]:
    return [message.model_dump(exclude_none=True) for message in chat.messages]


def whole(piece: ChatPiece, **values: Any) -> tuple[ResponseObject, dict[str, Any]]:
    done: list[Any] = []
    translator = ResponsesTranslator(request(**values), "m", lambda *both: done.extend(both))
    response = translator.whole(piece)
    assert done[0] is response
    return response, done[1]


def without_ids(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in item.items() if name != "id"} for item in items]


def test_instructions_come_first_and_earlier_messages_next() -> None:
    chat = request(instructions="Be kind.").chat([{"role": "user", "content": "Before."}])
    assert [(one["role"], one["content"]) for one in told(chat)] == [
        ("system", "Be kind."),
        ("user", "Before."),
        ("user", "Hi!"),
    ]


def test_what_a_response_gave_as_output_is_the_same_turn_as_input() -> None:
    response, message = whole(WHOLE)
    assert message == MESSAGE
    (turn,) = told(chat_of(input=response.output))
    calls = [call | {"type": "function"} for call in MESSAGE["tool_calls"]]  # type: ignore[operator]
    assert turn == MESSAGE | {"tool_calls": calls}


def test_an_output_of_a_function_is_a_message_of_a_tool() -> None:
    items = [
        {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"},
        {
            "type": "function_call_output",
            "call_id": "c",
            "output": [{"type": "input_text", "text": "rain"}],
        },
        {"role": "user", "content": [{"type": "input_text", "text": "And now?"}]},
    ]
    called, answered, now = told(chat_of(input=items))
    assert called["tool_calls"][0]["id"] == "c"
    assert answered == {"role": "tool", "tool_call_id": "c", "content": "rain"}
    assert now == {"role": "user", "content": "And now?"}


def test_options_keep_their_meaning() -> None:
    schema = {"type": "object"}
    chat = chat_of(
        max_output_tokens=7,
        temperature=0.5,
        top_logprobs=2,
        stream=True,
        reasoning={"effort": "low"},
        text={"format": {"type": "json_schema", "name": "a", "schema": schema}},
        speculation={"n_draft": 3},
    )
    assert (chat.max_tokens, chat.temperature, chat.reasoning_effort) == (7, 0.5, "low")
    assert (chat.logprobs, chat.top_logprobs, chat.n_draft) == (True, 2, 3)
    assert chat.wants_usage
    assert chat.response_format is not None
    assert chat.response_format.json_schema.schema_ == schema  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("given", "choice", "names"),
    [
        (None, None, ["a", "b"]),
        ("required", "required", ["a", "b"]),
        (
            {"type": "function", "name": "a"},
            {"type": "function", "function": {"name": "a"}},
            ["a", "b"],
        ),
        (
            {
                "type": "allowed_tools",
                "mode": "required",
                "tools": [{"type": "function", "name": "b"}],
            },
            "required",
            ["b"],
        ),
    ],
)
def test_each_tool_choice_has_its_own_meaning(given: Any, choice: Any, names: list[str]) -> None:
    tools = [{"type": "function", "name": name, "parameters": {}} for name in "ab"]
    chat = chat_of(tools=tools, tool_choice=given)
    assert chat.model_dump()["tool_choice"] == choice
    assert [tool.function.name for tool in chat.tools or []] == names


@pytest.mark.parametrize(
    ("item", "param"),
    [
        ({"content": "a"}, "input.0.role"),
        ({"type": "function_call", "call_id": "c"}, "input.0.name"),
        ({"type": "function_call_output", "output": "a"}, "input.0.call_id"),
    ],
)
def test_an_item_that_lacks_a_field_is_refused_by_its_place(item: Any, param: str) -> None:
    with pytest.raises(APIError) as refused:
        chat_of(input=[item])
    assert refused.value.body.error.param == param


def test_a_whole_response_has_items_in_order_and_its_usage() -> None:
    response, _ = whole(WHOLE, metadata={"a": "b"})
    assert [item["type"] for item in response.output] == [
        "reasoning",
        "message",
        "function_call",
        "function_call",
    ]
    assert response.status == "completed"
    assert response.metadata == {"a": "b"}
    assert response.usage is not None
    assert response.usage.model_dump() == {
        "input_tokens": 9,
        "input_tokens_details": {"cached_tokens": 5, "cache_write_tokens": 0},
        "output_tokens": 4,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 13,
    }


def test_a_stream_ends_with_the_whole_response_and_its_events_join_to_it() -> None:
    messages: list[Any] = []
    translator = ResponsesTranslator(request(), "m", lambda *both: messages.append(both[1]))
    events = list(translator.begin(9))
    for piece in PIECES:
        events.extend(translator.push(piece))
    events.extend(translator.finish())
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert messages == [MESSAGE]
    last = events[-1]
    assert last["type"] == "response.completed"
    output = last["response"]["output"]
    assert without_ids(output) == without_ids(whole(WHOLE)[0].output)
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert without_ids(done[2:]) == without_ids(output[2:])
    deltas = [""] * len(output)
    for event in events:
        if event["type"].endswith(".delta"):
            assert event["item_id"] == output[event["output_index"]]["id"]
            deltas[event["output_index"]] += event["delta"]
    assert deltas == ["Let me see.", "I look it up.", '{"at": "ab"}', "{}"]


def test_an_answer_that_was_cut_is_incomplete() -> None:
    response, _ = whole(ChatPiece(text="a", finish="length"))
    assert response.status == "incomplete"
    assert response.incomplete_details == {"reason": "max_output_tokens"}
    assert response.output[0]["status"] == "incomplete"


def test_the_store_forgets_the_oldest_and_tells_nobody_of_others_responses() -> None:
    store = ResponseStore(n_max=2)
    responses = [whole(WHOLE)[0] for _ in range(3)]
    for response in responses:
        store.add("a", response, [MESSAGE])
    assert len(store) == 2
    assert store.get("a", responses[1].id).messages == (MESSAGE,)
    for client, response in (("a", responses[0]), ("b", responses[1])):
        with pytest.raises(APIError, match="there is no response"):
            store.get(client, response.id)
    store.remove("a", responses[1].id)
    assert len(store) == 1


def test_the_store_is_bounded_by_size_too() -> None:
    response, message = whole(WHOLE)
    store = ResponseStore(n_chars_max=100)
    store.add("a", response, [message])
    assert len(store) == 0
