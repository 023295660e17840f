"""Tools: how a model is told of functions.

A model whose template knows no tools is told of them, and of Hermes' form of calls, in the
system's message, or in the user's first one where the template has no role for the system.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pytreellama.serve.calls import CLOSE, OPEN
from pytreellama.serve.errors import APIError

MessageDict = dict[str, Any]

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


def with_objects(messages: Sequence[MessageDict]) -> list[MessageDict]:
    """Messages for a template that knows tools: arguments as objects, not as text.

    Raises:
        APIError: arguments that are not a JSON object.
    """
    return [_with_objects(i, message) for i, message in enumerate(messages)]


def _with_objects(i: int, message: MessageDict) -> MessageDict:
    if not message.get("tool_calls"):
        return message
    calls = [
        call | {"function": call["function"] | {"arguments": _arguments(i, k, call)}}
        for k, call in enumerate(message["tool_calls"])
    ]
    return message | {"tool_calls": calls, "content": message.get("content") or ""}


def in_words(
    messages: Sequence[MessageDict],
    tools: Sequence[Mapping[str, Any]],
    *,
    takes_system: bool = True,
) -> list[MessageDict]:
    """Messages for a template that knows no tools: all is told in texts.

    Results of tools are the user's turn, in one message for as many as come in a row: many
    templates want turns of user and assistant to alternate.

    Args:
        takes_system: the template has a role for the system; else the user's first turn begins
            with the tools.

    Raises:
        APIError: arguments that are not a JSON object.
    """
    told: list[MessageDict] = []
    for i, message in enumerate(messages):
        one = _in_words(i, message)
        is_result = message["role"] == "tool" or (i > 0 and messages[i - 1]["role"] == "tool")
        if is_result and told and told[-1]["role"] == one["role"] == "user":
            told[-1] = told[-1] | {"content": f"{told[-1]['content']}\n{one['content']}"}
        else:
            told.append(one)
    if not tools:
        return told
    functions = [json.dumps(tool["function"], ensure_ascii=False) for tool in tools]
    return _told_first(told, _INSTRUCTION + "\n".join(functions), takes_system)


def _told_first(messages: list[MessageDict], text: str, takes_system: bool) -> list[MessageDict]:
    """Messages that begin with a text of the server's own."""
    if messages[0]["role"] == "system":
        first = messages[0] | {"content": f"{messages[0]['content']}\n\n{text}"}
        return [first, *messages[1:]]
    if takes_system:
        return [{"role": "system", "content": text}, *messages]
    if messages[0]["role"] == "user":
        first = messages[0] | {"content": f"{text}\n\n{messages[0]['content']}"}
        return [first, *messages[1:]]
    return [{"role": "user", "content": text}, *messages]


def _in_words(i: int, message: MessageDict) -> MessageDict:
    if message["role"] == "tool":
        content = f"<tool_response>\n{message.get('content') or ''}\n</tool_response>"
        return {"role": "user", "content": content}
    calls = message.get("tool_calls")
    if not calls:
        return message
    written = [
        {"name": call["function"]["name"], "arguments": _arguments(i, k, call)}
        for k, call in enumerate(calls)
    ]
    texts = [f"{OPEN}\n{json.dumps(call, ensure_ascii=False)}\n{CLOSE}" for call in written]
    return {"role": message["role"], "content": "\n".join([message.get("content") or "", *texts])}


def _arguments(i: int, k: int, call: MessageDict) -> dict[str, Any]:
    """The arguments of message i's call k; some clients send none as an empty text."""
    text = call["function"]["arguments"]
    if not text.strip():
        return {}
    try:
        arguments = json.loads(text)
    except (ValueError, RecursionError):
        arguments = None
    if isinstance(arguments, dict):
        return arguments
    param = f"messages.{i}.tool_calls.{k}.function.arguments"
    raise APIError(400, f"{param}: expected a JSON object as text, such as '{{}}'", param=param)
