"""Reply: the message that a model's text is, whole or in deltas."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ReplyCall:
    """A call of a function that the model asks for.

    Attributes:
        name: of the function.
        arguments: a JSON object as text; its beginning, where the answer was cut in it.
        id: as the model wrote it; None for most models, which write none.
        is_whole: False if the answer was cut in it, or its arguments are broken.
    """

    name: str
    arguments: str
    id: str | None = None
    is_whole: bool = True


@dataclass(frozen=True, slots=True)
class CallDelta:
    """The next piece of a call.

    Attributes:
        index: which call of the reply it belongs to.
        name: in the first piece of a call, None in the others.
        arguments: further text of them.
        id: as ``ReplyCall``, in the first piece.
        is_whole: True in the piece that ends a call as it should.
    """

    index: int
    name: str | None = None
    arguments: str = ""
    id: str | None = None
    is_whole: bool = False


@dataclass(frozen=True, slots=True)
class ReplyDelta:
    """The next piece of a reply: of its content, its reasoning, or a call."""

    content: str = ""
    reasoning: str = ""
    call: CallDelta | None = None

    def joined(self, other: ReplyDelta) -> ReplyDelta | None:
        """This delta and the one that follows as one; None if they are of different parts."""
        if self.call is None and other.call is None:
            if bool(self.content) == bool(other.content):
                return ReplyDelta(self.content + other.content, self.reasoning + other.reasoning)
            return None
        if self.call is None or other.call is None or other.call.name is not None:
            return None
        return ReplyDelta(
            call=CallDelta(
                self.call.index,
                self.call.name,
                self.call.arguments + other.call.arguments,
                self.call.id,
                other.call.is_whole,
            )
        )


@dataclass(frozen=True, slots=True)
class Reply:
    """A message of the assistant.

    Attributes:
        content: what it says, without reasoning and calls.
        reasoning: what it thought before, as far as the model marks it.
        tool_calls: the functions that it asks to be called, in order.
    """

    content: str = ""
    reasoning: str = ""
    tool_calls: tuple[ReplyCall, ...] = ()

    @classmethod
    def of(cls, deltas: Iterable[ReplyDelta]) -> Reply:
        """The reply that deltas are the pieces of."""
        content: list[str] = []
        reasoning: list[str] = []
        calls: list[list[CallDelta]] = []
        for delta in deltas:
            content.append(delta.content)
            reasoning.append(delta.reasoning)
            if delta.call is not None and delta.call.name is not None:
                calls.append([delta.call])
            elif delta.call is not None:
                calls[-1].append(delta.call)
        return cls("".join(content), "".join(reasoning), tuple(map(_call, calls)))

    def to_dict(self) -> dict[str, Any]:
        """As a message of OpenAI's form, to be put back into the list of messages."""
        message: dict[str, Any] = {"role": "assistant", "content": self.content}
        if self.reasoning:
            message["reasoning_content"] = self.reasoning
        if self.tool_calls:
            message["tool_calls"] = [
                {
                    "id": call.id or f"call_{i}",
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for i, call in enumerate(self.tool_calls)
            ]
        return message


def joined(deltas: Iterable[ReplyDelta]) -> Iterator[ReplyDelta]:
    """The same pieces, as few as they can be."""
    last: ReplyDelta | None = None
    for delta in deltas:
        both = None if last is None else last.joined(delta)
        if both is None and last is not None:
            yield last
        last = delta if both is None else both
    if last is not None:
        yield last


def _call(pieces: list[CallDelta]) -> ReplyCall:
    first = pieces[0]
    assert first.name is not None
    arguments = "".join(piece.arguments for piece in pieces)
    return ReplyCall(first.name, arguments, first.id, pieces[-1].is_whole)
