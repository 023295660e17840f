"""Replies are found in models' texts, and are the same however a text is cut in pieces."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytreellama.chat.reply.format import ReplyFormat
from pytreellama.chat.reply.markers import MARKERS, markers_of
from pytreellama.chat.reply.message import CallDelta, Reply, ReplyCall, ReplyDelta, joined
from pytreellama.chat.reply.reader import ReplyReader
from replies import AT, CASES, FUNCTIONS, Case, read

cases = pytest.mark.parametrize("case", [pytest.param(c, id=name) for name, c in CASES.items()])
EVERYTHING = ReplyFormat(FUNCTIONS, MARKERS)


@cases
def test_a_family_s_text_is_read_whole(case: Case) -> None:
    assert Reply.of(read(case.text, case.format)) == case.reply
    for call in case.reply.tool_calls:
        json.loads(call.arguments)


@cases
def test_a_text_that_comes_by_character_is_the_same_reply(case: Case) -> None:
    by_character = read(case.text, case.format, tuple(range(1, len(case.text))))
    assert Reply.of(by_character) == case.reply


@cases
def test_every_beginning_shows_a_beginning_of_the_reply(case: Case) -> None:
    """So nothing that was shown is ever taken back, and no half of a mark is shown."""
    reader, shown = ReplyReader(case.format), list[ReplyDelta]()
    for char in case.text:
        shown += reader.push(char)
        so_far = Reply.of(shown)
        assert case.content.startswith(so_far.content)
        assert case.reasoning.startswith(so_far.reasoning)
        for call, whole in zip(so_far.tool_calls, case.reply.tool_calls, strict=False):
            assert call.name == whole.name and whole.arguments.startswith(call.arguments)
        assert len(so_far.tool_calls) <= len(case.calls)
    assert Reply.of(shown + reader.finish()) == case.reply


@cases
def test_a_text_that_is_cut_anywhere_is_a_reply(case: Case) -> None:
    """All calls but the last are whole, and a call that is whole has arguments that are JSON."""
    for end in range(len(case.text)):
        reply = Reply.of(read(case.text[:end], case.format))
        assert all(call.is_whole for call in reply.tool_calls[:-1])
        for call in reply.tool_calls:
            assert call.name in FUNCTIONS
            if call.is_whole:
                json.loads(call.arguments)


_parts = st.sampled_from(
    [
        *(marker.text for marker in MARKERS),
        *("</tool_call>", "</function>", "</think>", "<channel|>", "<|end|>", "<|message|>"),
        *("<tool", "<", "look", "go", "functions.go:0", "call:look", "[ARGS]", "<｜tool▁sep｜>"),
        *("<|tool_call_argument_begin|>", '<|"|>', "<arg_key>", "</arg_key>", "<arg_value>"),
        *("<parameter=at>", "</parameter>", ">", "```json\n", "```", "{", "}", "[", "]", ",", ":"),
        *("look(", "at=", ")", "'", "<|tool_call_start|>["),
        *('"', "\\", "\n", " ", "é", "Hi", '"name"', '"arguments"', '"look"', "<think>", "[THINK]"),
        AT,
        f'{{"name": "look", "arguments": {AT}}}',
        '{"name": "fly", "arguments": {}}',
    ]
)
_texts = st.one_of(
    st.lists(_parts, max_size=12).map("".join),
    st.sampled_from(list(CASES.values())).map(lambda case: case.text),
)
_formats = st.sampled_from(
    [
        EVERYTHING,
        ReplyFormat(FUNCTIONS),
        ReplyFormat({}, MARKERS),
        ReplyFormat(FUNCTIONS, MARKERS, is_harmony=True),
        ReplyFormat(FUNCTIONS, MARKERS, opened_reasoning="<think>", allows_several=False),
        ReplyFormat(FUNCTIONS, MARKERS, splits_reasoning=False),
    ]
)


@given(_texts, _formats, st.data())
def test_any_text_is_the_same_reply_however_it_is_cut(
    text: str, format: ReplyFormat, data: st.DataObject
) -> None:
    whole = read(text, format)
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=6))
    assert Reply.of(read(text, format, tuple(cuts))) == Reply.of(whole)
    assert Reply.of(joined(whole)) == Reply.of(whole)


@given(_texts)
def test_a_text_without_calls_and_reasoning_is_its_content(text: str) -> None:
    reply = Reply.of(read(text, EVERYTHING, tuple(range(len(text)))))
    if not reply.tool_calls and not reply.reasoning and "think" not in text.lower():
        assert reply.content == text
    without = ReplyFormat(splits_reasoning=False)
    assert Reply.of(read(text, without)).content == text


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>no JSON</tool_call>",
        '<tool_call>{"name": "fly", "arguments": {}}</tool_call>',
        "<function=fly></function>",
        "<function=go>fast</function>",
        "<function=go>",
        '{"name": "fly", "arguments": {}}',
        '{"name": ["look"]}',
        '{"name": {"look": 1}}',
        '{"name": "look", "name": "go"}',
        'Look: {"name": "look", "arguments": {}}',
        '{"name": "Ann", "age": 3}',
        "[]",
        "[" * 100_000,
        "{",
        "```json\n{}\n```",
        "[TOOL_CALLS] are marks",
        "[TOOL_CALLS]fly[ARGS]{}",
        "<｜tool▁calls▁begin｜>none<｜tool▁calls▁end｜>",
        "<|tool_call_begin|>functions.fly:0<|tool_call_argument_begin|>{}<|tool_call_end|>",
        "<|tool_call>call:fly{}<tool_call|>",
        "<tool_call>fly\n<arg_key>a</arg_key>",
        "[look at this]",
        "[fly()]",
        "```python\ngo()\n```",
        "  just text ",
        "",
    ],
)
def test_what_calls_no_known_function_is_content(text: str) -> None:
    assert Reply.of(read(text, EVERYTHING)) == Reply(text)


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ('{"name": "look", "arguments": {"at": [1}}', '{"at": [1'),
        ('{"name": "look", "arguments": {\'at\': 1}}', "{"),
        ('{"name": "look", "arguments": {"at": "a', '{"at": "a'),
        ('<tool_call>{"name": "look", "arguments": {"at": </tool_call>', '{"at": '),
        ("<function=look><parameter=at>a", '{"at": "a'),
        ("<function=look><parameter=for>1", '{"for": '),
        ("<function=look><parameter=at>a</parameter>", '{"at": "a"'),
        ('<|tool_call>call:look{at:<|"|>a', '{"at": "a'),
        ("<|tool_call>call:look{at:]}", '{"at": '),
        ("[look(at='Rome', for=3", '{"at": "Rome"'),
        ("[look(3)]", ""),
    ],
)
def test_broken_arguments_are_passed_on_as_far_as_they_go(text: str, arguments: str) -> None:
    (call,) = Reply.of(read(text, EVERYTHING)).tool_calls
    assert call == ReplyCall("look", arguments, is_whole=False)


def test_arguments_stream_as_they_come() -> None:
    reader = ReplyReader(EVERYTHING)
    assert reader.push("I look <tool") == [ReplyDelta(content="I look")]
    assert reader.push('_call>{"name": "look", "argu') == []
    assert reader.push('ments": {"at": "R') == [ReplyDelta(call=CallDelta(0, "look", '{"at": "R'))]
    assert reader.push("o") == [ReplyDelta(call=CallDelta(0, None, "o"))]
    assert reader.push('me"}}') == [ReplyDelta(call=CallDelta(0, None, 'me"}', is_whole=True))]
    assert reader.push("</tool_call>\n") == [] and reader.finish() == []


def test_texts_in_tags_stream_and_numbers_wait_for_their_end() -> None:
    reader = ReplyReader(EVERYTHING)
    reader.push("<function=look><parameter=at>")
    assert reader.push('\n"a"') == [ReplyDelta(call=CallDelta(0, None, '\\"a\\"'))]
    reader.push("\n</parameter><parameter=for>")
    assert reader.push("1") == [] and reader.push("2") == []
    assert reader.push("</parameter>") == [ReplyDelta(call=CallDelta(0, None, "12"))]


def test_json_that_is_no_call_streams() -> None:
    reader = ReplyReader(EVERYTHING)
    assert reader.push('{"ci') == []
    assert reader.push('ty": "Ro') == [ReplyDelta(content='{"city": "Ro')]


def test_marks_of_a_family_are_looked_for_where_it_may_be_meant() -> None:
    assert {marker.text for marker in markers_of(["{{ '<|python_tag|>' }}"])} == {
        "<tool_call>",
        "<function=",
        "<|python_tag|>",
    }
    format = ReplyFormat.found("[TOOL_CALLS]", "a<think>\n", FUNCTIONS, {"[ARGS]": 7})
    assert format.opened_reasoning == "<think>" and format.shown_tokens == {7}
    text = "[TOOL_CALLS]go[ARGS]{}"
    assert Reply.of(read(text, ReplyFormat(FUNCTIONS))) == Reply(text)


def test_a_reply_can_be_put_back_into_the_messages() -> None:
    reply = Reply("So.", "Hm.", (ReplyCall("go", "{}"), ReplyCall("look", AT, "x")))
    assert reply.to_dict() == {
        "role": "assistant",
        "content": "So.",
        "reasoning_content": "Hm.",
        "tool_calls": [
            {"id": "call_0", "type": "function", "function": {"name": "go", "arguments": "{}"}},
            {"id": "x", "type": "function", "function": {"name": "look", "arguments": AT}},
        ],
    }
    assert Reply("Hi.").to_dict() == {"role": "assistant", "content": "Hi."}
