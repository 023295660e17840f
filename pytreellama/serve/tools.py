"""Tools: how a model is told of functions, and how the calls in its text are found.

Models write calls in forms of their own. Understood are: JSON objects between ``<tool_call>`` and
``</tool_call>`` (Hermes, Qwen, SmolLM), and a text that is nothing but JSON: an object or a list of
objects with a function's name and its arguments (Llama 3, Mistral). A model whose template knows no
tools is told of them, and of the first form, in the system's message.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytreellama.engine.stop_strings import StopStrings

Message = dict[str, Any]

OPEN, CLOSE = "<tool_call>", "</tool_call>"
_CALL = re.compile(re.escape(OPEN) + r"(.*?)(?:" + re.escape(CLOSE) + r"|\Z)", re.DOTALL)
_BARE = ("{", "[")

_INSTRUCTION = """\
You can call functions. To call one, answer with nothing but its name and arguments as JSON:
<tool_call>
{"name": "function's name", "arguments": {"argument's name": value}}
</tool_call>
These are the functions:
"""


@dataclass(frozen=True, slots=True)
class Call:
    """A function to be called.

    Attributes:
        arguments: JSON text.
    """

    name: str
    arguments: str


def find_calls(text: str, names: frozenset[str]) -> tuple[str, list[Call]]:
    """The text without calls, and the calls of known functions in it.

    A call that is not JSON, or of an unknown function, is text.
    """
    calls: list[Call] = []

    def take(match: re.Match[str]) -> str:
        found = _calls_in(match[1], names)
        calls.extend(found)
        return "" if found else match[0]

    rest = _CALL.sub(take, text)
    if calls:
        return rest.strip(), calls
    bare = _calls_in(text, names)
    return ("", bare) if bare else (text, [])


def _calls_in(text: str, names: frozenset[str]) -> list[Call]:
    """The calls that a piece of JSON is; none if any part of it is something else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return []
    calls = [_call(one, names) for one in (value if isinstance(value, list) else [value])]
    return [call for call in calls if call] if all(calls) else []


def _call(value: object, names: frozenset[str]) -> Call | None:
    if not isinstance(value, dict):
        return None
    name = value.get("name")
    if not isinstance(name, str) or name not in names:
        return None
    arguments = value.get("arguments", value.get("parameters", {}))
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    # half of a surrogate pair stays the escape that it was
    return Call(name, arguments.encode("utf-8", "backslashreplace").decode())


class CallWatch:
    """Lets a text through while it streams, and holds back what may be a call.

    Args:
        names: of the functions that may be called.
    """

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names
        self._markers = StopStrings([OPEN])
        self._whole = ""
        self._n_passed = 0
        self._is_bare: bool | None = None  # None until its first character has come

    def push(self, text: str) -> str:
        """Take a piece, and return what certainly is no call."""
        self._whole += text
        if self._is_bare is None:
            begun = self._whole.lstrip()
            if not begun:
                return ""
            self._is_bare = begun.startswith(_BARE)
            text = self._whole
        if self._is_bare or self._markers.found:
            return ""
        certain = self._markers.push(text)
        self._n_passed += len(certain)
        return certain

    def finish(self) -> tuple[str, list[Call]]:
        """What is left at the end: more text, and the calls."""
        return find_calls(self._whole[self._n_passed :], self._names)


def tool_schema(tools: Sequence[Mapping[str, Any]], name: str | None) -> dict[str, Any]:
    """The JSON schema of a call of any of the tools, or of the one that is named."""
    forms = [
        {
            "type": "object",
            "properties": {
                "name": {"const": tool["function"]["name"]},
                "arguments": _arguments_schema(tool["function"]),
            },
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for tool in tools
        if name in (None, tool["function"]["name"])
    ]
    return forms[0] if len(forms) == 1 else {"anyOf": forms}


def _arguments_schema(function: Mapping[str, Any]) -> dict[str, Any]:
    """With an id of its own, so that references such as ``#/$defs/Place`` begin at itself."""
    schema: dict[str, Any] = {"$id": f"urn:function:{function['name']}"}
    schema |= function.get("parameters") or {"type": "object"}
    if "properties" in schema:
        # arguments that a function does not name are of no use to it, and small models never end
        schema.setdefault("additionalProperties", False)
    return schema


def knows_tools(template: str) -> bool:
    """Does a chat template write tools out?"""
    return re.search(r"\btools\b", template) is not None


def with_objects(messages: Sequence[Message]) -> list[Message]:
    """Messages for a template that knows tools: arguments as objects, not as text."""
    return [_with_objects(message) for message in messages]


def _with_objects(message: Message) -> Message:
    if not message.get("tool_calls"):
        return message
    calls = [
        call
        | {"function": call["function"] | {"arguments": _parsed(call["function"]["arguments"])}}
        for call in message["tool_calls"]
    ]
    return message | {"tool_calls": calls, "content": message.get("content") or ""}


def in_words(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> list[Message]:
    """Messages for a template that knows no tools: all is told in texts."""
    told = [_in_words(message) for message in messages]
    if not tools:
        return told
    functions = [json.dumps(tool["function"], ensure_ascii=False) for tool in tools]
    instruction = _INSTRUCTION + "\n".join(functions)
    if told[0]["role"] != "system":
        return [{"role": "system", "content": instruction}, *told]
    return [told[0] | {"content": f"{told[0]['content']}\n\n{instruction}"}, *told[1:]]


def _in_words(message: Message) -> Message:
    if message["role"] == "tool":
        content = f"<tool_response>\n{message.get('content') or ''}\n</tool_response>"
        return {"role": "user", "content": content}
    calls = message.get("tool_calls")
    if not calls:
        return message
    written = [
        {"name": call["function"]["name"], "arguments": _parsed(call["function"]["arguments"])}
        for call in calls
    ]
    texts = [f"{OPEN}\n{json.dumps(call, ensure_ascii=False)}\n{CLOSE}" for call in written]
    return {"role": message["role"], "content": "\n".join([message.get("content") or "", *texts])}


def _parsed(arguments: str) -> Any:
    try:
        return json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
