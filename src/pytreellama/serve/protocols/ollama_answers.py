"""Ollama's API: what its clients get."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any, Literal

from pydantic import BaseModel, Field
from pydantic_core import from_json

from pytreellama.serve.answers import Answered
from pytreellama.serve.protocols.blocks import Block, BlockReader
from pytreellama.serve.protocols.pieces import ChatPiece
from pytreellama.serve.stream_forms import Event

DoneReason = Literal["stop", "length", "load"]

_NS_PER_MS = 1_000_000


class OllamaMessage(Answered):
    """What the model answers, or the next piece of it."""

    left_out = frozenset({"thinking", "tool_calls"})

    role: Literal["assistant"] = "assistant"
    content: str
    thinking: str | None = None
    tool_calls: list[dict[str, Any]] | None = None


class OllamaCounts(Answered):
    """What the last piece of an answer has; durations are in nanoseconds."""

    left_out = frozenset(
        {
            *("done_reason", "total_duration", "load_duration", "prompt_eval_count"),
            *("prompt_eval_duration", "eval_count", "eval_duration", "logprobs"),
            *("draft_count", "draft_accepted_count"),
        }
    )

    model: str
    created_at: str
    done: bool
    done_reason: DoneReason | None = None
    total_duration: int | None = None
    load_duration: int | None = None
    prompt_eval_count: int | None = None
    prompt_eval_duration: int | None = None
    eval_count: int | None = None
    eval_duration: int | None = None
    draft_count: int | None = Field(default=None, description="Not Ollama's.")
    draft_accepted_count: int | None = Field(default=None, description="Not Ollama's.")
    logprobs: list[dict[str, Any]] | None = None


class OllamaChat(OllamaCounts):
    """Of `/api/chat`; with `stream`, each line is one with the next piece."""

    message: OllamaMessage


class OllamaText(OllamaCounts):
    """Of `/api/generate`; with `stream`, each line is one with the next piece."""

    left_out = OllamaCounts.left_out | {"thinking"}

    response: str
    thinking: str | None = None


class OllamaDetails(BaseModel):
    """What kind of model it is."""

    parent_model: str = ""
    format: Literal["gguf"] = "gguf"
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str


class OllamaModel(BaseModel):
    """A model that is served."""

    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: OllamaDetails


class OllamaModels(BaseModel):
    """Of `/api/tags`."""

    models: list[OllamaModel]


class OllamaRunning(BaseModel):
    """A model that is loaded."""

    name: str
    model: str
    size: int
    digest: str
    details: OllamaDetails
    expires_at: str
    size_vram: int
    context_length: int


class OllamaRunningModels(BaseModel):
    """Of `/api/ps`."""

    models: list[OllamaRunning]


class OllamaShown(BaseModel):
    """Of `/api/show`."""

    modelfile: str
    parameters: str
    template: str
    details: OllamaDetails
    # pydantic keeps names that begin with `model_` for itself
    info: dict[str, Any] = Field(serialization_alias="model_info")
    capabilities: list[str]
    modified_at: str


class OllamaEmbeddings(BaseModel):
    """Of `/api/embed`; durations are in nanoseconds."""

    model: str
    embeddings: list[list[float]]
    total_duration: int
    load_duration: int = 0
    prompt_eval_count: int


class OllamaVersion(BaseModel):
    """Of `/api/version`."""

    version: str


def time_of(seconds: float | None = None) -> str:
    """A time as Ollama writes it; by default now."""
    now = datetime.now(timezone.utc)
    then = now if seconds is None else datetime.fromtimestamp(seconds, timezone.utc)
    return then.isoformat().replace("+00:00", "Z")


class OllamaTranslator:
    """Puts one answer into Ollama's form.

    Args:
        model: its name, as the client wrote it.
        is_chat: the answer is of `/api/chat`.
    """

    def __init__(self, model: str, *, is_chat: bool) -> None:
        self._model = model
        self._is_chat = is_chat
        self._reader = BlockReader()
        self._finish = ChatPiece()
        self._counts: dict[str, Any] = {}

    def whole(self, piece: ChatPiece) -> OllamaCounts:
        """See ChatTranslator."""
        self._take(piece)
        for _ in (*self._reader.push(piece), *self._reader.finish()):
            pass
        calls = [_call(block) for block in self._reader.blocks if block.kind == "call"]
        return self._answer(piece.text, piece.reasoning, calls, piece, is_done=True)

    def begin(self, n_prompt: int) -> Iterator[Event]:
        """See ChatTranslator."""
        yield from ()

    def push(self, piece: ChatPiece) -> Iterator[Event]:
        """See ChatTranslator. A call comes as a whole."""
        self._take(piece)
        events = list(self._reader.push(piece))
        ended = [event.block for event in events if event.type == "end"]
        calls = [_call(block) for block in ended if block.kind == "call"]
        if piece.text or piece.reasoning or calls or piece.logprobs:
            yield self._answer(piece.text, piece.reasoning, calls, piece).model_dump()

    def finish(self) -> Iterator[Event]:
        """See ChatTranslator."""
        ended = [event.block for event in self._reader.finish() if event.type == "end"]
        calls = [_call(block) for block in ended if block.kind == "call"]
        yield self._answer("", "", calls, ChatPiece(), is_done=True).model_dump()

    def _take(self, piece: ChatPiece) -> None:
        if piece.finish is not None:
            self._finish = piece
        if piece.usage is not None:
            self._counts["prompt_eval_count"] = piece.usage.prompt_tokens
            self._counts["eval_count"] = piece.usage.completion_tokens
        if piece.timings is not None:
            times = piece.timings
            self._counts |= {
                "total_duration": round(_NS_PER_MS * (times.prompt_ms + times.predicted_ms)),
                "load_duration": 0,
                "prompt_eval_duration": round(_NS_PER_MS * times.prompt_ms),
                "eval_duration": round(_NS_PER_MS * times.predicted_ms),
                "draft_count": times.draft_n,
                "draft_accepted_count": times.draft_n_accepted,
            }

    def _answer(
        self,
        text: str,
        thinking: str,
        calls: list[dict[str, Any]],
        piece: ChatPiece,
        *,
        is_done: bool = False,
    ) -> OllamaCounts:
        values: dict[str, Any] = {
            "model": self._model,
            "created_at": time_of(),
            "done": is_done,
            "logprobs": list(piece.logprobs) or None,
        }
        if is_done:
            is_cut = self._finish.finish == "length"
            values |= {"done_reason": "length" if is_cut else "stop", **self._counts}
        if not self._is_chat:
            return OllamaText(response=text, thinking=thinking or None, **values)
        message = OllamaMessage(content=text, thinking=thinking or None, tool_calls=calls or None)
        return OllamaChat(message=message, **values)


def loaded(model: str, *, is_chat: bool) -> OllamaCounts:
    """The answer to a request that is only to load a model."""
    values: dict[str, Any] = {
        "model": model,
        "created_at": time_of(),
        "done": True,
        "done_reason": "load",
    }
    if is_chat:
        return OllamaChat(message=OllamaMessage(content=""), **values)
    return OllamaText(response="", **values)


def _call(block: Block) -> dict[str, Any]:
    try:
        arguments = from_json(block.content, allow_partial="trailing-strings")
    except ValueError:
        arguments = {}
    return {
        "id": block.id,
        "function": {"index": block.call_index, "name": block.name, "arguments": arguments},
    }
