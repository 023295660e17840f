"""Harmony, gpt-oss's form: messages in channels, each with a header."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pytreellama.chat.reply.feed import Feed, Reading, Sink, Stops
from pytreellama.chat.reply.functions import Functions
from pytreellama.chat.reply.json_call import JsonCalls
from pytreellama.chat.reply.writer import ReplyWriter

MARKS = (
    "<|start|>",
    "<|channel|>",
    "<|message|>",
    "<|constrain|>",
    "<|end|>",
    "<|call|>",
    "<|return|>",
)
"""Its special tokens."""

_HEADER = Stops(["<|message|>"])
_BODY = Stops([mark for mark in MARKS if mark not in ("<|message|>", "<|constrain|>")])
_TO = re.compile(r"\bto=(?:functions\.)?([\w.\-]+)")
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")
_N_HEADER_MAX = 1024


@dataclass
class Harmony:
    """Reads a whole reply.

    Args:
        feed: stands at the beginning, behind ``<|start|>assistant``.
        writer: gets what is found.
        functions: that may be called.
        splits_reasoning: the channel ``analysis`` is reasoning; else it is content, with its marks.
    """

    feed: Feed
    writer: ReplyWriter
    functions: Functions
    splits_reasoning: bool = True

    def read(self) -> Reading[None]:
        """Read to the end."""
        feed = self.feed
        found = yield from feed.literal("<|channel|>", "<|start|>", " to=")
        while True:
            if found in ("<|channel|>", "<|start|>", " to="):
                yield from self._message(found)
            elif not found and not (yield from feed.char()):
                return
            found = yield from feed.until(_BODY, self.writer.content)

    def _message(self, begin: str) -> Reading[None]:
        """A message up to, and without, the mark that ends it."""
        pieces = [begin]
        if not (yield from self.feed.until(_HEADER, pieces.append)):
            return  # a header that was cut says nothing
        header = "".join(pieces)[:_N_HEADER_MAX]
        self.writer.break_off()
        channel, to = _CHANNEL.search(header), _TO.search(header)
        if to is not None and to[1] in self.functions:
            yield from self.feed.space()
            calls = JsonCalls(self.feed, self.writer, self.functions)
            if not (yield from calls.arguments(to[1])):
                self.writer.begin_call(to[1])
                self.writer.arguments("{}")
                self.writer.end_call()
            yield from self.feed.space()
        elif channel is not None and channel[1] == "analysis":
            yield from self._analysis(header)
        else:
            yield from self._body(self.writer.content)

    def _analysis(self, header: str) -> Reading[None]:
        if self.splits_reasoning:
            yield from self._body(self.writer.reasoning)
            return
        self.writer.content(f"{header}<|message|>")
        yield from self._body(self.writer.content)
        self.writer.content("<|end|>")

    def _body(self, sink: Sink) -> Reading[None]:
        """Text up to, and without, the next mark."""
        yield from self.feed.before(_BODY, sink)
