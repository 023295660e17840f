"""Calls of functions, as they are found in a model's text.

Models write calls in forms of their own. Understood are: JSON objects between ``<tool_call>`` and
``</tool_call>`` (Hermes, Qwen, SmolLM); ``<function=...>`` with a ``<parameter=...>`` for each
argument, there or by itself (Qwen3-Coder); and a text that is nothing but JSON: an object or a list
of objects with a function's name and its arguments (Llama 3, Mistral).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pytreellama.engine.stop_strings import StopStrings

Functions = Mapping[str, Mapping[str, Any]]
"""The JSON schema of each function's arguments, by its name."""

OPEN, CLOSE = "<tool_call>", "</tool_call>"
_OPEN_TAGS = "<function="
_CALL = re.compile(
    rf"{OPEN}(.*?)(?:{CLOSE}|\Z)|({_OPEN_TAGS}.*?</function>)(?:\s*{CLOSE})?", re.DOTALL
)
_TAGGED = re.compile(rf"\s*{_OPEN_TAGS}([^>]*)>(.*?)</function>\s*", re.DOTALL)
_PARAMETER = re.compile(r"\s*<parameter=([^>]*)>\n?(.*?)\n?</parameter>\s*", re.DOTALL)
_BEGUN = re.compile(
    r'\s*\{\s*"name"\s*:\s*"([^"]*)"\s*,\s*"(?:arguments|parameters)"\s*:\s*(\{.*)', re.DOTALL
)
_BARE = ("{", "[")


@dataclass(frozen=True, slots=True)
class Call:
    """A function to be called.

    Attributes:
        arguments: JSON text; its beginning, where the answer was cut in it.
    """

    name: str
    arguments: str
    is_whole: bool = True


def find_calls(text: str, functions: Functions, *, is_cut: bool = False) -> tuple[str, list[Call]]:
    """The text without calls, and the calls of known functions in it.

    A call that cannot be read, or of an unknown function, is text.

    Args:
        is_cut: the text was not at its end; the call that it breaks off in counts.
    """
    calls: list[Call] = []

    def take(match: re.Match[str]) -> str:
        found = _calls_in(match[1] or match[2] or "", functions)
        if not found and is_cut and not match[0].endswith(CLOSE):
            found = _begun(match[1] or "", functions)
        calls.extend(found)
        return "" if found else match[0]

    rest = _CALL.sub(take, text)
    if calls:
        return rest.strip(), calls
    bare = _calls_in(text, functions) or (_begun(text, functions) if is_cut else [])
    return ("", bare) if bare else (text, [])


def _calls_in(text: str, functions: Functions) -> list[Call]:
    """The calls that a piece of text is; none if any part of it is something else."""
    found = _tagged(text, functions) if text.lstrip().startswith(_OPEN_TAGS) else _json(text)
    calls = [_call(one, functions) for one in found]
    return [call for call in calls if call] if all(calls) else []


def _json(text: str) -> list[Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return []
    return value if isinstance(value, list) else [value]


def _tagged(text: str, functions: Functions) -> list[Any]:
    """Calls in tags, as objects; none if there is anything between them."""
    if _TAGGED.sub("", text):
        return []
    return [
        {"name": name, "arguments": _tagged_arguments(inner, functions.get(name, {}))}
        for name, inner in _TAGGED.findall(text)
        if not _PARAMETER.sub("", inner).strip()
    ]


def _tagged_arguments(text: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    properties = schema.get("properties")
    known = properties if isinstance(properties, Mapping) else {}
    return {name: _value(text, known.get(name)) for name, text in _PARAMETER.findall(text)}


def _value(text: str, schema: object) -> Any:
    """Tags do not tell a text from a number: its schema does."""
    if isinstance(schema, Mapping) and schema.get("type") == "string":
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _call(value: object, functions: Functions) -> Call | None:
    if not isinstance(value, dict):
        return None
    name = value.get("name")
    if not isinstance(name, str) or name not in functions:
        return None
    arguments = value.get("arguments", value.get("parameters", {}))
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    # half of a surrogate pair stays the escape that it was
    return Call(name, arguments.encode("utf-8", "backslashreplace").decode())


def _begun(text: str, functions: Functions) -> list[Call]:
    """The call that a text breaks off in, with what there is of its arguments."""
    begun = _BEGUN.match(text)
    return [Call(begun[1], begun[2], is_whole=False)] if begun and begun[1] in functions else []


class CallWatch:
    """Lets a text through while it streams, and holds back what may be a call.

    Args:
        functions: that may be called.
    """

    def __init__(self, functions: Functions) -> None:
        self._functions = functions
        self._markers = StopStrings([OPEN, _OPEN_TAGS])
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

    def finish(self, *, is_cut: bool = False) -> tuple[str, list[Call]]:
        """What is left at the end: more text, and the calls. ``is_cut`` as for ``find_calls``."""
        return find_calls(self._whole[self._n_passed :], self._functions, is_cut=is_cut)
