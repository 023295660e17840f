"""OpenAI's `/v1/responses`: what its clients get."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

from pydantic import BaseModel

from pytreellama.serve.answers import Answered, Timings, Usage, new_id
from pytreellama.serve.protocols.blocks import Block, BlockEvent, BlockReader
from pytreellama.serve.protocols.pieces import ChatPiece
from pytreellama.serve.protocols.responses_requests import MessageValues, ResponsesRequest
from pytreellama.serve.stream_forms import Event

ResponseState = Literal["in_progress", "completed", "incomplete"]

_ID_KINDS = {"text": "msg", "reasoning": "rs", "call": "fc"}


class ResponseUsage(BaseModel):
    """Counts of tokens."""

    input_tokens: int
    input_tokens_details: dict[str, int]
    output_tokens: int
    output_tokens_details: dict[str, int]
    total_tokens: int


class ResponseObject(Answered):
    """Of `/v1/responses`."""

    left_out = frozenset({"timings"})

    id: str
    object: Literal["response"] = "response"
    created_at: int
    completed_at: int | None = None
    status: ResponseState
    error: None = None
    incomplete_details: dict[str, str] | None = None
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, str]
    model: str
    output: list[dict[str, Any]]
    parallel_tool_calls: bool
    previous_response_id: str | None
    reasoning: dict[str, Any]
    store: bool
    temperature: float | None
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_p: float | None
    truncation: str
    usage: ResponseUsage | None = None
    timings: Timings | None = None


class ResponseDeleted(BaseModel):
    """What is left of a response."""

    id: str
    object: Literal["response"] = "response"
    deleted: Literal[True] = True


class ResponseEvent(BaseModel):
    """An event of a stream; the other fields depend on its type."""

    type: str
    sequence_number: int


class ResponsesTranslator:
    """Puts one answer to a chat into the form of a response.

    Args:
        request: that is answered.
        model: its name.
        on_done: called with the response and the message of a chat that it is.
    """

    def __init__(
        self,
        request: ResponsesRequest,
        model: str,
        on_done: Callable[[ResponseObject, MessageValues], object],
    ) -> None:
        self._on_done = on_done
        self._reader = BlockReader()
        self._ids: list[str] = []
        self._logprobs: list[dict[str, Any]] = []
        self._n_events = 0
        self._finish: ChatPiece = ChatPiece()
        self._usage: Usage | None = None
        self._response = _begun(request, model)

    def whole(self, piece: ChatPiece) -> ResponseObject:
        """See ChatTranslator."""
        self._take(piece)
        for event in (*self._reader.push(piece), *self._reader.finish()):
            if event.type == "begin":
                self._ids.append(new_id(_ID_KINDS[event.block.kind], "_"))
        return self._done()

    def begin(self, n_prompt: int) -> Iterator[Event]:
        """See ChatTranslator."""
        for type in ("response.created", "response.in_progress"):
            yield self._numbered(type, response=self._response.model_dump())

    def push(self, piece: ChatPiece) -> Iterator[Event]:
        """See ChatTranslator."""
        self._take(piece)
        logprobs = list(piece.logprobs)
        for event in self._reader.push(piece):
            yield from self._events(event, logprobs)

    def finish(self) -> Iterator[Event]:
        """See ChatTranslator."""
        for event in self._reader.finish():
            yield from self._events(event, [])
        response = self._done()
        yield self._numbered(f"response.{response.status}", response=response.model_dump())

    def _take(self, piece: ChatPiece) -> None:
        if piece.finish is not None:
            self._finish = piece
        self._usage = piece.usage or self._usage
        self._logprobs.extend(piece.logprobs)

    def _numbered(self, type: str, **values: Any) -> Event:
        number = self._n_events
        self._n_events += 1
        return {"type": type, "sequence_number": number, **values}

    def _events(self, event: BlockEvent, logprobs: list[dict[str, Any]]) -> Iterator[Event]:
        block = event.block
        if event.type == "begin":
            self._ids.append(new_id(_ID_KINDS[block.kind], "_"))
            item = self._item(block, "in_progress") | ({} if block.kind == "call" else _EMPTY)
            yield self._numbered("response.output_item.added", output_index=block.index, item=item)
        where = {"item_id": self._ids[block.index], "output_index": block.index}
        if block.kind == "call":
            yield from self._call_events(event, where)
        else:
            yield from self._word_events(event, where | {"content_index": 0}, logprobs)
        if event.type == "end":
            item = self._item(block, self._state_of(block))
            yield self._numbered("response.output_item.done", output_index=block.index, item=item)

    def _call_events(self, event: BlockEvent, where: Event) -> Iterator[Event]:
        type = "response.function_call_arguments"
        if event.type == "more":
            yield self._numbered(f"{type}.delta", **where, delta=event.more)
        elif event.type == "end":
            content, name = event.block.content, event.block.name
            yield self._numbered(f"{type}.done", **where, arguments=content, name=name)

    def _word_events(
        self, event: BlockEvent, where: Event, logprobs: list[dict[str, Any]]
    ) -> Iterator[Event]:
        is_text = event.block.kind == "text"
        type = "response.output_text" if is_text else "response.reasoning_text"
        if event.type == "begin":
            part = _part(Block(event.block.kind, event.block.index), [])
            yield self._numbered("response.content_part.added", **where, part=part)
        elif event.type == "more":
            extra = {"logprobs": logprobs} if is_text else {}
            yield self._numbered(f"{type}.delta", **where, delta=event.more, **extra)
        else:
            extra = {"logprobs": self._logprobs} if is_text else {}
            yield self._numbered(f"{type}.done", **where, text=event.block.content, **extra)
            part = _part(event.block, self._logprobs)
            yield self._numbered("response.content_part.done", **where, part=part)

    def _state_of(self, block: Block) -> ResponseState:
        is_last = block is self._reader.blocks[-1]
        return "incomplete" if is_last and self._finish.finish == "length" else "completed"

    def _item(self, block: Block, state: ResponseState) -> dict[str, Any]:
        id = self._ids[block.index]
        if block.kind == "call":
            return {
                "id": id,
                "type": "function_call",
                "status": state,
                "call_id": block.id,
                "name": block.name,
                "arguments": block.content,
            }
        content = [_part(block, self._logprobs)]
        if block.kind == "reasoning":
            return {"id": id, "type": "reasoning", "summary": [], "content": content}
        return {
            "id": id,
            "type": "message",
            "status": state,
            "role": "assistant",
            "content": content,
        }

    def _done(self) -> ResponseObject:
        blocks, response = self._reader.blocks, self._response
        response.output = [self._item(block, self._state_of(block)) for block in blocks]
        response.status = "completed"
        if self._finish.finish == "length":
            response.status = "incomplete"
            response.incomplete_details = {"reason": "max_output_tokens"}
        response.completed_at = int(time.time())
        response.usage = _usage(self._usage)
        response.timings = self._finish.timings
        self._on_done(response, _message(blocks))
        return response


_EMPTY: dict[str, Any] = {"content": []}


def _begun(request: ResponsesRequest, model: str) -> ResponseObject:
    choice = request.tool_choice
    format = request.text.format if request.text else None
    return ResponseObject(
        id=new_id("resp", "_"),
        created_at=int(time.time()),
        status="in_progress",
        instructions=request.instructions,
        max_output_tokens=request.max_output_tokens,
        metadata=request.metadata or {},
        model=model,
        output=[],
        parallel_tool_calls=request.parallel_tool_calls is not False,
        previous_response_id=request.previous_response_id,
        reasoning={"effort": request.reasoning and request.reasoning.effort, "summary": None},
        store=request.store is not False,
        temperature=request.temperature,
        text={"format": format.model_dump(by_alias=True) if format else {"type": "text"}},
        tool_choice=choice
        if isinstance(choice, str)
        else choice.model_dump()
        if choice
        else "auto",
        tools=[tool.model_dump() for tool in request.tools or []],
        top_p=request.top_p,
        truncation=request.truncation or "disabled",
    )


def _part(block: Block, logprobs: list[dict[str, Any]]) -> dict[str, Any]:
    if block.kind == "reasoning":
        return {"type": "reasoning_text", "text": block.content}
    return {
        "type": "output_text",
        "text": block.content,
        "annotations": [],
        "logprobs": list(logprobs),
    }


def _message(blocks: list[Block]) -> MessageValues:
    """A chat's message that says the same as blocks."""
    message: MessageValues = {"role": "assistant"}
    for block in blocks:
        if block.kind == "call":
            function = {"name": block.name, "arguments": block.content}
            message.setdefault("tool_calls", []).append({"id": block.id, "function": function})
        else:
            key = "content" if block.kind == "text" else "reasoning_content"
            message[key] = message.get(key, "") + block.content
    return message


def _usage(usage: Usage | None) -> ResponseUsage | None:
    if usage is None:
        return None
    details = usage.prompt_tokens_details
    n_cached = 0 if details is None else details.cached_tokens
    return ResponseUsage(
        input_tokens=usage.prompt_tokens,
        input_tokens_details={"cached_tokens": n_cached, "cache_write_tokens": 0},
        output_tokens=usage.completion_tokens,
        output_tokens_details={"reasoning_tokens": 0},
        total_tokens=usage.total_tokens,
    )
