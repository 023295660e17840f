"""ChatPiece: an answer to a chat, or the next part of its stream, in no protocol's words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytreellama.serve.answers import ChatCompletion, Finish, TextCompletion, Timings, Usage


@dataclass(frozen=True, slots=True)
class CallPiece:
    """A call of a function, or the next part of its arguments.

    Attributes:
        index: of the call in its answer.
        id, name: empty in all parts but the first.
        arguments: JSON text, or the next part of it.
    """

    index: int
    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ChatPiece:
    """What has been written since the piece before.

    Attributes:
        finish: why the answer ended, in the piece that ends it.
        stop_string: that ended it, if one did.
        logprobs: of each token, in OpenAI's form, if they were asked for.
    """

    text: str = ""
    reasoning: str = ""
    calls: tuple[CallPiece, ...] = ()
    finish: Finish | None = None
    stop_string: str | None = None
    logprobs: tuple[dict[str, Any], ...] = ()
    usage: Usage | None = None
    timings: Timings | None = None


def piece_of_completion(completion: ChatCompletion | TextCompletion) -> ChatPiece:
    """All of the first answer as one piece."""
    choice = completion.choices[0].model_dump()
    piece = _piece(choice, choice.get("message") or {"content": choice["text"]})
    return _with_counts(piece, completion.usage, completion.timings)


def piece_of_chunk(chunk: Mapping[str, Any]) -> ChatPiece:
    """The data of an event of `/v1/chat/completions` or `/v1/completions` as a piece."""
    usage, timings = chunk.get("usage"), chunk.get("timings")
    piece = ChatPiece()
    for choice in chunk["choices"]:
        piece = _piece(choice, choice.get("delta") or {"content": choice.get("text")})
    return _with_counts(
        piece,
        None if usage is None else Usage.model_validate(usage),
        None if timings is None else Timings.model_validate(timings),
    )


def _with_counts(piece: ChatPiece, usage: Usage | None, timings: Timings | None) -> ChatPiece:
    return ChatPiece(
        piece.text,
        piece.reasoning,
        piece.calls,
        piece.finish,
        piece.stop_string,
        piece.logprobs,
        usage,
        timings,
    )


def _piece(choice: Mapping[str, Any], message: Mapping[str, Any]) -> ChatPiece:
    logprobs = choice.get("logprobs") or {}
    return ChatPiece(
        text=message.get("content") or "",
        reasoning=message.get("reasoning_content") or "",
        calls=_calls(message.get("tool_calls") or ()),
        finish=choice["finish_reason"],
        stop_string=choice.get("stop_reason"),
        logprobs=tuple(logprobs.get("content") or ()),
    )


def _calls(calls: Sequence[Mapping[str, Any]]) -> tuple[CallPiece, ...]:
    return tuple(_call(i, call) for i, call in enumerate(calls))


def _call(i: int, call: Mapping[str, Any]) -> CallPiece:
    index, function = call.get("index"), call.get("function") or {}
    return CallPiece(
        i if index is None else index,
        call.get("id") or "",
        function.get("name") or "",
        function.get("arguments") or "",
    )
