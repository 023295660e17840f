"""Calls of functions, as they are found in a model's text.

Models write calls in forms of their own. Understood are: JSON objects between ``<tool_call>`` and
``</tool_call>`` (Hermes, Qwen, SmolLM); ``<function=...>`` with a ``<parameter=...>`` for each
argument, there or by itself (Qwen3-Coder); and a text that is nothing but JSON: an object or a list
of objects with a function's name and its arguments (Llama 3, Mistral).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytreellama.engine.stop_strings import StopStrings

Functions = Mapping[str, Mapping[str, Any]]
"""The JSON schema of each function's arguments, by its name."""

OPEN, CLOSE = "<tool_call>", "</tool_call>"
_OPEN_TAGS = "<function="
_CLOSE_TAGS = "</function>"
_OPEN_PARAMETER, _CLOSE_PARAMETER = "<parameter=", "</parameter>"
# expressions that are searched for begin with a text and go on with nothing of any length: a model
# can be made to write whatever takes another one square time
_OPENING = re.compile(rf"{OPEN}|{_OPEN_TAGS}")
_SPACE = re.compile(r"\s*")
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
    rest: list[str] = []
    n_read = 0
    for span in _marked(text):
        found = _calls_in(span.inner, functions)
        if not found and is_cut and not span.is_closed:
            found = _begun(span.inner, functions)
        if found:
            calls.extend(found)
            rest.append(text[n_read : span.begin])
            n_read = span.end
    if calls:
        return "".join([*rest, text[n_read:]]).strip(), calls
    bare = _calls_in(text, functions) or (_begun(text, functions) if is_cut else [])
    return ("", bare) if bare else (text, [])


@dataclass(frozen=True, slots=True)
class _Span:
    """A part of a text that is marked as calls.

    Attributes:
        begin, end: where it stands, marks included.
        inner: the calls.
        is_closed: its end is marked too.
    """

    begin: int
    end: int
    inner: str
    is_closed: bool


def _marked(text: str) -> Iterator[_Span]:
    """The marked parts in order; each character is looked at a few times at most."""
    opening, has_tags_end = _OPENING.search(text), True
    while opening is not None:
        begin, end = opening.span()
        if opening[0] == OPEN:
            close = text.find(CLOSE, end)
            is_closed = close >= 0
            inner = text[end:close] if is_closed else text[end:]
            end = close + len(CLOSE) if is_closed else len(text)
            yield _Span(begin, end, inner, is_closed)
        elif has_tags_end:
            close = text.find(_CLOSE_TAGS, end)
            has_tags_end = close >= 0
            if has_tags_end:
                end = close + len(_CLOSE_TAGS)
                inner = text[begin:end]
                behind = _skip_space(text, end)
                is_closed = text.startswith(CLOSE, behind)
                end = behind + len(CLOSE) if is_closed else end
                yield _Span(begin, end, inner, is_closed)
        opening = _OPENING.search(text, end)


def _skip_space(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    assert space is not None
    return space.end()


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
    """Calls in tags, as objects; none if there is anything else."""
    calls = _elements(text, _OPEN_TAGS, _CLOSE_TAGS)
    found = []
    for name, inner in calls or ():
        parameters = _elements(inner, _OPEN_PARAMETER, _CLOSE_PARAMETER)
        if parameters is None:
            return []
        arguments = _tagged_arguments(parameters, functions.get(name, {}))
        found.append({"name": name, "arguments": arguments})
    return found


def _elements(text: str, opening: str, closing: str) -> list[tuple[str, str]] | None:
    """Names and contents of ``<opening=NAME>CONTENT</closing>``; None if there is anything else."""
    found: list[tuple[str, str]] = []
    at = _skip_space(text, 0)
    while at < len(text):
        begin = text.find(">", at)
        end = text.find(closing, begin)
        if not text.startswith(opening, at) or begin < 0 or end < 0:
            return None
        found.append((text[at + len(opening) : begin], text[begin + 1 : end]))
        at = _skip_space(text, end + len(closing))
    return found


def _tagged_arguments(
    parameters: Sequence[tuple[str, str]], schema: Mapping[str, Any]
) -> dict[str, Any]:
    properties = schema.get("properties")
    known = properties if isinstance(properties, Mapping) else {}
    return {
        name: _value(text.removeprefix("\n").removesuffix("\n"), known.get(name))
        for name, text in parameters
    }


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
        try:
            arguments = json.dumps(arguments, ensure_ascii=False)
        except RecursionError:
            return None
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
        self._pieces: list[str] = []
        self._n_passed = 0
        self._is_bare: bool | None = None  # None until its first character has come

    def push(self, text: str) -> str:
        """Take a piece, and return what certainly is no call."""
        self._pieces.append(text)
        if self._is_bare is None:
            begun = text.lstrip()
            if not begun:
                return ""
            self._is_bare = begun.startswith(_BARE)
            text = "".join(self._pieces)
        if self._is_bare or self._markers.found:
            return ""
        certain = self._markers.push(text)
        self._n_passed += len(certain)
        return certain

    def finish(self, *, is_cut: bool = False) -> tuple[str, list[Call]]:
        """What is left at the end: more text, and the calls. ``is_cut`` as for ``find_calls``."""
        left = "".join(self._pieces)[self._n_passed :]
        return find_calls(left, self._functions, is_cut=is_cut)
