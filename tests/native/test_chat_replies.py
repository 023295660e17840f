"""Chats in Python: tools, formats and templates of a request, and the message that comes back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytreellama import Engine, Model, Stats
from pytreellama.chat.chat_options import ChatRequestOptions
from pytreellama.engine import Reply
from pytreellama.engine.chat_prompts import ChatPrompter
from pytreellama.engine.output import Output
from pytreellama.engine.request import Request
from pytreellama.errors import ChatTemplateError, RequestError
from tiny_vocabularies import write_bpe

ASKED: list[Any] = [{"role": "user", "content": "What is the weather in Vienna?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Vienna", "Rome"]}, "days": {"enum": [1, 2]}},
            "required": ["city", "days"],
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "clock"}}


@pytest.fixture(scope="module")
def engine(default_model: Model) -> Iterator[Engine]:
    with Engine(default_model, n_ctx=1024, n_seq_max=1) as engine:
        yield engine


def test_a_call_that_is_required_comes_with_arguments_of_its_schema(engine: Engine) -> None:
    made = engine.generate(
        ASKED, tools=[WEATHER, CLOCK], tool_choice="required", max_tokens=80, temperature=0
    )
    assert made.message is not None and made.finish_reason == "stop"
    (call,) = made.message.tool_calls
    assert call.name in ("weather", "clock") and call.is_whole and made.message.content == ""
    named: Any = {"type": "function", "function": {"name": "weather"}}
    made = engine.generate(
        ASKED, tools=[WEATHER, CLOCK], tool_choice=named, max_tokens=80, temperature=0
    )
    assert made.message is not None
    (call,) = made.message.tool_calls
    assert call.name == "weather"
    assert set(json.loads(call.arguments)) == {"city", "days"}
    told = [
        *ASKED,
        made.message.to_dict(),
        {"role": "tool", "content": "Rain.", "tool_call_id": "c"},
    ]
    text = engine.chat_prompt(told, tools=[WEATHER]).text
    assert '"name": "weather"' in text and "Rain." in text


def test_the_deltas_of_a_stream_are_the_message(engine: Engine) -> None:
    options: Any = {"tools": [WEATHER], "tool_choice": "required", "max_tokens": 80, "seed": 1}
    whole = engine.generate(ASKED, **options)
    chunks = list(engine.stream(ASKED, **options))
    deltas = [delta for chunk in chunks for delta in chunk.deltas]
    assert Reply.of(deltas) == whole.message
    assert len([delta for delta in deltas if delta.call]) > 2  # argument by argument


def test_a_required_call_is_that_of_plain_decoding(engine: Engine) -> None:
    options: Any = {"tools": [WEATHER], "tool_choice": "required", "max_tokens": 80}
    for sampled in ({"temperature": 0}, {"temperature": 1.5, "seed": 3}):
        plain = engine.generate(ASKED, n_draft=0, **options, **sampled)
        assert engine.generate(ASKED, **options, **sampled).tokens == plain.tokens
        generation = engine.submit(ASKED, **options, **sampled)
        fork = generation.fork()
        assert fork.result().message == generation.result().message == plain.message


def test_a_format_is_a_schema_of_the_content(engine: Engine) -> None:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    format: Any = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    options: Any = {"response_format": format, "max_tokens": 60, "temperature": 0}
    made = engine.generate(ASKED, **options)
    assert made.message is not None and set(json.loads(made.message.content)) == {"ok"}
    either = engine.generate(ASKED, tools=[CLOCK], **options)
    assert either.message is not None
    if not either.message.tool_calls:
        assert set(json.loads(either.message.content)) == {"ok"}


def test_a_template_and_its_variables_can_be_given(engine: Engine) -> None:
    template = "{{ who }}: {% for m in messages %}{{ m.content }}{% endfor %}"
    prompt = engine.chat_prompt(ASKED, chat_template=template, template_variables={"who": "Ann"})
    assert prompt.text == "Ann: What is the weather in Vienna?"
    assert str(prompt) == prompt.text and len(prompt) == len(prompt.tokens)
    same = engine.generate(prompt, max_tokens=8, temperature=0)
    options: Any = {"chat_template": template, "template_variables": {"who": "Ann"}}
    assert engine.generate(ASKED, max_tokens=8, temperature=0, **options).tokens == same.tokens
    assert (
        engine.generate([prompt, prompt], max_tokens=2, temperature=0)[1].tokens == same.tokens[:2]
    )


def test_a_template_that_wants_arguments_as_text_gets_them(engine: Engine) -> None:
    template = (
        "{% if tools %}{% endif %}{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or"
        " [] %}{{ 'to ' + c.function.arguments }}{% endfor %}{% endfor %}"
    )
    call = {"id": "a", "type": "function", "function": {"name": "clock", "arguments": {"at": "é"}}}
    told: Any = [*ASKED, {"role": "assistant", "content": None, "tool_calls": [call]}]
    text = engine.chat_prompt(told, chat_template=template).text
    assert text.endswith('Vienna?to {"at": "é"}')


def test_reasoning_that_the_prompt_opens_is_split_from_content(engine: Engine) -> None:
    template = "{% for m in messages %}{{ m.content }}{% endfor %}<think>"
    options: Any = {"chat_template": template, "max_tokens": 8, "temperature": 0}
    made = engine.generate(ASKED, **options)
    assert made.message is not None
    assert made.message.content == "" and made.message.reasoning == made.text.strip()
    left = engine.generate(ASKED, reasoning_format="none", **options)
    assert left.message is not None and left.message.reasoning == ""
    assert left.message.content == left.text == made.text


def test_a_format_leaves_room_for_reasoning(engine: Engine) -> None:
    template = "{% for m in messages %}{{ m.content }}{% endfor %}<think>"
    prompt = engine.chat_prompt(
        ASKED, chat_template=template, response_format={"type": "json_object"}
    )
    assert prompt.grammar is not None and prompt.schema is None
    assert prompt.grammar.is_reasoning_open
    closed = engine.chat_prompt(
        ASKED, chat_template=template + "</think>\n", response_format={"type": "json_object"}
    )
    assert closed.grammar is None and closed.schema == {"type": "object"}


@pytest.mark.parametrize(
    "constraint",
    [{"regex": "(yes|no)"}, {"grammar": 'root ::= "yes" | "no"'}, {"lark": 'start: "yes" | "no"'}],
    ids=str,
)
def test_a_constraint_of_the_whole_text_leaves_no_room_for_reasoning(
    engine: Engine, constraint: Any
) -> None:
    template = "{% for m in messages %}{{ m.content }}{% endfor %}<think>"
    done = engine.generate(ASKED, chat_template=template, max_tokens=8, **constraint)
    assert done.message is not None
    assert done.message.content in ("yes", "no")


def test_text_prompts_have_no_message_and_take_no_tools(engine: Engine) -> None:
    assert engine.generate("Once", max_tokens=1).message is None
    with pytest.raises(RequestError, match="tools was given with a prompt that is no list"):
        engine.generate("Once", tools=[CLOCK])
    with pytest.raises(RequestError, match="give json_schema, or response_format"):
        engine.generate(ASKED, response_format={"type": "json_object"}, json_schema={})
    with pytest.raises(ChatTemplateError, match="template"):
        engine.generate(ASKED, chat_template="{% if %}")
    with pytest.raises(ChatTemplateError, match="messages must be a list"):
        engine.chat_prompt("Hi")  # type: ignore[arg-type]


def test_special_tokens_that_are_marks_belong_to_the_text(tmp_path: Path) -> None:
    specials = ("<s>", "</s>", "[TOOL_CALLS]", "<|other|>")
    path = write_bpe(tmp_path / "vocab.gguf", specials=specials)
    with Model(path, vocab_only=True) as model:
        prompter = ChatPrompter(model, lambda text: None)
        template = "[TOOL_CALLS]{{ messages[0].content }}"
        options = ChatRequestOptions(chat_template=template)
        prompt = prompter.prepare([{"role": "user", "content": "a"}], options)
        mark, other = map(specials.index, specials[2:])
        assert prompt.tokens[0] == mark and prompt.reply.shown_tokens == {mark}
        output = Output(Request(prompt.tokens, 8, reply=prompt.reply), model.vocab)
        for token in (mark, other):
            output.append(token)
        assert output.take_chunk(None, Stats(), 0).text == "[TOOL_CALLS]"
