"""Ollama's API: what its clients send, and the chat or text that it means."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, JsonValue

from pytreellama.serve.errors import APIError
from pytreellama.serve.fields import Body, Items, JsonObject, Stop, Text
from pytreellama.serve.messages import Tool
from pytreellama.serve.protocols.chat_bodies import chat_request, completion_request
from pytreellama.serve.requests import ChatRequest, CompletionRequest, Speculation

_MAX_INT = 2**53 - 1
_LATEST = ":latest"


def _unused() -> Any:
    return Field(None, description="Accepted, and of no effect.")


def plain_name(model: str | None) -> str | None:
    """A model's name without Ollama's usual tag; an empty one means the model that is served."""
    return (model or "").removesuffix(_LATEST) or None


class OllamaOptions(Body):
    """Sampling and length. Other options of Ollama's are about how a model is loaded."""

    num_predict: int | None = Field(
        None, ge=-2, le=_MAX_INT, description="-1 and -2 are all that the context holds."
    )
    temperature: float | None = Field(None, ge=0.0, le=100.0)
    top_k: int | None = Field(None, ge=-1, lt=2**31)
    top_p: float | None = Field(None, ge=0.0, le=1.0)
    min_p: float | None = Field(None, ge=0.0, le=1.0)
    typical_p: float | None = Field(None, ge=0.0, le=1.0)
    repeat_last_n: int | None = Field(None, ge=-1, le=2**20)
    repeat_penalty: float | None = Field(None, ge=0.001, le=1000.0)
    presence_penalty: float | None = Field(None, ge=-2.0, le=2.0)
    frequency_penalty: float | None = Field(None, ge=-2.0, le=2.0)
    seed: int | None = Field(None, ge=-_MAX_INT, le=_MAX_INT)
    stop: Stop | Annotated[Items[Stop], Field(max_length=64)] | None = None
    num_ctx: int | None = Field(
        None, description="Of no effect: the server's context is as it was started with."
    )
    num_keep: JsonValue = _unused()
    num_batch: JsonValue = _unused()
    num_gpu: JsonValue = _unused()
    main_gpu: JsonValue = _unused()
    num_thread: JsonValue = _unused()
    numa: JsonValue = _unused()
    use_mmap: JsonValue = _unused()
    use_mlock: JsonValue = _unused()
    low_vram: JsonValue = _unused()
    vocab_only: JsonValue = _unused()
    logits_all: JsonValue = _unused()
    embedding_only: JsonValue = _unused()
    penalize_newline: JsonValue = _unused()
    tfs_z: JsonValue = _unused()
    mirostat: int | None = None
    mirostat_tau: float | None = None
    mirostat_eta: float | None = None

    def values(self) -> dict[str, Any]:
        """The fields of a request that the options are."""
        values = {
            "max_tokens": self.num_predict
            if self.num_predict is None
            else max(self.num_predict, -1),
            "penalty_last_n": self.repeat_last_n,
        }
        for name in _SAME_NAMES:
            values[name] = getattr(self, name)
        return values


_SAME_NAMES = (
    *("temperature", "top_k", "top_p", "min_p", "typical_p", "repeat_penalty"),
    *("presence_penalty", "frequency_penalty", "seed", "stop"),
    *("mirostat", "mirostat_tau", "mirostat_eta"),
)


class OllamaFunction(Body):
    """A function's name and arguments."""

    name: str
    arguments: JsonObject = Field(default_factory=dict)
    index: int | None = _unused()


class OllamaCall(Body):
    """A call that the model asked for."""

    id: str | None = None
    type: str | None = _unused()
    function: OllamaFunction


class OllamaTurn(Body):
    """One message."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = ""
    thinking: str | None = None
    images: Annotated[list[str], Field(max_length=0)] | None = Field(
        None, description="Not supported."
    )
    tool_calls: Items[OllamaCall] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class _Generating(Body):
    """What requests for chats and texts have in common."""

    model: str
    stream: bool | None = Field(True, description="By default true.")
    format: Literal["", "json"] | JsonObject | None = None
    options: OllamaOptions | None = None
    think: bool | Literal["low", "medium", "high"] | None = None
    logprobs: bool | None = False
    top_logprobs: int | None = Field(None, ge=0, le=20)
    keep_alive: JsonValue = _unused()
    speculation: Speculation | None = Field(None, description="Not Ollama's.")

    @property
    def streams(self) -> bool:
        """Are pieces wanted as they come?"""
        return self.stream is not False

    def _common(self) -> dict[str, Any]:
        values = self.options.values() if self.options else {}
        values |= {"model": plain_name(self.model), "stream": self.streams}
        if self.speculation is not None:
            values["speculation"] = self.speculation.model_dump()
        return values

    def _chat(self, messages: list[dict[str, Any]], **more: Any) -> ChatRequest:
        values = self._common() | {"messages": messages} | more
        if self.format == "json":
            values["response_format"] = {"type": "json_object"}
        elif isinstance(self.format, dict):
            values["json_schema"] = self.format
        if self.think is not None:
            values["enable_thinking"] = bool(self.think)
        if isinstance(self.think, str):
            values["reasoning_effort"] = self.think
        if self.logprobs:
            values |= {"logprobs": True, "top_logprobs": self.top_logprobs}
        return chat_request(values)


class OllamaChatRequest(_Generating):
    """For `/api/chat`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "",
                    "messages": [{"role": "user", "content": "Hi!"}],
                    "options": {"num_predict": 32},
                }
            ]
        }
    )

    messages: Annotated[Items[OllamaTurn], Field(max_length=4096)] | None = Field(
        None, description="None loads the model, which is loaded already."
    )
    tools: Annotated[Items[Tool], Field(max_length=128)] | None = None

    def chat(self) -> ChatRequest:
        """The chat that is meant; it must have messages."""
        messages = list(_messages(self.messages or []))
        tools = [tool.model_dump(exclude_none=True) for tool in self.tools or []]
        return self._chat(messages, tools=tools or None)


class OllamaGenerateRequest(_Generating):
    """For `/api/generate`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"model": "", "prompt": "Why?", "options": {"num_predict": 32}}]
        }
    )

    prompt: str | None = Field(None, description="Empty loads the model, which is loaded already.")
    suffix: str | None = Field(None, description="Fills in the text between prompt and suffix.")
    system: str | None = None
    raw: bool | None = Field(False, description="The prompt goes to the model as it is.")
    template: Annotated[str, Field(max_length=0)] | None = Field(
        None, description="Not supported; use `raw`."
    )
    context: Annotated[list[int], Field(max_length=0)] | None = Field(
        None, description="Not supported; use `/api/chat`."
    )
    images: Annotated[list[str], Field(max_length=0)] | None = Field(
        None, description="Not supported."
    )

    @property
    def is_chat(self) -> bool:
        """Is the prompt a user's message?"""
        return not (self.raw or self.suffix)

    def chat(self) -> ChatRequest:
        """The chat that is meant."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return self._chat([*system, {"role": "user", "content": self.prompt or ""}])

    def completion(self) -> CompletionRequest:
        """The text that is meant where it is no chat.

        Raises:
            APIError: something that only chats have.
        """
        if self.system or self.think or self.logprobs:
            raise APIError(
                400, "raw prompts and suffix have no system, think and logprobs", param="raw"
            )
        values = self._common() | {"prompt": self.prompt, "suffix": self.suffix}
        if self.format == "json":
            values["json_schema"] = {"type": "object"}
        elif isinstance(self.format, dict):
            values["json_schema"] = self.format
        values["max_tokens"] = -1 if values.get("max_tokens") is None else values["max_tokens"]
        return completion_request(values)


class OllamaShowRequest(Body):
    """For `/api/show`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"model": ""}]})

    model: str | None = None
    name: str | None = Field(None, description="The older name of `model`.")
    verbose: bool | None = _unused()


class OllamaEmbeddingRequest(Body):
    """For `/api/embeddings`, the older form of `/api/embed`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"model": "", "prompt": "A fox."}]})

    model: str
    prompt: Text
    options: JsonObject | None = _unused()
    keep_alive: JsonValue = _unused()


class OllamaEmbedRequest(Body):
    """For `/api/embed`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"model": "", "input": ["A fox."]}]})

    model: str
    input: Text | Annotated[Items[Text], Field(min_length=1, max_length=2048)]
    dimensions: int | None = Field(None, ge=1, description="Only the model's own.")
    truncate: bool | None = _unused()
    options: JsonObject | None = _unused()
    keep_alive: JsonValue = _unused()


def _messages(turns: list[OllamaTurn]) -> Iterator[dict[str, Any]]:
    """A chat's messages. Ollama's calls may have no ids, so they are numbered."""
    n_calls = 0
    for turn in turns:
        message: dict[str, Any] = {"role": turn.role, "content": turn.content or ""}
        if turn.thinking:
            message["reasoning_content"] = turn.thinking
        if turn.role == "tool":
            message |= {"name": turn.tool_name, "tool_call_id": turn.tool_call_id}
        calls = []
        for call in turn.tool_calls or []:
            arguments = json.dumps(call.function.arguments, ensure_ascii=False)
            function = {"name": call.function.name, "arguments": arguments}
            calls.append({"id": call.id or f"call-{n_calls}", "function": function})
            n_calls += 1
        if calls:
            message["tool_calls"] = calls
        yield message
