"""OpenAI's `/v1/responses`: what its clients send, and the chat that it means."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, JsonValue, field_validator
from pydantic_core import PydanticCustomError

from pytreellama.serve.errors import APIError
from pytreellama.serve.fields import Body, Items, JsonObject
from pytreellama.serve.protocols.chat_bodies import chat_request
from pytreellama.serve.requests import ChatRequest, Speculation

MessageValues = dict[str, Any]
"""The fields of a chat's message."""

_MAX_INT = 2**53 - 1
_PARTS = ("input_text", "output_text", "text", "summary_text", "reasoning_text", "refusal")
_ITEMS = ("message", "function_call", "function_call_output", "reasoning")


def _unused() -> Any:
    return Field(None, description="Accepted, and of no effect.")


def _refused() -> Any:
    return Field(None, description="Not supported.")


class ResponsePart(Body):
    """Words in an item."""

    type: Literal["input_text", "output_text", "text", "summary_text", "reasoning_text", "refusal"]
    text: str | None = None
    refusal: str | None = None
    annotations: JsonValue = _unused()
    logprobs: JsonValue = _unused()

    @field_validator("type", mode="before")
    @classmethod
    def _no_media(cls, kind: object) -> object:
        if isinstance(kind, str) and kind not in _PARTS:
            raise PydanticCustomError(
                "unsupported_part",
                "parts of type '{kind}' are not supported: this server reads text alone",
                {"kind": kind},
            )
        return kind


class ResponseItem(Body):
    """A message, a call of a function, what a function returned, or thoughts."""

    type: Literal["message", "function_call", "function_call_output", "reasoning"] = "message"
    role: Literal["user", "assistant", "system", "developer"] | None = Field(
        None, description="Of type `message`."
    )
    content: str | Items[ResponsePart] | None = Field(
        None, description="Of types `message` and `reasoning`."
    )
    call_id: str | None = Field(None, description="Of a function's call and output.")
    name: str | None = Field(None, description="Of type `function_call`, as the next one.")
    arguments: str | None = None
    output: str | Items[ResponsePart] | None = Field(
        None, description="Of type `function_call_output`."
    )
    summary: Items[ResponsePart] | None = Field(None, description="Of type `reasoning`.")
    id: str | None = _unused()
    status: str | None = _unused()
    encrypted_content: str | None = _unused()
    phase: str | None = _unused()

    @field_validator("type", mode="before")
    @classmethod
    def _known(cls, kind: object) -> object:
        if isinstance(kind, str) and kind not in _ITEMS:
            raise PydanticCustomError(
                "unsupported_item",
                "items of type '{kind}' are not supported: this server reads message, "
                "function_call, function_call_output and reasoning",
                {"kind": kind},
            )
        return kind


class ResponseTool(Body):
    """A function that the model may call."""

    type: Literal["function"]
    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None

    @field_validator("type", mode="before")
    @classmethod
    def _functions_alone(cls, kind: object) -> object:
        if isinstance(kind, str) and kind != "function":
            raise PydanticCustomError(
                "unsupported_tool",
                "tools of type '{kind}' are not supported: expected 'function'",
                {"kind": kind},
            )
        return kind


class ResponseToolName(Body):
    """A function that is chosen."""

    type: Literal["function"]
    name: str


class AllowedTools(Body):
    """The model may call some of the tools."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Items[ResponseToolName]


class ResponseFormat(Body):
    """Text, any JSON object, or JSON by a schema."""

    model_config = ConfigDict(populate_by_name=True)

    type: Literal["text", "json_object", "json_schema"]
    name: str = "answer"
    description: str | None = None
    schema_: JsonObject | None = Field(None, alias="schema", description="Of `json_schema`.")
    strict: bool | None = None


class ResponseText(Body):
    """The form of the answer."""

    format: ResponseFormat | None = None
    verbosity: str | None = _unused()


class ResponseReasoning(Body):
    """How much the model thinks."""

    effort: str | None = None
    summary: str | None = _unused()
    generate_summary: str | None = _unused()


class ResponseStreamOptions(Body):
    """Of a stream."""

    include_obfuscation: bool | None = _unused()


class ResponsesRequest(Body):
    """For `/v1/responses`."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"input": "Hi!", "max_output_tokens": 32}]}
    )

    model: str | None = None
    input: str | Annotated[Items[ResponseItem], Field(max_length=4096)]
    instructions: str | None = Field(None, description="Of this response alone.")
    previous_response_id: str | None = Field(
        None, description="Goes on from a response that was stored. The server keeps some, for now."
    )
    store: bool | None = Field(None, description="By default true.")
    max_output_tokens: int | None = Field(None, ge=0, le=_MAX_INT)
    temperature: float | None = Field(None, ge=0.0, le=2.0)
    top_p: float | None = Field(None, ge=0.0, le=1.0)
    top_logprobs: int | None = Field(None, ge=0, le=20)
    include: Items[str] | None = Field(
        None, description="Only `message.output_text.logprobs` has an effect."
    )
    tools: Annotated[Items[ResponseTool], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ResponseToolName | AllowedTools | None = None
    parallel_tool_calls: bool | None = None
    text: ResponseText | None = None
    reasoning: ResponseReasoning | None = None
    stream: bool | None = False
    stream_options: ResponseStreamOptions | None = None
    metadata: dict[str, str] | None = Field(None, description="Given back.")
    speculation: Speculation | None = Field(None, description="Not OpenAI's.")

    background: Literal[False] | None = Field(None, description="Only false.")
    conversation: None = _refused()
    prompt: None = _refused()
    truncation: Literal["auto", "disabled"] | None = _unused()
    max_tool_calls: int | None = _unused()
    user: str | None = _unused()
    safety_identifier: str | None = _unused()
    service_tier: str | None = _unused()
    prompt_cache_key: str | None = _unused()
    prompt_cache_retention: str | None = _unused()

    def messages(self) -> list[MessageValues]:
        """The messages that the input adds to a chat.

        Raises:
            APIError: an item lacks what its type needs.
        """
        if isinstance(self.input, str):
            return [{"role": "user", "content": self.input}]
        return messages_of(self.input)

    def chat(self, earlier: Sequence[MessageValues]) -> ChatRequest:
        """The chat that is meant.

        Args:
            earlier: messages of the response that this one goes on from.

        Raises:
            APIError: an item lacks what its type needs, or there is none.
        """
        begin = [{"role": "system", "content": self.instructions}] if self.instructions else []
        messages = [*begin, *earlier, *self.messages()]
        if not messages:
            raise APIError(400, "input: expected a text, or at least one item", param="input")
        logprobs = "message.output_text.logprobs" in (self.include or ()) or self.top_logprobs
        values: dict[str, Any] = {
            "model": self.model,
            "messages": messages,
            "max_tokens": self.max_output_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "logprobs": bool(logprobs),
            "top_logprobs": self.top_logprobs if logprobs else None,
            "parallel_tool_calls": self.parallel_tool_calls,
            "stream": bool(self.stream),
            "reasoning_effort": self.reasoning and self.reasoning.effort,
            "enable_thinking": False
            if self.reasoning and self.reasoning.effort == "none"
            else None,
            "response_format": _format(self.text.format if self.text else None),
        }
        if self.speculation is not None:
            values["speculation"] = self.speculation.model_dump()
        return chat_request(values | self._tools())

    def _tools(self) -> dict[str, Any]:
        choice, tools = self.tool_choice, self.tools or []
        values: dict[str, Any] = {}
        if isinstance(choice, AllowedTools):
            names = {tool.name for tool in choice.tools}
            tools = [tool for tool in tools if tool.name in names]
            values["tool_choice"] = choice.mode
        elif isinstance(choice, ResponseToolName):
            values["tool_choice"] = {"type": "function", "function": {"name": choice.name}}
        elif choice is not None:
            values["tool_choice"] = choice
        if tools:
            values["tools"] = [_tool(tool) for tool in tools]
        return values


def messages_of(items: Iterable[ResponseItem]) -> list[MessageValues]:
    """A chat's messages. Thoughts, words and calls that follow each other are one turn.

    Raises:
        APIError: an item lacks what its type needs.
    """
    messages: list[MessageValues] = []
    for i, item in enumerate(items):
        where = f"input.{i}"
        if item.type == "function_call_output":
            content = _joined(item.output)
            call_id = _needed(item.call_id, where, "call_id")
            messages.append({"role": "tool", "tool_call_id": call_id, "content": content})
        elif item.type == "message":
            role, content = _needed(item.role, where, "role"), _joined(item.content)
            last = messages[-1] if messages else {}
            if role == "assistant" and last.keys() == {"role", "reasoning_content"}:
                last["content"] = content
            else:
                messages.append({"role": role, "content": content})
        elif item.type == "reasoning":
            thoughts = _joined(item.content) or _joined(item.summary)
            if thoughts:
                messages.append({"role": "assistant", "reasoning_content": thoughts})
        else:
            if not messages or messages[-1]["role"] != "assistant":
                messages.append({"role": "assistant"})
            messages[-1].setdefault("tool_calls", []).append(_call(item, where))
    return messages


def _joined(content: str | Sequence[ResponsePart] | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part.text or part.refusal or "" for part in content)


def _needed(value: str | None, where: str, name: str) -> str:
    if value is None:
        param = f"{where}.{name}"
        raise APIError(400, f"{param}: expected a string", param=param)
    return value


def _call(item: ResponseItem, where: str) -> dict[str, Any]:
    function = {"name": _needed(item.name, where, "name"), "arguments": item.arguments or "{}"}
    return {"id": _needed(item.call_id, where, "call_id"), "function": function}


def _tool(tool: ResponseTool) -> dict[str, Any]:
    function = tool.model_dump(exclude_none=True, exclude={"type"})
    return {"type": "function", "function": function}


def _format(format: ResponseFormat | None) -> dict[str, Any] | None:
    if format is None:
        return None
    if format.type != "json_schema":
        return {"type": format.type}
    schema = {"name": format.name, "schema": format.schema_}
    return {"type": "json_schema", "json_schema": schema}
