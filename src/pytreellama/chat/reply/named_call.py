"""Calls whose name stands before their arguments, which are a JSON object."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pytreellama.chat.reply.feed import Feed, Reading
from pytreellama.chat.reply.functions import N_NAME_MAX, Functions
from pytreellama.chat.reply.json_call import JsonCalls
from pytreellama.chat.reply.writer import ReplyWriter

_NAME = re.compile(r"[\w.\-:]+")
_ID = re.compile(r"\w+")
_WORD = re.compile(r"\w+")
_INDEX = re.compile(r":\d+\Z")


@dataclass(frozen=True)
class NamedCall:
    """Reads one call, from its name on.

    Args:
        feed: stands at the name of the function.
        writer: gets the call.
        functions: that may be called.
    """

    feed: Feed
    writer: ReplyWriter
    functions: Functions

    def read(self, kind: str) -> Reading[bool]:
        """Read the call as DeepSeek, Kimi or Mistral write it; False if it is none."""
        if kind == "deepseek":
            return (yield from self._deepseek())
        if kind == "kimi":
            return (yield from self._kimi())
        return (yield from self._mistral())

    def _deepseek(self) -> Reading[bool]:
        """``NAME<sep>{...}`` (V3.1), or ``function<sep>NAME`` and the arguments in a fence."""
        feed = self.feed
        name = yield from feed.text(_NAME, N_NAME_MAX)
        if not (yield from feed.literal("<｜tool▁sep｜>")):
            return False
        if name == "function" and (yield from feed.char()) != "{":
            name = yield from feed.text(_NAME, N_NAME_MAX)
        return (yield from self._json(name))

    def _kimi(self) -> Reading[bool]:
        """``functions.NAME:INDEX<argument_begin>{...}``, all of which before is the call's id."""
        feed = self.feed
        yield from feed.space()
        id = yield from feed.text(_NAME, N_NAME_MAX)
        yield from feed.space()
        if not (yield from feed.literal("<|tool_call_argument_begin|>")):
            return False
        return (yield from self._json(_INDEX.sub("", id).removeprefix("functions."), id))

    def _mistral(self) -> Reading[bool]:
        """``NAME[ARGS]{...}``, with ``[CALL_ID]ID`` between them in one version; or a list."""
        feed = self.feed
        yield from feed.space()
        if (yield from feed.char()) in ("[", "{"):
            return (yield from JsonCalls(feed, self.writer, self.functions).read())
        name = yield from feed.text(_NAME, N_NAME_MAX)
        id = None
        if (yield from feed.literal("[CALL_ID]")):
            id = yield from feed.text(_ID, N_NAME_MAX)
        yield from feed.literal("[ARGS]")
        return (yield from self._json(name, id))

    def _json(self, name: str, id: str | None = None) -> Reading[bool]:
        feed = self.feed
        yield from feed.space()
        if (yield from feed.literal("```")):
            yield from feed.text(_WORD, N_NAME_MAX)
            yield from feed.space()
        if name not in self.functions:
            return False
        if not (yield from JsonCalls(feed, self.writer, self.functions).arguments(name, id)):
            return False
        yield from feed.space()
        yield from feed.literal("```")
        return True
