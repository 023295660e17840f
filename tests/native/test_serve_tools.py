"""Calls in a model's text: found whole, and the same however the text is cut in pieces."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pytreellama.serve.calls import Call, CallWatch, find_calls
from pytreellama.serve.faults import Fault
from pytreellama.serve.tools import in_words, tool_schema, with_objects

FUNCTIONS: dict[str, dict[str, Any]] = {
    "look": {"type": "object", "properties": {"at": {"type": "string"}, "for": {"type": "number"}}},
    "go": {},
}
LOOK = '{"name": "look", "arguments": {"at": "é"}}'
LOOKED = Call("look", '{"at": "é"}')
TAGGED = "<function=look>\n<parameter=at>\né\n</parameter>\n</function>"

_parts = st.sampled_from(
    [
        "<tool_call>",
        "</tool_call>",
        "<tool",
        "<",
        TAGGED,
        "<function=",
        "</function>",
        "Hi",
        " ",
        "\n",
        LOOK,
        f"[{LOOK}, {LOOK}]",
        '{"name": "go", "parameters": {}}',
        '{"name": "fly"}',
        "{",
        "[",
        "]",
    ]
)
texts = st.lists(_parts, max_size=8).map("".join)


@pytest.mark.parametrize(
    ("text", "rest", "calls"),
    [
        (f"<tool_call>\n{LOOK}\n</tool_call>", "", [LOOKED]),
        (f"I look.\n<tool_call>{LOOK}</tool_call>", "I look.", [LOOKED]),
        (f"<tool_call>{LOOK}</tool_call><tool_call>{LOOK}</tool_call>", "", [LOOKED, LOOKED]),
        (f"<tool_call>{LOOK}", "", [LOOKED]),  # it ended there
        (f"<tool_call>[{LOOK}, {LOOK}]</tool_call>", "", [LOOKED, LOOKED]),
        (LOOK, "", [LOOKED]),
        (f" [{LOOK}]\n", "", [LOOKED]),
        ('{"name": "go", "parameters": {}}', "", [Call("go", "{}")]),
        ('{"name": "go"}', "", [Call("go", "{}")]),
        ('{"name": "go", "arguments": "{}"}', "", [Call("go", "{}")]),
        ('{"name": "go", "arguments": "\\ud800"}', "", [Call("go", "\\ud800")]),
        ('{"name": "go", "arguments": ["\\ud800"]}', "", [Call("go", '["\\ud800"]')]),
        (f"<tool_call>\n{TAGGED}\n</tool_call>", "", [LOOKED]),
        (f"I look.\n{TAGGED}\n</tool_call>", "I look.", [LOOKED]),  # it often begins so
        (f"{TAGGED}\n{TAGGED}", "", [LOOKED, LOOKED]),
        (
            "<function=look><parameter=at>12</parameter><parameter=for>3</parameter></function>",
            "",
            [Call("look", '{"at": "12", "for": 3}')],
        ),
        (
            "<function=go><parameter=to>\na\n\nb\n</parameter></function>",
            "",
            [Call("go", '{"to": "a\\n\\nb"}')],
        ),
        ("<function=go></function>", "", [Call("go", "{}")]),
        ("<function=fly></function>", "<function=fly></function>", []),
        ("<function=go>fast</function>", "<function=go>fast</function>", []),
        (f"<tool_call>{TAGGED}<function=go>fast</function>",) * 2 + ([],),
        (f"{TAGGED}<tool_call>", "<tool_call>", [LOOKED]),
        (f"<function=<function={TAGGED}", f"<function=<function={TAGGED}", []),
        (f"<function=go>\n{TAGGED}", f"<function=go>\n{TAGGED}", []),
        ("<function=go>", "<function=go>", []),
        (f"Look: {LOOK}", f"Look: {LOOK}", []),
        ('{"name": "fly", "arguments": {}}', '{"name": "fly", "arguments": {}}', []),
        ("<tool_call>no JSON</tool_call>", "<tool_call>no JSON</tool_call>", []),
        ("[]", "[]", []),
        ('{"name": ["look"]}', '{"name": ["look"]}', []),
        ('{"name": {"look": 1}}', '{"name": {"look": 1}}', []),
        (f'[{LOOK}, {{"name": "fly"}}]', f'[{LOOK}, {{"name": "fly"}}]', []),
        ("[" * 100_000, "[" * 100_000, []),
        ("", "", []),
        ("  just text ", "  just text ", []),
    ],
)
def test_calls_of_known_functions_are_found_and_all_else_is_text(
    text: str, rest: str, calls: list[Call]
) -> None:
    assert find_calls(text, FUNCTIONS) == (rest, calls)


@pytest.mark.parametrize(
    ("text", "rest", "calls"),
    [
        (LOOK[:32], "", [Call("look", '{"', is_whole=False)]),
        (LOOK[:-1], "", [Call("look", '{"at": "é"}', is_whole=False)]),
        (LOOK, "", [LOOKED]),
        (f"Hm. <tool_call>{LOOK[:35]}", "Hm.", [Call("look", '{"at"', is_whole=False)]),
        (
            f"<tool_call>{LOOK}</tool_call><tool_call>{LOOK[:32]}",
            "",
            [LOOKED, Call("look", '{"', is_whole=False)],
        ),
        (f"<tool_call>{LOOK[:32]}</tool_call>", f"<tool_call>{LOOK[:32]}</tool_call>", []),
        (LOOK[:20], LOOK[:20], []),
        ('{"name": "fly", "arguments": {', '{"name": "fly", "arguments": {', []),
    ],
)
def test_an_answer_that_is_cut_in_a_call_has_what_there_is_of_it(
    text: str, rest: str, calls: list[Call]
) -> None:
    assert find_calls(text, FUNCTIONS, is_cut=True) == (rest, calls)
    watch = CallWatch(FUNCTIONS)
    passed = "".join(map(watch.push, text))
    left, found = watch.finish(is_cut=True)
    assert ((passed + left).strip(), found) == (rest, calls)


@given(texts, st.data())
@example(f"a <tool_call>{LOOK}</tool_call>", None)
@example(f"\n <tool_call>{LOOK}</tool_call> b", None)
def test_a_text_in_pieces_has_the_text_and_calls_of_the_whole(
    text: str, data: st.DataObject | None
) -> None:
    """All but the space around calls, which may be gone before anyone knows that they are there."""
    cuts = list(range(len(text) + 1))
    if data is not None:
        cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    watch = CallWatch(FUNCTIONS)
    ends = [0, *cuts, len(text)]
    passed = "".join(watch.push(text[a:b]) for a, b in pairwise(ends))
    rest, calls = watch.finish()
    whole, expected = find_calls(text, FUNCTIONS)
    assert calls == expected
    if calls:
        assert (passed + rest).strip() == whole
    else:
        assert passed + rest == text


@given(texts)
def test_what_is_let_through_is_the_same_at_the_end_however_it_is_cut(text: str) -> None:
    slow, fast = CallWatch(FUNCTIONS), CallWatch(FUNCTIONS)
    passed = "".join(slow.push(char) for char in text)
    assert (passed, slow.finish()) == (fast.push(text), fast.finish())


def test_text_before_a_call_is_let_through_as_it_comes() -> None:
    watch = CallWatch(FUNCTIONS)
    assert watch.push("I look ") == "I look "
    assert watch.push("<tool") == ""
    assert watch.push("s> and ") == "<tools> and "
    assert watch.push("<tool_call>") == ""
    assert watch.push(LOOK) == ""
    assert watch.finish() == ("", [LOOKED])


def test_a_text_that_may_be_nothing_but_a_call_is_held_back() -> None:
    watch = CallWatch(FUNCTIONS)
    assert [watch.push(char) for char in "\n{ no"] == [""] * 5
    assert watch.finish() == ("\n{ no", [])


def test_calls_are_asked_for_by_their_names() -> None:
    tools = [{"function": {"name": name, "parameters": None}} for name in sorted(FUNCTIONS)]
    one = tool_schema(tools, "look")
    assert one["properties"]["name"] == {"const": "look"}
    assert [form["properties"]["name"]["const"] for form in tool_schema(tools, None)["anyOf"]] == [
        "go",
        "look",
    ]


def test_a_template_without_tools_is_told_of_them_in_words_that_are_found_again() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": '{"at": "é"}'}}
    messages: Any = [
        {"role": "user", "content": "What is there?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "A fox.", "tool_call_id": "1"},
    ]
    told = in_words(messages, [{"function": {"name": "look", "description": "Looks."}}])
    assert [one["role"] for one in told] == ["system", "user", "assistant", "user"]
    assert '{"name": "look", "description": "Looks."}' in told[0]["content"]
    assert find_calls(told[2]["content"], FUNCTIONS) == ("", [LOOKED])
    assert "A fox." in told[3]["content"]
    assert json.dumps(messages)  # what was given is as it was


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
TOOLS = [{"function": {"name": "look"}}]


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


def test_without_a_role_for_the_system_the_user_s_first_turn_begins_with_the_tools() -> None:
    told = in_words(RESULTS, TOOLS, takes_system=False)
    assert [one["role"] for one in told] == ["user", "assistant", "user"]
    assert '{"name": "look"}' in told[0]["content"]
    assert told[0]["content"].endswith("\n\nWhat is there?")
    own: list[Any] = [{"role": "system", "content": "Be brief."}, *RESULTS]
    told = in_words(own, TOOLS, takes_system=False)  # which the template refuses, as it says
    assert told[0]["role"] == "system" and told[0]["content"].startswith("Be brief.")


def call_with(arguments: str) -> list[dict[str, Any]]:
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": arguments}}
    return [{"role": "assistant", "content": None, "tool_calls": [CALLS[0], call]}]


@pytest.mark.parametrize("arguments", ["", " ", "{}", "\n{ }"])
def test_no_arguments_are_an_object_without_any(arguments: str) -> None:
    (told,) = with_objects(call_with(arguments))
    assert told["tool_calls"][1]["function"]["arguments"] == {}
    assert '"arguments": {}' in in_words(call_with(arguments), [])[0]["content"]


@pytest.mark.parametrize("arguments", ["null", "[1]", '"x"', '{"a": ', "x", "[" * 9999, "1" * 9999])
def test_arguments_that_are_not_an_object_are_refused_by_name(arguments: str) -> None:
    for tell in (with_objects, lambda messages: in_words(messages, [])):
        with pytest.raises(Fault, match="expected a JSON object") as caught:
            tell(call_with(arguments))
        assert caught.value.status_code == 400
        assert caught.value.body.error.param == "messages.0.tool_calls.1.function.arguments"
