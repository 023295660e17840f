"""Calls as Python writes them: ``[look(at="Vienna", days=3), go()]`` (LFM2, Llama 4)."""

from __future__ import annotations

import ast
import json
import re

from pytreellama.chat.reply.feed import Feed, Reading
from pytreellama.chat.reply.functions import N_NAME_MAX, Functions
from pytreellama.chat.reply.writer import ReplyWriter

_NAME = re.compile(r"[\w.\-]+")
_PLAIN = re.compile(r"[^'\"()\[\]{},]+")
_IN_STRING = {"'": re.compile(r"[^'\\]+"), '"': re.compile(r'[^"\\]+')}
_ANY = re.compile(r"[\s\S]")
_N_VALUE_MAX = 5000  # characters of a value that Python's parser gets, unless it is one text
_DEPTH_MAX = 50


class PythonCalls:
    """Reads calls in Python; their values are literals.

    Args:
        feed: stands at the name of a function.
        writer: gets the calls.
        functions: that may be called.
    """

    def __init__(self, feed: Feed, writer: ReplyWriter, functions: Functions) -> None:
        self._feed = feed
        self._writer = writer
        self._functions = functions
        self._can_parse = True

    def read(self) -> Reading[bool]:
        """Read a call, and others behind commas; False if the first is none."""
        feed = self._feed
        if not (yield from self._call()):
            return False
        yield from feed.space()
        while (yield from feed.literal(",", ";")):
            yield from feed.space()
            if not (yield from self._call()):
                break
            yield from feed.space()
        return True

    def _call(self) -> Reading[bool]:
        feed = self._feed
        name = yield from feed.text(_NAME, N_NAME_MAX)
        if name not in self._functions or not (yield from feed.literal("(")):
            return False
        feed.forget()
        self._writer.begin_call(name)
        is_whole = yield from self._arguments()
        self._writer.end_call(is_whole=is_whole)
        return True

    def _arguments(self) -> Reading[bool]:
        feed, before = self._feed, "{"
        yield from feed.space()
        while not (yield from feed.literal(")")):
            key = yield from feed.text(_NAME, N_NAME_MAX)
            yield from feed.space()
            if not key or not (yield from feed.literal("=")):
                return False
            value = yield from self._value()
            if not value:
                return False
            self._writer.arguments(f"{before}{json.dumps(key)}: {self._as_json(value)}")
            before = ", "
            yield from feed.literal(",")
            yield from feed.space()
        self._writer.arguments("{}" if before == "{" else "}")
        return True

    def _value(self) -> Reading[str]:
        """The text of a value, up to what ends it; empty if it is cut."""
        feed, pieces, depth, depth_max = self._feed, list[str](), 0, 0
        while char := (yield from feed.char()):
            if depth == 0 and char in ",)":
                text = "".join(pieces).strip()
                is_one_text = pieces[-1:] == [text] and text[0] in _IN_STRING
                is_short = len(text) <= _N_VALUE_MAX and depth_max <= _DEPTH_MAX
                self._can_parse = is_one_text or is_short
                return text
            if char in _IN_STRING:
                pieces.append((yield from self._string(char)))
                continue
            plain = yield from feed.text(_PLAIN, N_NAME_MAX)
            if not plain:
                depth += (char in "([{") - (char in ")]}")
                depth_max = max(depth, depth_max)
                yield from feed.literal(char)
            pieces.append(plain or char)
        return ""

    def _string(self, quote: str) -> Reading[str]:
        feed, pieces = self._feed, [quote]
        yield from feed.literal(quote)
        while char := (yield from feed.char()):
            pieces.append((yield from feed.text(_IN_STRING[quote], N_NAME_MAX)))
            if pieces[-1]:
                continue
            pieces.append((yield from feed.text(_ANY, 0)))
            if char == quote:
                break
            if (yield from feed.char()):  # behind a backslash
                pieces.append((yield from feed.text(_ANY, 0)))
        return "".join(pieces)

    def _as_json(self, text: str) -> str:
        """JSON of a literal; of the text itself, if it is none."""
        if self._can_parse:
            try:
                return json.dumps(ast.literal_eval(text.replace("\n", "\\n")), ensure_ascii=False)
            except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
                pass
            try:
                return json.dumps(json.loads(text), ensure_ascii=False)  # true, false, null
            except (ValueError, RecursionError):
                pass
        return json.dumps(text, ensure_ascii=False)
