"""Calls as JSON objects with a function's name and its arguments, alone or in a list."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from pytreellama.chat.reply.feed import Feed, Reading
from pytreellama.chat.reply.functions import Functions
from pytreellama.chat.reply.python_call import PythonCalls
from pytreellama.chat.reply.writer import ReplyWriter

_NAMES = ("name", "function", "tool_name")
_ARGUMENTS = ("arguments", "parameters", "args")
_OTHERS = ("id", "type", "index", "tool_call_id", "call_id")


@dataclass(slots=True)
class _Object:
    """What is known of a call while its object is read."""

    name: str | None = None
    id: str | None = None
    arguments: str | None = None
    is_begun: bool = False
    is_whole: bool = True
    keys: set[str] = field(default_factory=set)


class JsonCalls:
    """Reads calls in JSON.

    Args:
        feed: stands where a call may begin.
        writer: gets the calls.
        functions: that may be called.
    """

    def __init__(self, feed: Feed, writer: ReplyWriter, functions: Functions) -> None:
        self._feed = feed
        self._writer = writer
        self._functions = functions
        self._python = PythonCalls(feed, writer, functions)

    def read(self) -> Reading[bool]:
        """Read an object, or a list of them or of calls in Python; False if it is something else.

        Nothing is written in that case. A list that goes wrong behind a call ends there.
        """
        feed = self._feed
        if not (yield from feed.literal("[")):
            return (yield from self._object())
        yield from feed.space()
        if (yield from feed.char()).isidentifier():
            found = yield from self._python.read()
            yield from feed.literal("]")
            return found
        if not (yield from self._object()):
            return False
        while True:
            yield from feed.space()
            if not (yield from feed.literal(",")):
                break
            yield from feed.space()
            if not (yield from self._object()):
                return True
        yield from feed.literal("]")
        return True

    def arguments(self, name: str, id: str | None = None) -> Reading[bool]:
        """Read the arguments of a call whose name stood before them; False if there are none."""
        if (yield from self._feed.char()) != "{":
            return False
        self._feed.forget()
        self._writer.begin_call(name, id)
        is_whole = yield from self._feed.value(self._writer.arguments)
        self._writer.end_call(is_whole=is_whole)
        return True

    def _object(self) -> Reading[bool]:
        call = _Object()
        if not (yield from self._members(call)):
            return call.is_begun
        if not call.is_begun:
            if call.name is None:
                return False
            self._begin(call)
            self._writer.arguments("{}" if call.arguments is None else call.arguments)
        self._writer.end_call(is_whole=call.is_whole)
        return True

    def _members(self, call: _Object) -> Reading[bool]:
        """Read ``{...}``; False if it is no call, or is broken before its arguments are whole."""
        feed = self._feed
        if not (yield from feed.literal("{")):
            return False
        yield from feed.space()
        while (yield from feed.char()) == '"':
            if not (yield from self._member(call)):
                return False
            yield from feed.space()
            if not (yield from feed.literal(",")):
                break
            yield from feed.space()
        yield from feed.literal("}")  # many a model forgets it
        return True

    def _member(self, call: _Object) -> Reading[bool]:
        feed = self._feed
        key = _loaded((yield from self._text()))
        yield from feed.space()
        if not isinstance(key, str) or not (yield from feed.literal(":")):
            return call.is_begun
        yield from feed.space()
        if call.is_begun:  # whatever it is, the call is known
            yield from feed.value(_ignore)
            return True
        if key in call.keys:
            return False
        call.keys.add(key)
        if key == "function" and (yield from feed.char()) == "{":
            return (yield from self._members(call))
        if key in _NAMES:
            return (yield from self._name(call))
        if key in _ARGUMENTS:
            return (yield from self._arguments(call))
        if key not in _OTHERS:
            return False
        value = _loaded((yield from self._text()))
        if key == "id" and isinstance(value, str):
            call.id = value
        return True

    def _name(self, call: _Object) -> Reading[bool]:
        name = _loaded((yield from self._text()))
        if not isinstance(name, str) or name not in self._functions or call.name is not None:
            return False
        call.name = name
        return True

    def _arguments(self, call: _Object) -> Reading[bool]:
        if call.name is not None and (yield from self._feed.char()) == "{":
            self._begin(call)
            call.is_whole = yield from self._feed.value(self._writer.arguments)
            return call.is_whole
        text = yield from self._text()
        value = _loaded(text)
        if value is None:
            call.arguments = "{}" if text.strip() == "null" else None
            return call.arguments is not None
        if isinstance(value, str):  # JSON in JSON; half of a surrogate pair stays its escape
            text = value.encode("utf-8", "backslashreplace").decode()
        call.arguments = text
        return True

    def _begin(self, call: _Object) -> None:
        assert call.name is not None
        call.is_begun = True
        self._feed.forget()
        self._writer.begin_call(call.name, call.id)

    def _text(self) -> Reading[str]:
        """The text of a value; empty if it is not whole."""
        pieces: list[str] = []
        is_whole = yield from self._feed.value(pieces.append)
        return "".join(pieces) if is_whole else ""


def _loaded(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _ignore(text: str) -> None:
    """A sink for what is read over."""
