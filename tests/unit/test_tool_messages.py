"""Messages with tools, as chat templates can render them; and what a chat asks for."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pytreellama.chat.chat_options import ChatRequestOptions
from pytreellama.chat.reply.format import ReplyFormat
from pytreellama.chat.reply.message import Reply, ReplyCall
from pytreellama.chat.tool_messages import for_template, in_words, with_objects, with_texts
from pytreellama.errors import RequestError
from replies import FUNCTIONS, read

CALLS = [
    {"id": str(i), "type": "function", "function": {"name": "look", "arguments": "{}"}}
    for i in range(2)
]
RESULTS: list[Any] = [
    {"role": "user", "content": "What is there?"},
    {"role": "assistant", "content": "", "tool_calls": CALLS},
    {"role": "tool", "content": "A fox.", "tool_call_id": "0"},
    {"role": "tool", "content": "A dog.", "tool_call_id": "1"},
]
TOOLS = [{"type": "function", "function": {"name": "look"}}]


def test_a_template_without_tools_gets_them_in_words_that_are_read_again() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": '{"at": "é"}'}}
    messages: Any = [
        {"role": "user", "content": "What is there?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": [{"type": "text", "text": "A fox."}], "tool_call_id": "1"},
    ]
    tools = [{"function": {"name": "look", "description": "Looks."}}]
    told, given = for_template("{{ messages }}", messages, tools)
    assert given is None
    assert [one["role"] for one in told] == ["system", "user", "assistant", "user"]
    assert '{"name": "look", "description": "Looks."}' in told[0]["content"]
    reply = Reply.of(read(told[2]["content"], ReplyFormat(FUNCTIONS)))
    assert reply == Reply(tool_calls=(ReplyCall("look", '{"at": "é"}'),))
    assert "A fox." in told[3]["content"]
    assert json.dumps(messages)  # what was given is as it was


def test_a_template_with_tools_gets_them_and_arguments_as_objects() -> None:
    told, given = for_template("{{ tools }}", RESULTS, TOOLS)
    assert given == TOOLS and [one["role"] for one in told] == [one["role"] for one in RESULTS]
    assert told[1]["tool_calls"][0]["function"] == {"name": "look", "arguments": {}}
    assert told[1]["tool_calls"][0]["id"] == "0"


def test_ids_have_the_length_that_the_template_insists_on() -> None:
    template = "{% if tools and call.id|length != 9 %}{{ raise_exception('ids') }}{% endif %}"
    told, _ = for_template(template, RESULTS, TOOLS)
    ids = [call["id"] for call in told[1]["tool_calls"]]
    assert all(len(id) == 9 for id in ids) and len(set(ids)) == 2
    assert [one["tool_call_id"] for one in told[2:]] == ids
    own = [{"role": "tool", "content": "", "tool_call_id": "Ab3dEf7hI"}]
    assert for_template(template, own, [])[0] == own


def test_arguments_can_be_text_again() -> None:
    told = with_texts(with_objects(RESULTS))
    assert told is not None and told[1] == RESULTS[1]
    assert with_texts(RESULTS[:1]) is None


def test_results_in_a_row_are_one_turn_of_the_user() -> None:
    told = in_words([*RESULTS, {"role": "user", "content": "Well?"}], [])
    assert [one["role"] for one in told] == ["user", "assistant", "user"]
    assert told[2]["content"] == (
        "<tool_response>\nA fox.\n</tool_response>\n"
        "<tool_response>\nA dog.\n</tool_response>\nWell?"
    )


def test_turns_of_a_user_s_own_stay_as_they_are() -> None:
    messages: Any = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]
    assert in_words(messages, []) == messages


def test_without_a_system_role_the_user_s_first_turn_begins_with_the_tools() -> None:
    told = in_words(RESULTS, TOOLS, takes_system=False)
    assert [one["role"] for one in told] == ["user", "assistant", "user"]
    assert '{"name": "look"}' in told[0]["content"]
    assert told[0]["content"].endswith("\n\nWhat is there?")
    own: list[Any] = [{"role": "system", "content": "Be brief."}, *RESULTS]
    told = in_words(own, TOOLS, takes_system=False)  # which the template refuses, as it says
    assert told[0]["role"] == "system" and told[0]["content"].startswith("Be brief.")


def call_with(arguments: object) -> list[dict[str, Any]]:
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": arguments}}
    return [{"role": "assistant", "content": None, "tool_calls": [CALLS[0], call]}]


@pytest.mark.parametrize("arguments", ["", " ", "{}", "\n{ }", {}])
def test_no_arguments_are_an_object_without_any(arguments: object) -> None:
    (told,) = with_objects(call_with(arguments))
    assert told["tool_calls"][1]["function"]["arguments"] == {}
    assert '"arguments": {}' in in_words(call_with(arguments), [])[0]["content"]


@pytest.mark.parametrize(
    "arguments", ["null", "[1]", '"x"', '{"a": ', "x", "[" * 9999, "1" * 9999, [1], 3]
)
def test_arguments_that_are_not_an_object_are_refused_by_name(arguments: object) -> None:
    for tell in (with_objects, lambda messages: in_words(messages, [])):
        with pytest.raises(RequestError, match="expected a JSON object") as caught:
            tell(call_with(arguments))
        assert caught.value.param == "messages.0.tool_calls.1.function.arguments"


@pytest.mark.parametrize("call", [{}, 3, {"function": 1}, {"function": {"name": 2}}])
def test_a_call_that_is_none_is_refused_by_name(call: object) -> None:
    messages = [{"role": "assistant", "content": None, "tool_calls": [call]}]
    with pytest.raises(RequestError, match=r"messages\.0\.tool_calls\.0: expected"):
        with_objects(messages)


# -- options

TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
NAMED = {"type": "function", "function": {"name": "look"}}
GO = {"type": "function", "function": {"name": "go"}}


@pytest.mark.parametrize(
    ("choice", "names", "must_call", "several"),
    [
        (None, ["look", "go"], False, True),
        ("auto", ["look", "go"], False, True),
        ("none", [], False, True),
        ("required", ["look", "go"], True, False),
        (NAMED, ["look"], True, False),
    ],
)
def test_a_tool_choice_says_what_may_be_called(
    choice: Any, names: list[str], must_call: bool, several: bool
) -> None:
    options = ChatRequestOptions(tools=[TOOL, GO], tool_choice=choice)
    assert list(options.functions) == names
    assert (options.must_call, options.allows_several) == (must_call, several)
    assert len(options.offered) == (0 if choice == "none" else 2)
    assert ChatRequestOptions([TOOL], choice, parallel_tool_calls=True).allows_several


def test_a_function_without_parameters_takes_none() -> None:
    schema = ChatRequestOptions(tools=[GO]).functions["go"]
    assert schema["properties"] == {} and schema["$id"] == "urn:function:go"


@pytest.mark.parametrize(
    ("format", "schema"),
    [
        (None, None),
        ({"type": "text"}, None),
        ({"type": "json_object"}, {"type": "object"}),
        ({"type": "json_object", "schema": {"type": "array"}}, {"type": "array"}),
        ({"type": "json_schema", "json_schema": {"schema": {"type": "null"}}}, {"type": "null"}),
        ({"type": "json_schema", "json_schema": {"name": "a"}}, {"type": "object"}),
    ],
)
def test_a_format_is_a_schema(format: Any, schema: Any) -> None:
    assert ChatRequestOptions(response_format=format).schema == schema


@pytest.mark.parametrize(
    ("options", "what", "param"),
    [
        ({"tools": "look"}, "invalid tools='look': expected a list", "tools"),
        ({"tools": [{"name": "look"}]}, r"invalid tools\[0\]=", "tools"),
        ({"tools": [GO, 3]}, r"invalid tools\[1\]=3", "tools"),
        ({"tools": [{"function": {"name": "a b"}}]}, r"invalid tools\[0\]=", "tools"),
        ({"tools": [{"function": {"name": "a", "parameters": 3}}]}, "a JSON schema", "tools"),
        ({"tool_choice": "require"}, "did you mean 'required'", "tool_choice"),
        ({"tool_choice": "required"}, "there are no tools", "tool_choice"),
        ({"tool_choice": {"name": "look"}}, "invalid tool_choice=", "tool_choice"),
        ({"tool_choice": NAMED}, "names look, which is no tool", "tool_choice"),
        ({"parallel_tool_calls": 1}, "invalid parallel_tool_calls=1", "parallel_tool_calls"),
        ({"response_format": "json"}, "invalid response_format='json'", "response_format"),
        ({"response_format": {"type": "xml"}}, "invalid response_format=", "response_format"),
        (
            {"response_format": {"type": "json_object", "schema": 3}},
            "invalid response_format=",
            "response_format",
        ),
        (
            {"tools": [TOOL], "tool_choice": NAMED, "response_format": {"type": "json_object"}},
            "has no response_format",
            "response_format",
        ),
        ({"reasoning_format": "deep"}, "did you mean 'deepseek'", "reasoning_format"),
        ({"chat_template": 3}, "invalid chat_template=3", "chat_template"),
        ({"template_variables": [1]}, "invalid template_variables=", "template_variables"),
        (
            {"template_variables": {"messages": 1}},
            "messages cannot be replaced",
            "chat_template_kwargs",
        ),
    ],
)
def test_an_option_that_is_wrong_is_refused_by_name(
    options: dict[str, Any], what: str, param: str
) -> None:
    with pytest.raises(RequestError, match=what) as caught:
        ChatRequestOptions(**options)
    assert caught.value.param == param
