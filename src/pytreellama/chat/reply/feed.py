"""Feed: a model's text as it comes, read by generators that wait where it is not there yet.

Whoever reads is a generator: a ``yield`` waits for more text. So a parser is written as if all of
the text was there, and finds the same however it is cut. No character is looked at more than a few
times: a model can be made to write whatever takes another parser square time.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

_T = TypeVar("_T")
Reading = Generator[None, None, _T]
"""A generator that reads a feed and returns what it found."""
Sink = Callable[[str], object]

_SPACE = re.compile(r"\s*")
_OUTSIDE = re.compile(r'["{}\[\]]|[^\s,:\w+\-.]')  # of strings: what opens, closes, or is no JSON
_INSIDE = re.compile(r'["\\]')
_LITERAL = re.compile(r"[\w+\-.]*")
_PAIRS = {"}": "{", "]": "["}
_ESCAPES = {i: f"\\u{i:04x}" for i in range(32)} | {9: "\\t", 10: "\\n", 13: "\\r"}


class Stops:
    """Texts that a reader looks for."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._sorted = sorted(set(texts))
        self._n_longest = max(map(len, self._sorted))
        longest_first = sorted(self._sorted, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)))

    def search(self, text: str, at: int) -> re.Match[str] | None:
        """The first of them in a text from ``at`` on."""
        return self._pattern.search(text, at)

    def n_begun(self, text: str, at: int) -> int:
        """Length of the longest end of a text, from ``at`` on, that may become one of them."""
        for size in range(min(self._n_longest - 1, len(text) - at), 0, -1):
            end = text[len(text) - size :]
            i = bisect_left(self._sorted, end)
            if i < len(self._sorted) and self._sorted[i].startswith(end):
                return size
        return 0


class Feed:
    """Text of which a part has been read.

    Attributes:
        is_done: no more text will come.
    """

    def __init__(self) -> None:
        self.is_done = False
        self._text = ""
        self._at = 0
        self._record: list[str] | None = None

    def push(self, text: str) -> None:
        """Add what has come."""
        self._text = self._text[self._at :] + text
        self._at = 0

    def record(self, text: str = "") -> None:
        """Keep what is read from here on, behind a text, for ``recorded``."""
        self._record = [text]

    def recorded(self) -> str:
        """What was read since ``record``, or nothing after ``forget``; and stop keeping it."""
        record, self._record = self._record, None
        return "".join(record or ())

    def forget(self) -> None:
        """Stop keeping what is read."""
        self._record = None

    def more(self) -> Reading[bool]:
        """Wait for text behind what is there; False if there is none."""
        n_left = len(self._text) - self._at
        while not self.is_done:
            yield
            if len(self._text) - self._at > n_left:
                return True
        return False

    def char(self) -> Reading[str]:
        """The next character, which is not read; an empty text at the end."""
        if self._at == len(self._text) and not (yield from self.more()):
            return ""
        return self._text[self._at]

    def space(self) -> Reading[None]:
        """Read white space."""
        yield from self._run(_SPACE, _ignore)

    def text(self, pattern: re.Pattern[str], n_max: int) -> Reading[str]:
        """Read the characters that a pattern takes, unless there are more than ``n_max``."""
        found = ""
        while (yield from self.char()) and len(found) <= n_max:
            end = _end(pattern, self._text, self._at)
            if end == self._at:
                break
            found += self._text[self._at : end]
            self._take(end, _ignore)
        return found

    def literal(self, *texts: str) -> Reading[str]:
        """Read the first of some texts that comes next; an empty text if none does."""
        found = yield from self.ahead(*texts)
        self._take(self._at + len(found), _ignore)
        return found

    def ahead(self, *texts: str) -> Reading[str]:
        """As ``literal``, but it is not read."""
        while True:
            for text in texts:
                if self._text.startswith(text, self._at):
                    return text
            left = self._text[self._at : self._at + max(map(len, texts))]
            if not any(text.startswith(left) for text in texts) or not (yield from self.more()):
                return ""

    def until(self, stops: Stops, sink: Sink) -> Reading[str]:
        """As ``before``, but the text that was found is read too."""
        found = yield from self.before(stops, sink)
        self._take(self._at + len(found), _ignore)
        return found

    def before(self, stops: Stops, sink: Sink) -> Reading[str]:
        """Read up to one of some texts.

        Args:
            sink: gets what stands before it, piece by piece.

        Returns:
            The text that was found; empty if the end came before.
        """
        while True:
            found = stops.search(self._text, self._at)
            if found is not None:
                self._take(found.start(), sink)
                return found[0]
            n_begun = 0 if self.is_done else stops.n_begun(self._text, self._at)
            self._take(len(self._text) - n_begun, sink)
            if not (yield from self.more()) and self._at == len(self._text):
                return ""

    def value(self, sink: Sink) -> Reading[bool]:
        """Read a JSON value; control characters in its strings become their escapes.

        Brackets and strings are what is checked: a value ends where no JSON goes on.

        Args:
            sink: gets it, piece by piece.

        Returns:
            True if it is whole.
        """
        first = yield from self.char()
        if first == '"':
            return (yield from self._string(sink))
        if first in ("{", "["):
            return (yield from self._container(sink))
        yield from self._run(_LITERAL, sink)
        return True

    def _container(self, sink: Sink) -> Reading[bool]:
        opened: list[str] = []
        while (yield from self.char()):
            found = _OUTSIDE.search(self._text, self._at)
            self._take(len(self._text) if found is None else found.start(), sink)
            mark = "" if found is None else found[0]
            if mark == '"':
                if not (yield from self._string(sink)):
                    return False
            elif mark in ("{", "["):
                opened.append(mark)
                self._take(self._at + 1, sink)
            elif mark in _PAIRS:
                if opened.pop() != _PAIRS[mark]:
                    return False
                self._take(self._at + 1, sink)
                if not opened:
                    return True
            elif mark:
                return False
        return False

    def _string(self, sink: Sink) -> Reading[bool]:
        self._take(self._at + 1, sink)
        while (yield from self.char()):
            found = _INSIDE.search(self._text, self._at)
            end = len(self._text) if found is None else found.start()
            self._take(end, lambda text: sink(text.translate(_ESCAPES)))
            if found is None:
                continue
            if found[0] == '"':
                self._take(end + 1, sink)
                return True
            while len(self._text) < self._at + 2:  # the character behind the backslash
                if not (yield from self.more()):
                    return False
            self._take(self._at + 2, lambda text: sink(text.translate(_ESCAPES)))
        return False

    def _run(self, pattern: re.Pattern[str], sink: Sink) -> Reading[None]:
        while (yield from self.char()):
            end = _end(pattern, self._text, self._at)
            if end == self._at:
                return
            self._take(end, sink)

    def _take(self, end: int, sink: Sink) -> None:
        if end > self._at:
            text = self._text[self._at : end]
            self._at = end
            if self._record is not None:
                self._record.append(text)
            sink(text)


def _ignore(text: str) -> None:
    """A sink for what is read over."""


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    return at if found is None else found.end()
