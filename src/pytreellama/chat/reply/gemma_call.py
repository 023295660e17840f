"""Calls of Gemma 4 and FunctionGemma: nearly JSON, with bare keys and quotes of their own."""

from __future__ import annotations

import json
import re

from pytreellama.chat.reply.feed import Feed, Reading, Stops
from pytreellama.chat.reply.functions import N_NAME_MAX, Functions
from pytreellama.chat.reply.writer import ReplyWriter

_NAME = re.compile(r"[\w.\-]+")
_WORD = re.compile(r"[^\s,:{}\[\]<]+")
_MARKS = ("{", "}", "[", "]", ",", ":")
_PAIRS = {"}": "{", "]": "["}


class GemmaCall:
    """Reads ``call:NAME{key:<quote>text<quote>,other:1}``.

    Args:
        feed: stands at ``call``.
        writer: gets the call.
        functions: that may be called.
        quote: stands before and after texts.
    """

    def __init__(self, feed: Feed, writer: ReplyWriter, functions: Functions, quote: str) -> None:
        self._feed = feed
        self._writer = writer
        self._functions = functions
        self._quote = quote

    def read(self) -> Reading[bool]:
        """Read the call; False if it is none, of which nothing is written then."""
        feed = self._feed
        if not (yield from feed.literal("call:")):
            return False
        name = yield from feed.text(_NAME, N_NAME_MAX)
        if name not in self._functions or (yield from feed.char()) != "{":
            return False
        feed.forget()
        self._writer.begin_call(name)
        is_whole = yield from self._value()
        self._writer.end_call(is_whole=is_whole)
        return True

    def _value(self) -> Reading[bool]:
        feed, write = self._feed, self._writer.arguments
        opened: list[str] = []
        while True:
            yield from feed.space()
            mark = yield from feed.literal(self._quote, *_MARKS)
            if mark == self._quote:
                if not (yield from self._text()):
                    return False
            elif mark in ("{", "["):
                opened.append(mark)
                write(mark)
            elif mark in _PAIRS:
                if opened.pop() != _PAIRS[mark]:
                    return False
                write(mark)
                if not opened:
                    return True
            elif mark:
                write(f"{mark} ")
            elif not (yield from self._word()):
                return False

    def _text(self) -> Reading[bool]:
        write = self._writer.arguments
        write('"')
        end = yield from self._feed.until(
            Stops([self._quote]), lambda text: write(json.dumps(text, ensure_ascii=False)[1:-1])
        )
        if end:
            write('"')
        return bool(end)

    def _word(self) -> Reading[bool]:
        """A key, or a number, true, false or null."""
        word = yield from self._feed.text(_WORD, N_NAME_MAX)
        if not word or not (yield from self._feed.char()):
            return False
        yield from self._feed.space()
        is_key = (yield from self._feed.char()) == ":"
        self._writer.arguments(json.dumps(word) if is_key or not _is_json(word) else word)
        return True


def _is_json(word: str) -> bool:
    try:
        json.loads(word)
    except (ValueError, RecursionError):
        return False
    return True
