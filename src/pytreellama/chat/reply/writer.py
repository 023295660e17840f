"""ReplyWriter: takes what parsers find and puts it into deltas."""

from __future__ import annotations

from pytreellama.chat.reply.message import CallDelta, ReplyDelta


class ReplyWriter:
    """Collects the deltas of one reply.

    White space around calls and reasoning is left out; all other content is as it was written.

    Args:
        allows_several: False leaves out all calls but the first.
    """

    def __init__(self, *, allows_several: bool = True) -> None:
        self.n_calls = 0
        self._allows_several = allows_several
        self._deltas: list[ReplyDelta] = []
        self._content = _Spaced()
        self._reasoning = _Spaced(begins=True)

    def take(self) -> list[ReplyDelta]:
        """The deltas since the last call."""
        deltas, self._deltas = self._deltas, []
        return deltas

    def content(self, text: str) -> None:
        """Add to the content."""
        if written := self._content.push(text):
            self._deltas.append(ReplyDelta(content=written))

    def reasoning(self, text: str) -> None:
        """Add to the reasoning."""
        if written := self._reasoning.push(text):
            self._deltas.append(ReplyDelta(reasoning=written))

    def break_off(self) -> None:
        """What follows is another part of the content or the reasoning."""
        self._reasoning.break_off()
        self._content.break_off()

    def begin_call(self, name: str, id: str | None = None) -> None:
        """A call begins; its arguments follow."""
        self._content.break_off()
        self.n_calls += 1
        self._call(name, "", id)

    def arguments(self, text: str) -> None:
        """Add to the arguments of the call that has begun."""
        self._call(None, text)

    def end_call(self, *, is_whole: bool = True) -> None:
        """The call ends."""
        if is_whole:
            self._call(None, "", is_whole=True)

    def finish(self) -> None:
        """The reply ends: white space behind content without calls belongs to it."""
        if self.n_calls == 0 and (space := self._content.rest()):
            self._deltas.append(ReplyDelta(content=space))

    def _call(
        self, name: str | None, text: str, id: str | None = None, *, is_whole: bool = False
    ) -> None:
        if self.n_calls == 1 or self._allows_several:
            call = CallDelta(self.n_calls - 1, name, text, id, is_whole)
            self._deltas.append(ReplyDelta(call=call))


class _Spaced:
    """Text whose last white space is held back until more follows.

    Args:
        begins: leave white space at the beginning out.
    """

    def __init__(self, *, begins: bool = False) -> None:
        self._space: list[str] = []
        self._is_broken = begins
        self._is_empty = True

    def push(self, text: str) -> str:
        """Add a piece, and return what is certain."""
        body = text.rstrip()
        if not body:
            self._space.append(text)
            return ""
        before = "".join(self._space)
        if self._is_broken:
            before, body = "" if self._is_empty else "\n", body.lstrip()
            self._is_broken = False
            text = text.lstrip()
        self._space = [text[len(body) :]]
        self._is_empty = False
        return before + body

    def break_off(self) -> None:
        """What follows is another part, on a line of its own."""
        self._space.clear()
        self._is_broken = True

    def rest(self) -> str:
        """White space at the end, if nothing was broken off."""
        return "" if self._is_broken else "".join(self._space)
