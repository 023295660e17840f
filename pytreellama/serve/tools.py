"""Tools: how a model is told of functions.

A model whose template knows no tools is told of them, and of Hermes' form of calls, in the
system's message.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pytreellama.serve.calls import CLOSE, OPEN

Message = dict[str, Any]

_INSTRUCTION = """\
You can call functions. To call one, answer with nothing but its name and arguments as JSON:
<tool_call>
{"name": "function's name", "arguments": {"argument's name": value}}
</tool_call>
These are the functions:
"""


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
