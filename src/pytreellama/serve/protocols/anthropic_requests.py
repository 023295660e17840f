"""Anthropic's `/v1/messages`: what its clients send, and the chat that it means."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, JsonValue, field_validator
from pydantic_core import PydanticCustomError

from pytreellama.serve.errors import APIError
from pytreellama.serve.fields import Body, Items, JsonObject, Stop
from pytreellama.serve.protocols.chat_bodies import chat_request
from pytreellama.serve.requests import ChatRequest, Speculation

_MAX_INT = 2**53 - 1
_READABLE = ("text", "tool_use", "tool_result", "thinking", "redacted_thinking")


def _unused() -> Any:
    return Field(None, description="Accepted, and of no effect.")


class AnthropicText(Body):
    """Words in a system prompt or in the result of a tool."""

    type: Literal["text"]
    text: str
    cache_control: JsonValue = _unused()
    citations: JsonValue = _unused()


class AnthropicBlock(Body):
    """A part of a message; which fields it has depends on its type."""

    type: Literal["text", "tool_use", "tool_result", "thinking", "redacted_thinking"]
    text: str | None = Field(None, description="Of type `text`.")
    id: str | None = Field(None, description="Of type `tool_use`, as the next two.")
    name: str | None = None
    input: JsonObject | None = None
    tool_use_id: str | None = Field(None, description="Of type `tool_result`, as the next two.")
    content: str | Items[AnthropicText] | None = None
    is_error: bool | None = None
    thinking: str | None = Field(None, description="Of type `thinking`.")
    signature: str | None = _unused()
    data: str | None = _unused()
    cache_control: JsonValue = _unused()
    citations: JsonValue = _unused()

    @field_validator("type", mode="before")
    @classmethod
    def _no_media(cls, kind: object) -> object:
        if isinstance(kind, str) and kind not in _READABLE:
            raise PydanticCustomError(
                "unsupported_block",
                "blocks of type '{kind}' are not supported: this server reads text, tool_use, "
                "tool_result and thinking",
                {"kind": kind},
            )
        return kind


class AnthropicTurn(Body):
    """One message."""

    role: Literal["user", "assistant", "system"]
    content: str | Items[AnthropicBlock]


class AnthropicTool(Body):
    """A function that the model may call."""

    type: Literal["custom"] | None = Field(None, description="Tools of Anthropic's are refused.")
    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = None
    input_schema: JsonObject
    strict: bool | None = None
    cache_control: JsonValue = _unused()


class AnthropicToolChoice(Body):
    """Whether the model must call a tool; `any` is some tool, `tool` the one that is named."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class AnthropicThinking(Body):
    """Whether the model thinks first, where its template leaves the choice."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: int | None = _unused()
    display: str | None = _unused()


class AnthropicFormat(Body):
    """A JSON schema that the answer must satisfy."""

    model_config = ConfigDict(populate_by_name=True)

    type: Literal["json_schema"]
    schema_: JsonObject = Field(alias="schema")


class AnthropicOutput(Body):
    """The form of the answer."""

    format: AnthropicFormat | None = None
    effort: str | None = _unused()


class AnthropicPrompt(Body):
    """For `/v1/messages/count_tokens`: what a prompt is made of."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"messages": [{"role": "user", "content": "Hi!"}]}]}
    )

    model: str | None = None
    messages: Annotated[Items[AnthropicTurn], Field(min_length=1, max_length=4096)]
    system: str | Items[AnthropicText] | None = None
    tools: Annotated[Items[AnthropicTool], Field(max_length=128)] | None = None
    tool_choice: AnthropicToolChoice | None = None
    thinking: AnthropicThinking | None = None
    output_config: AnthropicOutput | None = None
    cache_control: JsonValue = _unused()

    def chat(self) -> ChatRequest:
        """The chat that is meant.

        Raises:
            APIError: a block lacks what its type needs.
        """
        return chat_request(self._values())

    def _values(self) -> dict[str, Any]:
        messages = list(_system(self.system))
        for i, turn in enumerate(self.messages):
            messages.extend(_messages(i, turn))
        values: dict[str, Any] = {"model": self.model, "messages": messages}
        if self.tools:
            values["tools"] = [_tool(tool) for tool in self.tools]
        if self.tool_choice is not None:
            values |= _choice(self.tool_choice)
        if self.thinking is not None:
            values["enable_thinking"] = self.thinking.type != "disabled"
        format = self.output_config and self.output_config.format
        if format:
            values["response_format"] = {
                "type": "json_schema",
                "json_schema": {"schema": format.schema_},
            }
        return values


class AnthropicRequest(AnthropicPrompt):
    """For `/v1/messages`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"messages": [{"role": "user", "content": "Hi!"}], "max_tokens": 32}]
        }
    )

    max_tokens: int = Field(ge=0, le=_MAX_INT)
    stream: bool | None = False
    stop_sequences: Annotated[Items[Stop], Field(max_length=64)] | None = None
    temperature: float | None = Field(None, ge=0.0, le=2.0)
    top_p: float | None = Field(None, ge=0.0, le=1.0)
    top_k: int | None = Field(None, ge=0, lt=2**31)
    metadata: JsonValue = _unused()
    service_tier: str | None = _unused()
    speculation: Speculation | None = Field(None, description="Not Anthropic's.")

    def _values(self) -> dict[str, Any]:
        values = super()._values() | {
            "max_tokens": self.max_tokens,
            "stream": bool(self.stream),
            "stop": self.stop_sequences,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
        }
        if self.speculation is not None:
            values["speculation"] = self.speculation.model_dump()
        return values


def _joined(content: str | Sequence[AnthropicText] | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part.text for part in content)


def _system(system: str | Sequence[AnthropicText] | None) -> Iterator[dict[str, Any]]:
    if isinstance(system, list):
        system = "\n\n".join(part.text for part in system)
    if system:
        yield {"role": "system", "content": system}


def _messages(i: int, turn: AnthropicTurn) -> Iterator[dict[str, Any]]:
    """A turn's messages: results of tools are messages of their own."""
    if isinstance(turn.content, str):
        yield {"role": turn.role, "content": turn.content}
        return
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[dict[str, Any]] = []
    for k, block in enumerate(turn.content):
        where = f"messages.{i}.content.{k}"
        if block.type == "text":
            texts.append(_needed(block.text, where, "text"))
        elif block.type == "thinking":
            thoughts.append(_needed(block.thinking, where, "thinking"))
        elif block.type == "tool_use":
            calls.append(_call(block, where))
        elif block.type == "tool_result":
            yield {
                "role": "tool",
                "tool_call_id": _needed(block.tool_use_id, where, "tool_use_id"),
                "content": _joined(block.content),
            }
    if not (texts or calls or thoughts):
        return
    message: dict[str, Any] = {"role": turn.role, "content": "".join(texts)}
    if thoughts:
        message["reasoning_content"] = "".join(thoughts)
    if calls:
        message["tool_calls"] = calls
    yield message


def _call(block: AnthropicBlock, where: str) -> dict[str, Any]:
    arguments = json.dumps(block.input or {}, ensure_ascii=False)
    function = {"name": _needed(block.name, where, "name"), "arguments": arguments}
    return {"id": _needed(block.id, where, "id"), "function": function}


def _needed(value: str | None, where: str, name: str) -> str:
    if value is None:
        param = f"{where}.{name}"
        raise APIError(400, f"{param}: expected a string", param=param)
    return value


def _tool(tool: AnthropicTool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name, "parameters": tool.input_schema}
    if tool.description is not None:
        function["description"] = tool.description
    return {"type": "function", "function": function}


def _choice(choice: AnthropicToolChoice) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if choice.disable_parallel_tool_use is not None:
        values["parallel_tool_calls"] = not choice.disable_parallel_tool_use
    if choice.type == "tool":
        name = _needed(choice.name, "tool_choice", "name")
        values["tool_choice"] = {"type": "function", "function": {"name": name}}
    else:
        values["tool_choice"] = "required" if choice.type == "any" else choice.type
    return values
