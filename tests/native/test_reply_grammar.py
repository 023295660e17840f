"""Replies that must be calls or JSON: what the grammar allows, and that it is read again."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pytreellama import Model, Vocab
from pytreellama.chat.reply.format import ReplyFormat
from pytreellama.chat.reply.markers import MARKERS
from pytreellama.chat.reply.message import Reply, ReplyCall
from pytreellama.constraints import call_syntax
from pytreellama.constraints.call_syntax import CallSyntax, syntax_of
from pytreellama.constraints.constraint import Constraint
from pytreellama.constraints.reply_grammar import ReplyGrammar
from pytreellama.errors import GrammarError
from replies import read

FUNCTIONS: dict[str, dict[str, Any]] = {
    "look": {
        "type": "object",
        "properties": {
            "at": {"type": "string"},
            "for": {"type": "integer"},
            "unit": {"enum": ["s", "min"]},
        },
        "required": ["at"],
    },
    "go": {"type": "object", "properties": {}},
}
SYNTAXES = {
    name: syntax for name, syntax in vars(call_syntax).items() if isinstance(syntax, CallSyntax)
}
ARGUMENTS = {"at": "Rome, <b>", "for": 3, "unit": "min"}


@pytest.fixture(scope="module")
def vocab(default_model: Model) -> Vocab:
    return default_model.vocab


def takes(constraint: Constraint, vocab: Vocab, text: str) -> bool:
    """Does it allow the text, and may the text end there?"""
    one = constraint.clone()
    for token in vocab.encode(text, add_special=False, parse_special=True):
        if not one.allows(token):
            return False
        one.accept(token)
    return one.is_complete


def written(syntax: CallSyntax, calls: list[tuple[str, dict[str, Any]]]) -> str:
    """Calls as a model would write them."""
    texts = []
    for i, (name, arguments) in enumerate(calls):
        text = json.dumps(arguments)
        if syntax.argument:
            values = {k: v if isinstance(v, str) else json.dumps(v) for k, v in arguments.items()}
            parts = (syntax.argument.replace("KEY", k) + v for k, v in values.items())
            text = "".join(part + syntax.argument_end for part in parts)
        begin = syntax.begin.replace("NAME", name).replace("INDEX", str(i))
        texts.append(begin + text + syntax.end)
    return syntax.before + (syntax.between or "").join(texts) + syntax.after


@pytest.mark.parametrize("name", SYNTAXES)
def test_a_call_in_every_syntax_is_allowed_and_read_again(vocab: Vocab, name: str) -> None:
    syntax = SYNTAXES[name]
    constraint = ReplyGrammar(FUNCTIONS, syntax)(vocab)
    text = written(syntax, [("look", ARGUMENTS)])
    assert takes(constraint, vocab, text)
    assert takes(constraint, vocab, written(syntax, [("go", {})]))
    assert not takes(constraint, vocab, written(syntax, [("fly", {})]))
    assert not takes(constraint, vocab, written(syntax, [("look", ARGUMENTS | {"for": "x"})]))
    assert not takes(constraint, vocab, written(syntax, [("look", {"for": 3})]))
    assert not takes(constraint, vocab, "Hi")
    format = ReplyFormat(FUNCTIONS, MARKERS, is_harmony=name == "HARMONY")
    (call,) = Reply.of(read(text, format)).tool_calls
    assert call.is_whole and json.loads(call.arguments) == ARGUMENTS


@pytest.mark.parametrize("name", [n for n, s in SYNTAXES.items() if s.between is not None])
def test_several_calls_are_allowed_where_they_may_be(vocab: Vocab, name: str) -> None:
    syntax = SYNTAXES[name]
    text = written(syntax, [("look", ARGUMENTS), ("go", {})])
    assert takes(ReplyGrammar(FUNCTIONS, syntax, allows_several=True)(vocab), vocab, text)
    assert not takes(ReplyGrammar(FUNCTIONS, syntax)(vocab), vocab, text)
    calls = Reply.of(read(text, ReplyFormat(FUNCTIONS, MARKERS))).tool_calls
    assert [call.name for call in calls] == ["look", "go"]


def test_a_reply_may_be_a_call_or_json_of_a_schema(vocab: Vocab) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    constraint = ReplyGrammar(FUNCTIONS, schema=schema)(vocab)
    assert takes(constraint, vocab, '{"city": "Rome"}')
    assert takes(constraint, vocab, written(call_syntax.HERMES, [("go", {})]))
    assert not takes(constraint, vocab, '{"town": "Rome"}')


def test_reasoning_may_come_before_it(vocab: Vocab) -> None:
    tags = ("<think>", "</think>")
    call = written(call_syntax.HERMES, [("go", {})])
    free = ReplyGrammar(FUNCTIONS, reasoning=tags)(vocab)
    assert takes(free, vocab, f"<think>Hm, a < b {{.</think>\n\n{call}") and takes(
        free, vocab, call
    )
    opened = ReplyGrammar(FUNCTIONS, reasoning=tags, is_reasoning_open=True)(vocab)
    assert takes(opened, vocab, f"Hm.</think>{call}") and not takes(opened, vocab, call)
    none = ReplyGrammar(FUNCTIONS)(vocab)
    assert not takes(none, vocab, f"<think>Hm.</think>{call}")


def test_special_tokens_stand_for_their_names(vocab: Vocab) -> None:
    """``<|im_start|>`` is one token here: its letters are not allowed in its place."""
    tokens = vocab.encode("<|im_start|>go {}", add_special=False, parse_special=True)
    letters = vocab.encode("<|im_start|>go {}", add_special=False, parse_special=False)
    one = ReplyGrammar({"go": {"type": "object"}}, CallSyntax("<|im_start|>NAME "))(vocab)
    assert one.allows(tokens[0]) and not one.allows(letters[0])


def test_references_of_a_function_begin_at_its_own_schema(vocab: Vocab) -> None:
    schema = {
        "$id": "urn:function:go",
        "type": "object",
        "properties": {"to": {"$ref": "#/$defs/Place"}},
        "required": ["to"],
        "$defs": {"Place": {"type": "array", "items": {"type": "integer"}}},
    }
    for syntax in (call_syntax.HERMES, call_syntax.QWEN_CODER):
        constraint = ReplyGrammar({"go": schema}, syntax)(vocab)
        assert takes(constraint, vocab, written(syntax, [("go", {"to": [1, 2]})]))
        assert not takes(constraint, vocab, written(syntax, [("go", {"to": ["x"]})]))


def test_a_schema_that_is_none_is_refused(vocab: Vocab) -> None:
    with pytest.raises(GrammarError):
        ReplyGrammar({"go": {"type": "objekt"}})(vocab)


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{{ tools }}<tool_call>\\n{{ call | tojson }}\\n</tool_call>", "HERMES"),
        ("{{ tools }}", "HERMES"),
        ("{{ tools }}<tool_call>\\n<function=a>\\n<parameter=b>", "QWEN_CODER"),
        ("{{ tools }}<tool_call>{{ n }}<arg_key>k</arg_key><arg_value>", "GLM"),
        ('{{ \'{"name": "\' + n + \'", "parameters": \' }}', "LLAMA"),
        ('{{ "{\\"name\\": \\"f\\", \\"parameters\\": " }}', "LLAMA"),
        ("[TOOL_CALLS]{{ name }}[ARGS]", "MISTRAL"),
        ("[TOOL_CALLS][{{ calls }}]", "MISTRAL_LIST"),
        ("<｜tool▁sep｜>{{ name }}\\n```json\\n", "DEEPSEEK_FENCED"),
        ("{{ name }}<｜tool▁sep｜>", "DEEPSEEK"),
        ("<|tool_call_begin|>{{ id }}<|tool_call_argument_begin|>", "KIMI"),
        ("<|channel|>commentary to=functions.", "HARMONY"),
        ('<|tool_call|>[{"name": n, "arguments": a}]', "GRANITE"),
    ],
)
def test_a_template_shows_the_syntax_of_its_family(template: str, name: str) -> None:
    assert syntax_of(template) == SYNTAXES[name]


def test_a_vocabulary_shows_the_syntax_where_the_template_does_not() -> None:
    assert syntax_of("{{ tools }}", ["<|tool_call|>"]) == call_syntax.GRANITE
    assert syntax_of("{{ tools }}<tool_call>", ["[TOOL_CALLS]"]) == call_syntax.HERMES


def test_no_call_is_read_of_what_the_reader_was_not_told(vocab: Vocab) -> None:
    text = written(call_syntax.HERMES, [("look", ARGUMENTS)])
    assert Reply.of(read(text, ReplyFormat({"go": {}}))).tool_calls == ()
    assert Reply.of(read(text, ReplyFormat(FUNCTIONS))).tool_calls == (
        ReplyCall("look", json.dumps(ARGUMENTS)),
    )
