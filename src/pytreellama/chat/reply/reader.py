"""ReplyReader: finds content, reasoning and calls in a model's text while it streams.

What it finds is the same however the text is cut in pieces. A call counts once its function is
known and its arguments begin; from there on they are passed on as they come. What turns out before
to be no call is content.
"""

from __future__ import annotations

import re

from pytreellama.chat.reply.feed import Feed, Reading, Sink, Stops
from pytreellama.chat.reply.format import ReplyFormat
from pytreellama.chat.reply.functions import N_NAME_MAX
from pytreellama.chat.reply.gemma_call import GemmaCall
from pytreellama.chat.reply.harmony import Harmony
from pytreellama.chat.reply.json_call import JsonCalls
from pytreellama.chat.reply.markers import CLOSINGS, REASONING, Marker
from pytreellama.chat.reply.message import ReplyDelta, joined
from pytreellama.chat.reply.named_call import NamedCall
from pytreellama.chat.reply.python_call import PythonCalls
from pytreellama.chat.reply.tagged_call import DSML, GLM, INVOKE, QWEN, TaggedCall, Tags
from pytreellama.chat.reply.writer import ReplyWriter

_TAGS = {"function": QWEN, "invoke": INVOKE, "dsml": DSML}
_SPACE = re.compile(r"[ \t]+")
_WORD = re.compile(r"\w+")


class ReplyReader:
    """Reads one reply.

    Example:
        reader = ReplyReader(ReplyFormat(functions={"look": {}}))
        deltas = reader.push('<tool_call>{"name": "look", "argum')
        deltas += reader.push('ents": {}}</tool_call>')
        deltas += reader.finish()

    Args:
        format: what to look for.
    """

    def __init__(self, format: ReplyFormat) -> None:
        self._format = format
        self._feed = Feed()
        self._writer = ReplyWriter(allows_several=format.allows_several)
        functions = format.functions
        self._json = JsonCalls(self._feed, self._writer, functions)
        self._python = PythonCalls(self._feed, self._writer, functions)
        self._named = NamedCall(self._feed, self._writer, functions)
        self._markers = {marker.text: marker for marker in format.markers if functions}
        stops = [*self._markers, "\n"] if functions else []
        self._stops = Stops(stops) if stops else None
        self._reading: Reading[None] | None = self._read()
        self._run()

    def push(self, text: str) -> list[ReplyDelta]:
        """Add a piece of text, and return what is certain of the reply."""
        self._feed.push(text)
        return self._run()

    def finish(self) -> list[ReplyDelta]:
        """The text is at its end: return the rest."""
        self._feed.is_done = True
        self._run(-1)
        self._writer.finish()
        return list(joined(self._writer.take()))

    def _run(self, n_more: int = 1) -> list[ReplyDelta]:
        try:
            while self._reading is not None:
                next(self._reading)
                if n_more > 0:
                    break
        except StopIteration:
            self._reading = None
        return [] if n_more < 0 else list(joined(self._writer.take()))

    def _read(self) -> Reading[None]:
        if self._format.is_harmony:
            splits = self._format.splits_reasoning
            yield from Harmony(self._feed, self._writer, self._format.functions, splits).read()
            return
        yield from self._reasoning()
        if self._stops is None:
            yield from self._feed.until(Stops(["\0\0"]), self._writer.content)
        else:
            yield from self._answer(self._stops)

    # -- reasoning

    def _reasoning(self) -> Reading[None]:
        feed, opening = self._feed, self._format.opened_reasoning
        if opening is None:
            feed.record()
            yield from feed.space()
            opening = yield from feed.literal(*(begin for begin, _ in REASONING))
            before = feed.recorded()
            if not opening or not self._format.splits_reasoning:
                self._writer.content(before)
            if not opening:
                return
        close = dict(REASONING)[opening]
        sink: Sink = self._writer.content
        if self._format.splits_reasoning:
            sink = self._writer.reasoning
        found = yield from feed.until(Stops([close]), sink)
        if self._format.splits_reasoning:
            self._writer.break_off()
        else:
            self._writer.content(found)

    # -- content and calls

    def _answer(self, stops: Stops) -> Reading[None]:
        begins_line = True
        while True:
            if begins_line and (yield from self._bare_calls()):
                continue
            found = yield from self._feed.until(stops, self._writer.content)
            if not found:
                return
            begins_line = found == "\n"
            if begins_line:
                self._writer.content(found)
            elif (yield from self._marked_call(self._markers[found])):
                begins_line = True
            else:
                self._writer.content(self._feed.recorded())

    def _marked_call(self, marker: Marker) -> Reading[bool]:
        """Read from behind a marker on; False if no call follows."""
        feed = self._feed
        feed.record(marker.text)
        if not (yield from self._form(marker)):
            return False
        feed.forget()
        yield from self._closings()
        return True

    def _form(self, marker: Marker) -> Reading[bool]:
        feed, kind = self._feed, marker.kind
        if kind in _TAGS:
            return (yield from self._tagged(_TAGS[kind]))
        if kind in ("kimi", "mistral", "deepseek"):
            return (yield from self._named.read(kind))
        if kind == "gemma":
            call = GemmaCall(feed, self._writer, self._format.functions, marker.quote)
            return (yield from call.read())
        yield from feed.space()
        if kind == "section":
            return (yield from self._section())
        if (yield from feed.char()) in ("{", "["):
            return (yield from self._json_lines())
        return kind == "tool_call" and (yield from self._in_tool_call())

    def _section(self) -> Reading[bool]:
        """A section of calls opens: read the first of them."""
        found = yield from self._feed.literal(*self._markers)
        return bool(found) and (yield from self._form(self._markers[found]))

    def _in_tool_call(self) -> Reading[bool]:
        if (yield from self._feed.literal("<function=")):
            return (yield from self._tagged(QWEN))
        return (yield from self._tagged(GLM))

    def _tagged(self, tags: Tags) -> Reading[bool]:
        call = TaggedCall(self._feed, self._writer, self._format.functions, tags)
        return (yield from call.read())

    def _bare_calls(self) -> Reading[bool]:
        """Calls in JSON at the beginning of a line, or in a fence; what is none becomes content."""
        feed = self._feed
        feed.record()
        yield from feed.text(_SPACE, N_NAME_MAX)
        if (yield from feed.ahead(*self._markers)):
            self._writer.content(feed.recorded())
            return False
        is_fenced = is_python = False
        if (yield from feed.char()) == "`" and (yield from feed.literal("```")):
            is_fenced = True
            label = yield from feed.text(_WORD, N_NAME_MAX)
            yield from feed.space()
            is_python = label.startswith("tool")  # Gemma 3
        if (yield from self._bare_call(is_python)):
            feed.forget()
            if is_fenced:
                yield from feed.literal("```")
            yield from self._closings()
            return True
        self._writer.content(feed.recorded())
        return False

    def _bare_call(self, is_python: bool) -> Reading[bool]:
        char = yield from self._feed.char()
        if char in ("{", "["):
            return (yield from self._json_lines())
        return is_python and char.isidentifier() and (yield from self._python.read())

    def _json_lines(self) -> Reading[bool]:
        """Calls in JSON, one after the other."""
        if not (yield from self._json.read()):
            return False
        feed = self._feed
        while True:
            feed.record()
            yield from feed.space()
            if (yield from feed.literal(";", ",")):
                yield from feed.space()
            if (yield from feed.char()) not in ("{", "["):
                self._writer.content(feed.recorded())
                return True
            if not (yield from self._json.read()):
                self._writer.content(feed.recorded())
                return True

    def _closings(self) -> Reading[None]:
        while True:
            self._feed.record()
            yield from self._feed.space()
            if not (yield from self._feed.literal(*CLOSINGS)):
                self._writer.content(self._feed.recorded())
                return
