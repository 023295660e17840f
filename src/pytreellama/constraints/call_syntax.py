"""CallSyntax: how a family of models is made to write calls of functions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

NAME, INDEX, KEY = "NAME", "INDEX", "KEY"
"""Stand for the name of a function, the number of a call, and the name of an argument."""


@dataclass(frozen=True)
class CallSyntax:
    """What stands around calls and their arguments.

    Attributes:
        begin, end: of a call; its arguments, a JSON object, stand between them.
        before, after: of all calls together.
        between: of two calls; None where there can be one only.
        argument, argument_end: of each argument, where arguments are no JSON object.
    """

    begin: str
    end: str = ""
    before: str = ""
    after: str = ""
    between: str | None = "\n"
    argument: str = ""
    argument_end: str = ""


HERMES = CallSyntax('<tool_call>\n{"name": "NAME", "arguments": ', "}\n</tool_call>")
LLAMA = CallSyntax('{"name": "NAME", "parameters": ', "}", between="; ")
MISTRAL = CallSyntax("[TOOL_CALLS]NAME[ARGS]", between="")
_LISTED = {"begin": '{"name": "NAME", "arguments": ', "end": "}", "after": "]", "between": ", "}
MISTRAL_LIST = CallSyntax(before="[TOOL_CALLS][", **_LISTED)
GRANITE = CallSyntax(before="<|tool_call|>[", **_LISTED)
DEEPSEEK_FENCED = CallSyntax(
    "<｜tool▁call▁begin｜>function<｜tool▁sep｜>NAME\n```json\n",
    "\n```<｜tool▁call▁end｜>",
    before="<｜tool▁calls▁begin｜>",
    after="<｜tool▁calls▁end｜>",
)
DEEPSEEK = CallSyntax(
    "<｜tool▁call▁begin｜>NAME<｜tool▁sep｜>",
    "<｜tool▁call▁end｜>",
    before="<｜tool▁calls▁begin｜>",
    after="<｜tool▁calls▁end｜>",
    between="",
)
KIMI = CallSyntax(
    "<|tool_call_begin|>functions.NAME:INDEX<|tool_call_argument_begin|>",
    "<|tool_call_end|>",
    before="<|tool_calls_section_begin|>",
    after="<|tool_calls_section_end|>",
    between="",
)
HARMONY = CallSyntax(
    "<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>", between=None
)
QWEN_CODER = CallSyntax(
    "<tool_call>\n<function=NAME>\n",
    "</function>\n</tool_call>",
    argument="<parameter=KEY>\n",
    argument_end="\n</parameter>\n",
)
GLM = CallSyntax(
    "<tool_call>NAME\n",
    "</tool_call>",
    argument="<arg_key>KEY</arg_key>\n<arg_value>",
    argument_end="</arg_value>\n",
)

_BY_TEXT = (
    (("<function=", "<parameter="), QWEN_CODER),
    (("<arg_key>", "<arg_value>"), GLM),
    (("[TOOL_CALLS]", "[ARGS]"), MISTRAL),
    (("[TOOL_CALLS]",), MISTRAL_LIST),
    (("<｜tool▁sep｜>", "```json"), DEEPSEEK_FENCED),
    (("<｜tool▁sep｜>",), DEEPSEEK),
    (("<|tool_call_argument_begin|>",), KIMI),
    (("<|channel|>", "commentary"), HARMONY),
    (("<tool_call>",), HERMES),
    (("<|tool_call|>",), GRANITE),
    (('"parameters": ',), LLAMA),
)


def syntax_of(template: str, specials: Iterable[str] = ()) -> CallSyntax:
    """The syntax that a chat template shows, or else the vocabulary.

    Hermes', which readers always know, if neither shows one.

    Args:
        template: its source.
        specials: names of special tokens.
    """
    return _shown(template.replace('\\"', '"')) or _shown("\n".join(specials)) or HERMES


def _shown(text: str) -> CallSyntax | None:
    return next((syntax for texts, syntax in _BY_TEXT if all(t in text for t in texts)), None)
