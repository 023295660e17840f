"""What clients send: OpenAI's fields, and those of this server beside them.

A field that is not known is refused by its name, as OpenAI does, so that nothing is ignored
silently but what the documentation says is: ``user``, ``store``, ``metadata`` and their like.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from pytreellama.sampling.params import MAX_SEED, SamplingParams

_T = TypeVar("_T")

Items = Annotated[list[_T], Field(fail_fast=True)]
"""A list of which the first wrong element is told, not a million of them."""
TokenIds = Annotated[Items[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1)]
Text = Annotated[str, Field(min_length=1)]
Stop = Annotated[str, Field(min_length=1, max_length=1000)]
Prompts = (
    Text
    | Annotated[Items[Text], Field(min_length=1, max_length=2048)]
    | TokenIds
    | Annotated[Items[TokenIds], Field(min_length=1, max_length=2048)]
)
JsonObject = dict[str, JsonValue]

_MAX_INT = 2**53 - 1  # whole numbers that every reader of JSON has exactly
_MAX_SEED = 9_223_372_036_854_776_000  # OpenAI's


class Body(BaseModel):
    """A JSON object with known fields of the right types; numbers are never read from strings."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def _example(**values: Any) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [values]})


class StreamOptions(Body):
    """What a stream tells besides text."""

    include_usage: bool = Field(False, description="A last chunk with the usage, no choices.")
    include_obfuscation: bool = Field(False, description="Accepted, and of no effect.")
    include_steps: bool = Field(
        False, description="Every verified tree with the chunk that it brought: `pytreellama`."
    )


class Generating(Body):
    """What all requests for text have in common. Sampling fields are those of `SamplingParams`."""

    model: str | None = Field(None, description="By default the model that is served.")
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    n: int | None = Field(None, ge=1, le=1024)
    stop: Stop | Annotated[Items[Stop], Field(max_length=16)] | None = None
    seed: int | None = Field(None, ge=-_MAX_SEED, le=_MAX_SEED)
    temperature: float | None = Field(None, ge=0.0, le=100.0, description="By default 1.")
    top_p: float | None = Field(None, ge=0.0, le=1.0)
    frequency_penalty: float | None = Field(None, ge=-2.0, le=2.0)
    presence_penalty: float | None = Field(None, ge=-2.0, le=2.0)
    logit_bias: (
        dict[
            Annotated[str, Field(pattern=r"^[0-9]{1,9}$")], Annotated[float, Field(ge=-100, le=100)]
        ]
        | None
    ) = Field(None, description="By token id.")

    top_k: int | None = Field(None, ge=0, lt=2**31, description="Not OpenAI's. 0 is off.")
    min_p: float | None = Field(None, ge=0.0, le=1.0, description="Not OpenAI's. 0 is off.")
    typical_p: float | None = Field(None, ge=0.0, le=1.0, description="Not OpenAI's. 1 is off.")
    repeat_penalty: float | None = Field(
        None, ge=0.001, le=1000.0, description="Not OpenAI's. 1 is off."
    )
    penalty_last_n: int | None = Field(
        None, ge=0, le=2**20, description="Not OpenAI's. Tokens that penalties look back."
    )
    grammar: str | None = Field(None, description="Not OpenAI's. GBNF that the text must follow.")
    ignore_eos: bool | None = Field(None, description="Not OpenAI's. Write on past end tokens.")

    user: str | None = Field(None, description="Accepted, and of no effect; so are the next ones.")
    store: bool | None = None
    metadata: dict[str, str] | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    @property
    def n_answers(self) -> int:
        """To each prompt."""
        return self.n or 1

    @property
    def wants_usage(self) -> bool:
        """At the end of a stream, that is."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def wants_steps(self) -> bool:
        """With the pieces of a stream, that is."""
        return bool(self.stream_options and self.stream_options.include_steps)

    def options(self, max_tokens: int, logprobs: int | None) -> dict[str, Any]:
        """What an engine is asked, but for prompt and schema."""
        return self.sampling() | {
            "max_tokens": max_tokens,
            "stop": self.stops(),
            "logprobs": logprobs,
            "ignore_eos": bool(self.ignore_eos),
        }

    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    def sampling(self) -> dict[str, Any]:
        """The fields of ``SamplingParams`` that were given, and the temperature."""
        values = {
            name: value
            for name in SamplingParams.__dataclass_fields__
            if (value := getattr(self, name, None)) is not None
        }
        values.setdefault("temperature", 1.0)
        if self.seed is not None:
            values["seed"] = self.seed % (MAX_SEED + 1)
        if self.logit_bias is not None:
            values["logit_bias"] = {int(key): bias for key, bias in self.logit_bias.items()}
        return values


class CompletionRequest(Generating):
    """For `/v1/completions`."""

    model_config = _example(prompt="Once upon a time", max_tokens=32, temperature=0.8)

    prompt: Prompts
    max_tokens: int | None = Field(None, ge=1, le=_MAX_INT, description="By default 16.")
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: bool | None = Field(False, description="Put the prompt before the text.")
    best_of: int | None = Field(None, description="Only as many as `n`.")
    suffix: None = Field(None, description="Not supported.")


class FunctionCall(Body):
    """A function's name, and its arguments as JSON text."""

    name: str
    arguments: str


class ToolCall(Body):
    """A call that the model asked for."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class TextPart(Body):
    """A piece of a message."""

    type: Literal["text"]
    text: str


class Message(Body):
    """One message of a chat."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Items[TextPart] | None = None
    name: str | None = None
    tool_calls: Items[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None


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


class NamedFunction(Body):
    """A function's name."""

    name: str


class NamedTool(Body):
    """The one function that is to be called."""

    type: Literal["function"]
    function: NamedFunction


class NamedSchema(Body):
    """A JSON schema that the answer must satisfy."""

    model_config = ConfigDict(extra="forbid", strict=True, populate_by_name=True)

    name: str = "answer"
    description: str | None = None
    schema_: JsonObject | None = Field(None, alias="schema")
    strict: bool | None = None


class TextFormat(Body):
    """No constraint."""

    type: Literal["text"]


class JsonFormat(Body):
    """Any JSON object."""

    type: Literal["json_object"]


class SchemaFormat(Body):
    """JSON by a schema."""

    type: Literal["json_schema"]
    json_schema: NamedSchema


class ChatRequest(Generating):
    """For `/v1/chat/completions`."""

    model_config = _example(messages=[{"role": "user", "content": "Hi!"}], max_tokens=32)

    messages: Annotated[Items[Message], Field(min_length=1, max_length=4096)]
    max_tokens: int | None = Field(None, ge=1, le=_MAX_INT)
    max_completion_tokens: int | None = Field(None, ge=1, le=_MAX_INT)
    logprobs: bool | None = False
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: TextFormat | JsonFormat | SchemaFormat | None = Field(
        None, discriminator="type"
    )
    tools: Annotated[Items[Tool], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: JsonObject | None = Field(
        None, description="Not OpenAI's. Variables of the model's template."
    )
    reasoning_effort: str | None = Field(None, description="Accepted, and of no effect.")


class EmbeddingRequest(Body):
    """For `/v1/embeddings`."""

    model_config = _example(input=["A fox.", "A dog."])

    model: str | None = None
    input: Prompts
    encoding_format: Literal["float", "base64"] | None = "float"
    dimensions: int | None = Field(None, ge=1, description="Only the model's own.")
    user: str | None = Field(None, description="Accepted, and of no effect.")


class ScoreRequest(Body):
    """For `/v1/score`: how likely the model holds each of many continuations of one prompt."""

    model_config = _example(prompt="The sky is", continuations=[" blue", " green"])

    model: str | None = None
    prompt: Text | TokenIds | None = None
    messages: Annotated[Items[Message], Field(min_length=1)] | None = Field(
        None, description="Instead of a prompt."
    )
    continuations: Annotated[Items[Text | TokenIds], Field(min_length=1)]


def as_prompts(
    given: str | list[str] | list[int] | list[list[int]],
) -> list[str | list[int]]:
    """The prompts of a request that may hold one or many, texts or ids."""
    if isinstance(given, str) or isinstance(given[0], int):
        return [given]
    return list(given)
