"""What models of many families write when they reason and call functions, and what it means."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from pytreellama.chat.reply.format import ReplyFormat
from pytreellama.chat.reply.markers import MARKERS
from pytreellama.chat.reply.message import Reply, ReplyCall, ReplyDelta
from pytreellama.chat.reply.reader import ReplyReader

FUNCTIONS: dict[str, dict[str, Any]] = {
    "look": {
        "type": "object",
        "properties": {"at": {"type": "string"}, "for": {"type": "number"}},
    },
    "go": {},
}


@dataclass(frozen=True)
class Case:
    """A text of a model, and the reply that it is."""

    text: str
    content: str = ""
    reasoning: str = ""
    calls: tuple[tuple[str, str], ...] = ()
    ids: tuple[str | None, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def reply(self) -> Reply:
        ids = self.ids or (None,) * len(self.calls)
        calls = (ReplyCall(*call, id) for call, id in zip(self.calls, ids, strict=True))
        return Reply(self.content, self.reasoning, tuple(calls))

    @property
    def format(self) -> ReplyFormat:
        return ReplyFormat(FUNCTIONS, MARKERS, **self.options)


def read(text: str, format: ReplyFormat, cuts: tuple[int, ...] = ()) -> list[ReplyDelta]:
    """All deltas of a text that comes in pieces."""
    reader = ReplyReader(format)
    ends = [0, *sorted(cuts), len(text)]
    deltas = [delta for a, b in pairwise(ends) for delta in reader.push(text[a:b])]
    return deltas + reader.finish()


AT = '{"at": "Vienna, \\"old\\" town", "for": 2.5}'
CODE = '{"at": "if (a < b) {\\n  x = [1]; }"}'
LOOK, GO = ("look", AT), ("go", "{}")
_JSON_LOOK = f'{{"name": "look", "arguments": {AT}}}'
_JSON_GO = '{"name": "go", "arguments": {}}'
_TAGGED = (
    '<function=look>\n<parameter=at>\na\n\n<b> "c"\n</parameter>\n'
    "<parameter=for>\n3\n</parameter>\n</function>"
)
_TAGGED_LOOK = ("look", '{"at": "a\\n\\n<b> \\"c\\"", "for": 3}')
_HARMONY = {"is_harmony": True}
_OPEN = {"opened_reasoning": "<think>"}

CASES = {
    "hermes": Case(f"<tool_call>\n{_JSON_LOOK}\n</tool_call>", calls=(LOOK,)),
    "hermes, several": Case(
        f"I look.\n<tool_call>\n{_JSON_LOOK}\n</tool_call>\n<tool_call>\n{_JSON_GO}\n</tool_call>",
        content="I look.",
        calls=(LOOK, GO),
    ),
    "hermes, one after the other in one tag": Case(
        f"<tool_call>\n{_JSON_LOOK}\n{_JSON_GO}\n</tool_call>", calls=(LOOK, GO)
    ),
    "qwen 3, thinking": Case(
        f"<think>\nHm <b>.\n\n</think>\n\n<tool_call>\n{_JSON_GO}\n</tool_call>",
        reasoning="Hm <b>.",
        calls=(GO,),
    ),
    "qwen 3, thinking switched off": Case("<think>\n\n</think>\n\nHi.", content="Hi."),
    "qwen 3 coder": Case(f"<tool_call>\n{_TAGGED}\n</tool_call>", calls=(_TAGGED_LOOK,)),
    "qwen 3 coder, without the outer tags": Case(
        f"So.\n{_TAGGED}\n{_TAGGED}", content="So.", calls=(_TAGGED_LOOK, _TAGGED_LOOK)
    ),
    "qwen 3 coder, no arguments": Case(
        "<tool_call>\n<function=go>\n</function>\n</tool_call>", calls=(GO,)
    ),
    "llama 3": Case(f'{{"name": "look", "parameters": {AT}}}', calls=(LOOK,)),
    "llama 3, typed": Case(
        f'{{"type": "function", "name": "look", "parameters": {AT}}}', calls=(LOOK,)
    ),
    "llama 3, several": Case(
        f'{{"name": "look", "parameters": {AT}}}; {{"name": "go", "parameters": {{}}}}',
        calls=(LOOK, GO),
    ),
    "llama 3, python tag": Case(f"<|python_tag|>{_JSON_LOOK}", calls=(LOOK,)),
    "llama 3, custom": Case(f"<function=look>{AT}</function>", calls=(LOOK,)),
    "mistral": Case(f"[TOOL_CALLS][{_JSON_LOOK}, {_JSON_GO}]", calls=(LOOK, GO)),
    "mistral, with ids": Case(
        '[TOOL_CALLS] [{"name": "go", "arguments": {}, "id": "Ab3dEf7hI"}]', calls=(GO,)
    ),
    "mistral, id first": Case(
        '[TOOL_CALLS] [{"id": "Ab3dEf7hI", "name": "go", "arguments": {}}]',
        calls=(GO,),
        ids=("Ab3dEf7hI",),
    ),
    "mistral small 3.2": Case(
        f"[TOOL_CALLS]look[CALL_ID]Ab3dEf7hI[ARGS]{AT}[TOOL_CALLS]go[ARGS]{{}}",
        calls=(LOOK, GO),
        ids=("Ab3dEf7hI", None),
    ),
    "magistral": Case(
        f"[THINK]Hm.[/THINK]I look.[TOOL_CALLS]look[ARGS]{AT}",
        content="I look.",
        reasoning="Hm.",
        calls=(LOOK,),
    ),
    "deepseek v3": Case(
        "I look.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>look\n"
        f"```json\n{AT}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>go\n"
        "```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        content="I look.",
        calls=(LOOK, GO),
    ),
    "deepseek r1": Case(
        "Hm.\n</think>\n\n<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>go\n"
        "```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        reasoning="Hm.",
        calls=(GO,),
        options=_OPEN,
    ),
    "deepseek v3.1": Case(
        f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>look<｜tool▁sep｜>{AT}<｜tool▁call▁end｜>"
        "<｜tool▁call▁begin｜>go<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        calls=(LOOK, GO),
    ),
    "deepseek v3.2": Case(
        '<｜DSML｜function_calls>\n<｜DSML｜invoke name="look">\n'
        '<｜DSML｜parameter name="at" string="true">12</｜DSML｜parameter>\n'
        '<｜DSML｜parameter name="for" string="false">3</｜DSML｜parameter>\n'
        "</｜DSML｜invoke>\n</｜DSML｜function_calls>",
        calls=(("look", '{"at": "12", "for": 3}'),),
    ),
    "deepseek v4": Case(
        '</think>\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name="go">\n</｜DSML｜invoke>\n'
        "</｜DSML｜tool_calls>",
        calls=(GO,),
        options=_OPEN,
    ),
    "nemotron 2": Case(f"<TOOLCALL>[{_JSON_LOOK}]</TOOLCALL>", calls=(LOOK,)),
    "apriel": Case(f"\n<tool_calls>[{_JSON_GO}]</tool_calls>", calls=(GO,)),
    "glm 4.5": Case(
        "<think>Hm.</think>\nI look.\n<tool_call>look\n<arg_key>at</arg_key>\n"
        "<arg_value>a <b>\nc</arg_value>\n<arg_key>for</arg_key>\n<arg_value>3</arg_value>\n"
        "</tool_call>\n<tool_call>go\n</tool_call>",
        content="I look.",
        reasoning="Hm.",
        calls=(("look", '{"at": "a <b>\\nc", "for": 3}'), GO),
    ),
    "gpt-oss": Case(
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Hi.",
        content="Hi.",
        reasoning="Hm.",
        options=_HARMONY,
    ),
    "gpt-oss, call": Case(
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary "
        f"to=functions.look <|constrain|>json<|message|>{AT}<|call|>",
        reasoning="Hm.",
        calls=(LOOK,),
        options=_HARMONY,
    ),
    "gpt-oss, call in the role": Case(
        f" to=functions.look<|channel|>commentary json<|message|>{AT}",
        calls=(LOOK,),
        options=_HARMONY,
    ),
    "gpt-oss, preamble": Case(
        "<|channel|>commentary<|message|>I go.<|end|><|start|>assistant<|channel|>analysis"
        "<|message|>A.<|end|><|start|>assistant<|channel|>analysis<|message|>B.<|end|><|start|>assistant"
        " to=functions.go<|channel|>commentary<|message|>{}<|call|>",
        content="I go.",
        reasoning="A.\nB.",
        calls=(GO,),
        options=_HARMONY,
    ),
    "gemma 3, in a fence": Case(f"I look.\n```json\n{_JSON_LOOK}\n```\n", "I look.", calls=(LOOK,)),
    "gemma 3, a list in a fence": Case(
        f"```tool_code\n[\n  {_JSON_LOOK},\n  {_JSON_GO}\n]\n```", calls=(LOOK, GO)
    ),
    "gemma 3, python in a fence": Case(
        "I look.\n```tool_code\nlook(at='a, (b)\\'s', for=2.5)\n```\n",
        content="I look.",
        calls=(("look", '{"at": "a, (b)\'s", "for": 2.5}'),),
    ),
    "lfm 2": Case(
        "<|tool_call_start|>[look(at='Rome', other=[1, {'x': True}], more=null), go()]"
        "<|tool_call_end|>I wait.",
        content="I wait.",
        calls=(("look", '{"at": "Rome", "other": [1, {"x": true}], "more": null}'), GO),
    ),
    "llama 4": Case('[look(at="Rome", for=3)]', calls=(("look", '{"at": "Rome", "for": 3}'),)),
    "gemma 4": Case(
        '<|channel>thought\nHm.\n<channel|><|tool_call>call:look{at:<|"|>a, {"b"}: c\n<|"|>,'
        'for:2.5,other:[1,{x:true,y:<|"|><|"|>}]}<tool_call|><|tool_call>call:go{}<tool_call|>',
        reasoning="Hm.",
        calls=(
            (
                "look",
                '{"at": "a, {\\"b\\"}: c\\n", "for": 2.5, "other": [1, {"x": true, "y": ""}]}',
            ),
            GO,
        ),
    ),
    "functiongemma": Case(
        "<start_function_call>call:look{at:<escape>Rome<escape>}<end_function_call>",
        calls=(("look", '{"at": "Rome"}'),),
    ),
    "granite 3": Case(f"<|tool_call|>[{_JSON_LOOK}, {_JSON_GO}]", calls=(LOOK, GO)),
    "kimi k2": Case(
        "I look.<|tool_calls_section_begin|><|tool_call_begin|>functions.look:0"
        f"<|tool_call_argument_begin|>{AT}<|tool_call_end|><|tool_call_begin|>functions.go:1"
        "<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>",
        content="I look.",
        calls=(LOOK, GO),
        ids=("functions.look:0", "functions.go:1"),
    ),
    "minimax m2": Case(
        '<think>Hm.</think>\n<minimax:tool_call>\n<invoke name="look">\n'
        '<parameter name="at">Rome</parameter>\n<parameter name="for">3</parameter>\n</invoke>\n'
        "</minimax:tool_call>",
        reasoning="Hm.",
        calls=(("look", '{"at": "Rome", "for": 3}'),),
    ),
    "one per line": Case(
        f"I look and go.\n{_JSON_LOOK}\n{_JSON_GO}", content="I look and go.", calls=(LOOK, GO)
    ),
    "the name last": Case(f'{{"arguments": {AT}, "name": "look"}}', calls=(LOOK,)),
    "arguments as text": Case(
        '{"name": "look", "arguments": "{\\"for\\": 1}"}', calls=(("look", '{"for": 1}'),)
    ),
    "openai's own form": Case(
        f'{{"id": "c1", "type": "function", "function": {{"name": "look", "arguments": {AT}}}}}',
        calls=(LOOK,),
        ids=("c1",),
    ),
    "no arguments at all": Case('{"name": "go"}', calls=(GO,)),
    "code in a text": Case(
        f'<tool_call>{{"name": "look", "arguments": {CODE}}}</tool_call>', calls=(("look", CODE),)
    ),
    "line breaks in a text": Case(
        '{"name": "look", "arguments": {"at": "a\nb\tc"}}', calls=(("look", '{"at": "a\\nb\\tc"}'),)
    ),
    "a brace is missing": Case(
        f'<tool_call>{{"name": "look", "arguments": {AT}</tool_call> Well.',
        content="Well.",
        calls=(LOOK,),
    ),
    "text around calls": Case(
        f"Before.\n\n<tool_call>{_JSON_GO}</tool_call>\n\nBehind.\n",
        content="Before.\nBehind.",
        calls=(GO,),
    ),
    "reasoning that the prompt opens": Case("Hm.</think>\n Hi. ", "Hi. ", "Hm.", options=_OPEN),
    "reasoning that never ends": Case("Hm. <tool_call>", "", "Hm. <tool_call>", options=_OPEN),
    "reasoning left in the content": Case(
        "<think>\nHm.</think>\nHi.",
        "<think>\nHm.</think>\nHi.",
        options={"splits_reasoning": False},
    ),
    "harmony's reasoning left in the content": Case(
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Hi.",
        "<|channel|>analysis<|message|>Hm.<|end|>\nHi.",
        options=_HARMONY | {"splits_reasoning": False},
    ),
    "the first call alone": Case(
        f"{_JSON_GO}\n{_JSON_LOOK}", calls=(GO,), options={"allows_several": False}
    ),
}
"""By what they show; each function is known."""
