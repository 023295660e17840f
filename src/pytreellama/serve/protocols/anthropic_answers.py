"""Anthropic's `/v1/messages`: what its clients get."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import BaseModel, Field
from pydantic_core import from_json

from pytreellama.serve.answers import Answered, Timings, Usage, new_id
from pytreellama.serve.protocols.blocks import Block, BlockEvent, BlockReader
from pytreellama.serve.protocols.pieces import ChatPiece
from pytreellama.serve.stream_forms import Event

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]


class AnthropicContent(Answered):
    """A part of an answer: words, thoughts, or the use of a tool."""

    left_out = frozenset({"text", "thinking", "signature", "id", "name", "input"})

    type: Literal["text", "thinking", "tool_use"]
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    id: str | None = None
    name: str | None = None
    input: Any = None


class AnthropicUsage(BaseModel):
    """Counts of tokens."""

    input_tokens: int = Field(description="Of the prompt, without those that were in the cache.")
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = Field(default=0, description="Found in the prefix cache.")
    output_tokens: int


class AnthropicMessage(Answered):
    """Of `/v1/messages`."""

    left_out = frozenset({"timings"})

    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[AnthropicContent]
    stop_reason: StopReason | None
    stop_sequence: str | None
    usage: AnthropicUsage
    timings: Timings | None = None


class AnthropicCount(BaseModel):
    """Of `/v1/messages/count_tokens`."""

    input_tokens: int


class AnthropicEvent(BaseModel):
    """An event of a stream; the other fields depend on its type."""

    type: Literal[
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
        "error",
    ]


class AnthropicTranslator:
    """Puts one answer to a chat into Anthropic's form.

    Args:
        model: its name.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        self._reader = BlockReader()
        self._last = ChatPiece()

    def whole(self, piece: ChatPiece) -> AnthropicMessage:
        """See ChatTranslator."""
        for _ in (*self._reader.push(piece), *self._reader.finish()):
            pass
        return AnthropicMessage(
            id=new_id("msg", "_"),
            model=self._model,
            content=[_content(block) for block in self._reader.blocks],
            stop_reason=_stop_reason(piece),
            stop_sequence=_stop_sequence(piece),
            usage=_usage(piece.usage),
            timings=piece.timings,
        )

    def begin(self, n_prompt: int) -> Iterator[Event]:
        """See ChatTranslator."""
        message = AnthropicMessage(
            id=new_id("msg", "_"),
            model=self._model,
            content=[],
            stop_reason=None,
            stop_sequence=None,
            usage=AnthropicUsage(input_tokens=n_prompt, output_tokens=0),
        )
        yield {"type": "message_start", "message": message.model_dump()}

    def push(self, piece: ChatPiece) -> Iterator[Event]:
        """See ChatTranslator."""
        if piece.finish is not None or piece.usage is not None:
            finish = piece if piece.finish is not None else self._last
            self._last = ChatPiece(
                finish=finish.finish,
                stop_string=finish.stop_string,
                usage=piece.usage,
                timings=finish.timings,
            )
        for event in self._reader.push(piece):
            yield _event(event)

    def finish(self) -> Iterator[Event]:
        """See ChatTranslator."""
        for event in self._reader.finish():
            yield _event(event)
        last: Event = {
            "type": "message_delta",
            "delta": {
                "stop_reason": _stop_reason(self._last),
                "stop_sequence": _stop_sequence(self._last),
            },
            "usage": _usage(self._last.usage).model_dump(),
        }
        if self._last.timings is not None:
            last["timings"] = self._last.timings.model_dump()
        yield last
        yield {"type": "message_stop"}


def _event(event: BlockEvent) -> Event:
    block, index = event.block, event.block.index
    if event.type == "begin":
        content = _content(block).model_dump()
        return {"type": "content_block_start", "index": index, "content_block": content}
    if event.type == "end":
        return {"type": "content_block_stop", "index": index}
    delta = {
        "text": {"type": "text_delta", "text": event.more},
        "reasoning": {"type": "thinking_delta", "thinking": event.more},
        "call": {"type": "input_json_delta", "partial_json": event.more},
    }[block.kind]
    return {"type": "content_block_delta", "index": index, "delta": delta}


def _content(block: Block) -> AnthropicContent:
    """A block as it stands; one that just began is empty."""
    if block.kind == "text":
        return AnthropicContent(type="text", text=block.content)
    if block.kind == "reasoning":
        return AnthropicContent(type="thinking", thinking=block.content, signature="")
    return AnthropicContent(
        type="tool_use", id=block.id, name=block.name, input=_input(block.content)
    )


def _input(arguments: str) -> Any:
    """The arguments of a call, as far as they came."""
    try:
        return from_json(arguments, allow_partial="trailing-strings") if arguments else {}
    except ValueError:
        return {}


def _stop_reason(piece: ChatPiece) -> StopReason | None:
    if piece.finish == "stop":
        return "end_turn" if piece.stop_string is None else "stop_sequence"
    return {"length": "max_tokens", "tool_calls": "tool_use", None: None}[piece.finish]


def _stop_sequence(piece: ChatPiece) -> str | None:
    return piece.stop_string if piece.finish == "stop" else None


def _usage(usage: Usage | None) -> AnthropicUsage:
    if usage is None:
        return AnthropicUsage(input_tokens=0, output_tokens=0)
    details = usage.prompt_tokens_details
    n_cached = 0 if details is None else details.cached_tokens
    return AnthropicUsage(
        input_tokens=usage.prompt_tokens - n_cached,
        cache_read_input_tokens=n_cached,
        output_tokens=usage.completion_tokens,
    )
