"""Messages of a chat and tools, as clients send them.

Clients send messages back as they came, so what answers of this and other servers have is accepted
too. Templates get none of it.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, JsonValue, field_validator
from pydantic_core import PydanticCustomError

from pytreellama.serve.fields import Body, Items, JsonObject

_OTHER_PARTS = frozenset(
    {"image_url", "image", "input_image", "input_audio", "audio", "video_url", "file", "input_file"}
)


def _unused() -> Any:
    return Field(None, exclude=True, description="Accepted, and of no effect.")


class FunctionCall(Body):
    """A function's name, and its arguments as JSON text."""

    name: str
    arguments: str


class ToolCall(Body):
    """A call that the model asked for."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall
    index: int | None = _unused()


class TextPart(Body):
    """A piece of a message."""

    type: Literal["text"]
    text: str
    cache_control: JsonValue = _unused()

    @field_validator("type", mode="before")
    @classmethod
    def _no_media(cls, kind: object) -> object:
        if isinstance(kind, str) and kind in _OTHER_PARTS:
            raise PydanticCustomError(
                "unsupported_part",
                "parts of type '{kind}' are not supported: this model reads text alone",
                {"kind": kind},
            )
        return kind


class Message(Body):
    """One message of a chat."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Items[TextPart] | None = None
    name: str | None = None
    tool_calls: Items[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = Field(
        None, exclude=True, description="Another name of `reasoning_content`."
    )
    refusal: str | None = None
    annotations: JsonValue = _unused()
    audio: JsonValue = _unused()
    function_call: JsonValue = _unused()
    cache_control: JsonValue = _unused()


class Function(Body):
    """A function that the model may call; `parameters` is a JSON schema of its arguments."""

    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None


class Tool(Body):
    """A tool."""

    type: Literal["function"]
    function: Function
    cache_control: JsonValue = _unused()


class NamedFunction(Body):
    """A function's name."""

    name: str


class NamedTool(Body):
    """The one function that is to be called."""

    type: Literal["function"]
    function: NamedFunction
