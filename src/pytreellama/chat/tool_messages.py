"""Messages with tools, in the form that a chat template can render.

A template that knows tools gets them as they are, and arguments as objects. For one that does not,
tools and the form of calls (Hermes') are described in the system message, or in the first user
message where the template has no system role.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pytreellama.errors import RequestError

Message = Mapping[str, Any]

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_INSTRUCTION = """\
You can call functions. To call one, answer with nothing but its name and arguments as JSON:
<tool_call>
{"name": "function's name", "arguments": {"argument's name": value}}
</tool_call>
These are the functions:
"""
_SHORT_ID = 9  # characters of the ids that Mistral's templates take
_WANTS_SHORT_IDS = re.compile(rf"length *[!=]= *{_SHORT_ID}\b")


def knows_tools(template: str) -> bool:
    """True if a chat template, given by its source, renders tools."""
    return re.search(r"\btools\b", template) is not None


def for_template(
    template: str,
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]],
    *,
    takes_system: bool = True,
) -> tuple[list[Message], list[Mapping[str, Any]] | None]:
    """Messages and tools in the form that a template can render.

    Args:
        template: its source.
        messages: as clients send them.
        tools: those that may be called.
        takes_system: the template has a system role.

    Returns:
        Messages, and the tools for the template; None if it gets none.

    Raises:
        RequestError: arguments of a call that are not a JSON object.
    """
    if not knows_tools(template):
        return in_words(messages, tools, takes_system=takes_system), None
    told = with_objects(messages)
    if _WANTS_SHORT_IDS.search(template):
        told = [_with_short_ids(message) for message in told]
    return told, list(tools) or None


def with_objects(messages: Sequence[Message]) -> list[Message]:
    """Messages whose calls have arguments as objects, not as text.

    Raises:
        RequestError: arguments that are not a JSON object.
    """
    return [_with_objects(i, message) for i, message in enumerate(messages)]


def _with_objects(i: int, message: Message) -> Message:
    if not message.get("tool_calls"):
        return message
    calls = [
        {**call, "function": {**call["function"], "arguments": _arguments(i, k, call)}}
        for k, call in enumerate(_calls(i, message))
    ]
    return {**message, "tool_calls": calls, "content": message.get("content") or ""}


def with_texts(messages: Sequence[Message]) -> list[Message] | None:
    """The reverse of ``with_objects``, for the few templates that want text; None without calls."""
    if not any(message.get("tool_calls") for message in messages):
        return None
    return [_with_texts(message) for message in messages]


def _with_texts(message: Message) -> Message:
    if not message.get("tool_calls"):
        return message
    calls = []
    for call in message["tool_calls"]:
        text = json.dumps(call["function"]["arguments"], ensure_ascii=False)
        calls.append({**call, "function": {**call["function"], "arguments": text}})
    return {**message, "tool_calls": calls}


def _with_short_ids(message: Message) -> Message:
    """The same ids in every message, in the length that the template insists on."""
    changed = dict(message)
    if message.get("tool_calls"):
        changed["tool_calls"] = [
            {**call, "id": _short(call.get("id"))} for call in message["tool_calls"]
        ]
    if "tool_call_id" in message:
        changed["tool_call_id"] = _short(message["tool_call_id"])
    return changed


def _short(id: object) -> str:
    text = str(id)
    if re.fullmatch(rf"[A-Za-z0-9]{{{_SHORT_ID}}}", text):
        return text
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_SHORT_ID]


def in_words(
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]],
    *,
    takes_system: bool = True,
) -> list[Message]:
    """Messages for a template that knows no tools: all of it is text.

    Consecutive results of tools become one user message: many templates want the turns of user
    and assistant to alternate.

    Raises:
        RequestError: arguments that are not a JSON object.
    """
    told: list[Message] = []
    for i, message in enumerate(messages):
        one = _in_words(i, message)
        is_result = message["role"] == "tool" or (i > 0 and messages[i - 1]["role"] == "tool")
        if is_result and told and told[-1]["role"] == one["role"] == "user":
            joined = f"{_text(told[-1].get('content'))}\n{_text(one.get('content'))}"
            told[-1] = {**told[-1], "content": joined}
        else:
            told.append(one)
    if not tools:
        return told
    functions = [json.dumps(tool["function"], ensure_ascii=False) for tool in tools]
    return _with_first(told, _INSTRUCTION + "\n".join(functions), takes_system)


def _with_first(messages: list[Message], text: str, takes_system: bool) -> list[Message]:
    """Messages that begin with a text of our own."""
    first = messages[0]
    if first["role"] == "system":
        return [{**first, "content": f"{_text(first['content'])}\n\n{text}"}, *messages[1:]]
    if takes_system:
        return [{"role": "system", "content": text}, *messages]
    if first["role"] == "user":
        return [{**first, "content": f"{text}\n\n{_text(first['content'])}"}, *messages[1:]]
    return [{"role": "user", "content": text}, *messages]


def _in_words(i: int, message: Message) -> Message:
    if message["role"] == "tool":
        content = f"<tool_response>\n{_text(message.get('content'))}\n</tool_response>"
        return {"role": "user", "content": content}
    if not message.get("tool_calls"):
        return message
    written = [
        {"name": call["function"]["name"], "arguments": _arguments(i, k, call)}
        for k, call in enumerate(_calls(i, message))
    ]
    texts = [f"{_OPEN}\n{json.dumps(call, ensure_ascii=False)}\n{_CLOSE}" for call in written]
    content = "\n".join([_text(message.get("content")), *texts])
    return {"role": message["role"], "content": content}


def _text(content: object) -> str:
    """Content as text: that of its parts, if it has some."""
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    return str(content or "")


def _calls(i: int, message: Message) -> Sequence[Mapping[str, Any]]:
    calls = message["tool_calls"]
    for k, call in enumerate(calls):
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            param = f"messages.{i}.tool_calls.{k}"
            form = '{"id": ..., "type": "function", "function": {"name": ..., "arguments": ...}}'
            raise RequestError(f"{param}: expected {form}", param=param)
    return list(calls)


def _arguments(i: int, k: int, call: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of message i's call k; some clients send an empty text for none."""
    given = call["function"].get("arguments", "")
    if isinstance(given, Mapping):
        return dict(given)
    arguments = None
    if isinstance(given, str):
        if not given.strip():
            return {}
        try:
            arguments = json.loads(given)
        except (ValueError, RecursionError):
            arguments = None
    if isinstance(arguments, dict):
        return arguments
    param = f"messages.{i}.tool_calls.{k}.function.arguments"
    raise RequestError(f"{param}: expected a JSON object as text, such as '{{}}'", param=param)
