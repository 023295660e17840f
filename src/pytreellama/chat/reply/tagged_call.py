"""Calls as tags with a tag for each argument, whose values are written as they are."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pytreellama.chat.reply.feed import Feed, Reading, Stops
from pytreellama.chat.reply.functions import N_NAME_MAX, Functions, is_text, value_of
from pytreellama.chat.reply.json_call import JsonCalls
from pytreellama.chat.reply.writer import ReplyWriter

_NAME = re.compile(r"[\w.\-]+")
_NO_BRACKET = re.compile(r"[^<>\n]+")
_KEY = re.compile(r'"?([^"]*)"?')  # as in <parameter=at> and in name="at" string="true"
_IS_TEXT = ' string="true"'


@dataclass(frozen=True)
class Tags:
    """How a family of models writes a call.

    Attributes:
        after_name: ends the name of the function; empty where an argument or the end follows.
        argument, after_key: before and after an argument's name.
        before_value: stands between them and the value.
        after_value: ends the value.
        end: ends the call.
    """

    after_name: str
    argument: str
    after_key: str
    after_value: str
    end: str
    before_value: str = ""


QWEN = Tags(">", "<parameter=", ">", "</parameter>", "</function>")
"""``<function=NAME><parameter=KEY>VALUE</parameter></function>``: Qwen3-Coder."""
INVOKE = Tags('">', '<parameter name="', ">", "</parameter>", "</invoke>")
"""``<invoke name="NAME"><parameter name="KEY">VALUE</parameter></invoke>``: MiniMax."""
DSML = Tags('">', '<｜DSML｜parameter name="', ">", "</｜DSML｜parameter>", "</｜DSML｜invoke>")
"""The same in DeepSeek-V3.2's tags, with ``string="true"`` behind the name of a text."""
GLM = Tags("", "<arg_key>", "</arg_key>", "</arg_value>", "</tool_call>", "<arg_value>")
"""``NAME <arg_key>KEY</arg_key> <arg_value>VALUE</arg_value>``: GLM from 4.5 on."""


class TaggedCall:
    """Reads one call in tags.

    Args:
        feed: stands at the name of the function.
        writer: gets the call.
        functions: that may be called.
        tags: how it is written.
    """

    def __init__(self, feed: Feed, writer: ReplyWriter, functions: Functions, tags: Tags) -> None:
        self._feed = feed
        self._writer = writer
        self._functions = functions
        self._tags = tags
        self._is_said_text = False
        self._value_ends = Stops([tags.after_value, tags.end])

    def read(self) -> Reading[bool]:
        """Read the call; False if it is none, of which nothing is written then."""
        feed, tags = self._feed, self._tags
        name = yield from feed.text(_NAME, N_NAME_MAX)
        if name not in self._functions:
            return False
        if tags.after_name and not (yield from feed.literal(tags.after_name)):
            return False
        yield from feed.space()
        if (yield from feed.char()) == "{":  # Llama 3 writes all arguments as JSON here
            calls = JsonCalls(feed, self._writer, self._functions)
            yield from calls.arguments(name)
            yield from feed.space()
            yield from feed.literal(tags.end)
            return True
        found = yield from feed.literal(tags.argument, tags.end)
        if not found:
            return False
        feed.forget()
        self._writer.begin_call(name)
        is_whole = yield from self._arguments(self._functions[name], found)
        self._writer.end_call(is_whole=is_whole)
        return True

    def _arguments(self, schema: Mapping[str, Any], found: str) -> Reading[bool]:
        """Read from behind the first argument's opening, or the end, on; True if all is whole."""
        before = "{"
        while found == self._tags.argument:
            key = yield from self._key()
            if not key:
                return False
            self._writer.arguments(f"{before}{json.dumps(key, ensure_ascii=False)}: ")
            before = ", "
            ended = yield from self._value(schema, key)
            if not ended:
                return False
            if ended == self._tags.end:
                break
            yield from self._feed.space()
            found = yield from self._feed.literal(self._tags.argument, self._tags.end)
            if not found and not (yield from self._feed.char()):
                return False  # it was cut; where other text follows, the end was forgotten
        self._writer.arguments("{}" if before == "{" else "}")
        return True

    def _key(self) -> Reading[str]:
        feed, tags = self._feed, self._tags
        header = yield from feed.text(_NO_BRACKET, N_NAME_MAX)
        if not (yield from feed.literal(tags.after_key)):
            return ""
        if tags.before_value:
            yield from feed.space()
            if not (yield from feed.literal(tags.before_value)):
                return ""
        self._is_said_text = _IS_TEXT in header
        found = _KEY.match(header.strip())
        return found[1] if found else ""

    def _value(self, schema: Mapping[str, Any], key: str) -> Reading[str]:
        """Write a value; returns what ended it, or an empty text where it was cut."""
        if self._is_said_text or is_text(schema, key):
            text = _LineByLine(self._writer)
            self._writer.arguments('"')
            ended = yield from self._feed.until(self._value_ends, text.push)
            if ended:
                self._writer.arguments('"')
            return ended
        pieces: list[str] = []
        ended = yield from self._feed.until(self._value_ends, pieces.append)
        if ended:
            value = "".join(pieces).removeprefix("\n").removesuffix("\n")
            self._writer.arguments(value_of(schema, key, value))
        return ended


class _LineByLine:
    """Writes a text as the inside of a JSON string, without a line break at either end."""

    def __init__(self, writer: ReplyWriter) -> None:
        self._writer = writer
        self._is_first = True
        self._held = ""

    def push(self, text: str) -> None:
        """Add a piece."""
        if self._is_first:
            text = text.removeprefix("\n")
            self._is_first = False
        text = self._held + text
        self._held = "\n" if text.endswith("\n") else ""
        text = text.removesuffix("\n")
        if text:
            self._writer.arguments(json.dumps(text, ensure_ascii=False)[1:-1])
