"""What clients send: OpenAI's fields, and those of this server beside them.

An unknown field is ignored, or refused by its name with ``--strict``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, JsonValue

from pytreellama.sampling.params import CONSTRAINTS, MAX_SEED, SamplingParams
from pytreellama.serve.fields import Body, Items, JsonObject, Prompts, Stop, Text, TokenIds
from pytreellama.serve.lora_scales import LoraScales
from pytreellama.serve.messages import Message, NamedTool, Tool

_MAX_INT = 2**53 - 1  # whole numbers that every reader of JSON has exactly
_MAX_SEED = 9_223_372_036_854_776_000  # OpenAI's
_MAX_HISTORY = 2**20
_TRUNCATING = frozenset(
    {"top_k", "top_p", "min_p", "typical_p", "top_n_sigma", "xtc_probability", "dynatemp_range"}
)


def _example(**values: Any) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [values]})


def _parse_special() -> Any:
    return Field(
        None,
        description="Not OpenAI's. Read names of special tokens as tokens. By default true.",
    )


class StreamOptions(Body):
    """What a stream tells besides text."""

    include_usage: bool = Field(False, description="A last chunk with the usage, no choices.")
    include_obfuscation: bool = Field(False, description="Accepted, and of no effect.")
    include_steps: bool = Field(
        False, description="Every verified tree with the chunk that it brought: `pytreellama`."
    )


class Speculation(Body):
    """How one request is decoded; its answer is the same."""

    enabled: bool | None = Field(None, description="False for plain decoding.")
    drafter: str | None = Field(
        None,
        description="Some of the server's drafters, as `suffix+recycling`; `auto` is all of them, "
        "`none` plain decoding.",
    )
    n_draft: int | None = Field(
        None, ge=0, le=2**20, description="Most draft nodes of a tree, if less than the server's."
    )


class Generating(Body):
    """What all requests for text have in common. Sampling fields are those of `SamplingParams`."""

    model: str | None = Field(None, description="By default the model that is served.")
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    n: int | None = Field(None, ge=1, le=1024)
    stop: Stop | Annotated[Items[Stop], Field(max_length=64)] | None = None
    seed: int | None = Field(None, ge=-_MAX_SEED, le=_MAX_SEED)
    temperature: float | None = Field(
        None, ge=0.0, le=100.0, description="0 is greedy. The server has its own default."
    )
    top_p: float | None = Field(None, ge=0.0, le=1.0)
    frequency_penalty: float | None = Field(None, ge=-2.0, le=2.0)
    presence_penalty: float | None = Field(None, ge=-2.0, le=2.0)
    logit_bias: (
        dict[
            Annotated[str, Field(pattern=r"^[0-9]{1,9}$")], Annotated[float, Field(ge=-100, le=100)]
        ]
        | None
    ) = Field(None, description="By token id.")

    top_k: int | None = Field(None, ge=-1, lt=2**31, description="Not OpenAI's. 0 and -1 are off.")
    min_p: float | None = Field(None, ge=0.0, le=1.0, description="Not OpenAI's. 0 is off.")
    typical_p: float | None = Field(None, ge=0.0, le=1.0, description="Not OpenAI's. 1 is off.")
    repeat_penalty: float | None = Field(
        None, ge=0.001, le=1000.0, description="Not OpenAI's. 1 is off."
    )
    repetition_penalty: float | None = Field(
        None, ge=0.001, le=1000.0, description="Another name of `repeat_penalty`."
    )
    penalty_last_n: int | None = Field(
        None,
        ge=-1,
        le=_MAX_HISTORY,
        description="Not OpenAI's. Tokens that penalties look back; -1 is all.",
    )
    dynatemp_range: float | None = Field(None, ge=0.0, le=100.0, description="0 is off.")
    dynatemp_exponent: float | None = Field(None, ge=0.0, le=100.0)
    top_n_sigma: float | None = Field(None, ge=-1.0, le=1e6, description="0 and -1 are off.")
    dry_multiplier: float | None = Field(None, ge=0.0, le=1e6, description="0 is off.")
    dry_base: float | None = Field(None, ge=1.0, le=1000.0)
    dry_allowed_length: int | None = Field(None, ge=1, le=_MAX_HISTORY)
    dry_penalty_last_n: int | None = Field(None, ge=-1, le=_MAX_HISTORY, description="-1 is all.")
    dry_sequence_breakers: (
        Annotated[Items[Annotated[str, Field(min_length=1, max_length=40)]], Field(max_length=32)]
        | None
    ) = None
    xtc_probability: float | None = Field(None, ge=0.0, le=1.0, description="0 is off.")
    xtc_threshold: float | None = Field(None, ge=0.0, le=0.5)
    mirostat: int | None = Field(None, ge=0, le=2, description="0 is off.")
    mirostat_tau: float | None = Field(None, ge=0.001, le=100.0)
    mirostat_eta: float | None = Field(None, ge=1e-6, le=10.0)
    grammar: str | None = Field(None, description="Not OpenAI's. GBNF that the text must follow.")
    json_schema: JsonObject | None = Field(
        None, description="Not OpenAI's. JSON schema that the text must satisfy."
    )
    regex: str | None = Field(None, description="Not OpenAI's. Regular expression of all the text.")
    lark: str | None = Field(None, description="Not OpenAI's. Lark grammar (llguidance's dialect).")
    guided_json: None = Field(None, description="Not supported; use `json_schema`.")
    guided_regex: None = Field(None, description="Not supported; use `regex`.")
    guided_choice: None = Field(None, description="Not supported; use `regex`.")
    guided_grammar: None = Field(None, description="Not supported; use `grammar` or `lark`.")
    structured_outputs: None = Field(None, description="Not supported; use `json_schema`.")
    speculation: Speculation | None = Field(None, description="Not OpenAI's.")
    lora: LoraScales | None = Field(
        None,
        description="Not OpenAI's. Scales of LoRA adapters by name, or llama-server's list; those "
        "left out are not used.",
    )
    ignore_eos: bool | None = Field(None, description="Not OpenAI's. Write on past end tokens.")
    return_progress: bool | None = Field(
        None, description="Not OpenAI's. A stream tells how far the prompt is: `prompt_progress`."
    )

    user: str | None = Field(None, description="Accepted, and of no effect; so are the next ones.")
    store: bool | None = None
    metadata: dict[str, str] | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    cache_prompt: bool | None = None
    prediction: JsonValue = None

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

    def options(
        self, max_tokens: int, logprobs: int | None, defaults: Mapping[str, float]
    ) -> dict[str, Any]:
        """What an engine is asked, but for prompt and schema.

        Args:
            max_tokens: as the server allows it.
            logprobs: as ``Engine.submit``.
            defaults: values of sampling fields that are not given.
        """
        sampling = dict(defaults) | self.sampling()
        if sampling.get("mirostat"):  # as in llama.cpp, it stands in their place
            sampling = {name: v for name, v in sampling.items() if name not in _TRUNCATING}
        return sampling | {
            "max_tokens": max_tokens,
            "stop": self.stops(),
            "logprobs": logprobs,
            "ignore_eos": bool(self.ignore_eos),
            "n_draft": self.n_draft,
            "drafters": self.drafters,
            "lora": self.lora,
        }

    @property
    def n_draft(self) -> int | None:
        """Most draft nodes of a tree; None is as many as the server's."""
        wanted = self.speculation
        if wanted is None:
            return None
        return 0 if wanted.enabled is False or wanted.drafter == "none" else wanted.n_draft

    @property
    def drafters(self) -> str | None:
        """The drafters that may be asked, joined by plus signs; None is all."""
        name = None if self.speculation is None else self.speculation.drafter
        return None if name in ("auto", "none") else name

    def stops(self) -> tuple[str, ...]:
        """The stop strings; empty ones stop nothing."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(stop for stop in given if stop)

    @property
    def is_constrained(self) -> bool:
        """Must a constraint be compiled for it? Any of a client's may take long."""
        return any(getattr(self, name) is not None for name in CONSTRAINTS)

    def sampling(self) -> dict[str, Any]:
        """The fields of ``SamplingParams`` that were given."""
        values = {
            name: value
            for name in SamplingParams.__dataclass_fields__
            if (value := getattr(self, name, None)) is not None
        }
        if self.repetition_penalty is not None:
            values.setdefault("repeat_penalty", self.repetition_penalty)
        if self.top_k == -1:
            values["top_k"] = 0
        for name in ("penalty_last_n", "dry_penalty_last_n"):
            if values.get(name) == -1:
                values[name] = _MAX_HISTORY
        if self.top_n_sigma is not None:
            values["top_n_sigma"] = max(self.top_n_sigma, 0.0)
        if self.dry_sequence_breakers is not None:
            values["dry_sequence_breakers"] = tuple(self.dry_sequence_breakers)
        if self.seed is not None:
            values["seed"] = self.seed % (MAX_SEED + 1)
        if self.logit_bias is not None:
            values["logit_bias"] = {int(key): bias for key, bias in self.logit_bias.items()}
        return values


class CompletionRequest(Generating):
    """For `/v1/completions`."""

    model_config = _example(prompt="Once upon a time", max_tokens=32, temperature=0.8)

    prompt: Prompts
    max_tokens: int | None = Field(
        None, ge=-1, le=_MAX_INT, description="By default 16; -1 is all that the context holds."
    )
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: bool | None = Field(False, description="Put the prompt before the text.")
    prompt_logprobs: int | None = Field(
        None, ge=0, le=20, description="vLLM's: log-probabilities of the prompt's own tokens."
    )
    best_of: int | None = Field(None, description="Only as many as `n`.")
    suffix: str | None = Field(
        None,
        description="The text is to end where this begins. Needs a model that fills in the middle.",
    )
    parse_special: bool | None = _parse_special()


class NamedSchema(Body):
    """A JSON schema that the answer must satisfy."""

    model_config = ConfigDict(populate_by_name=True)

    name: str = "answer"
    description: str | None = None
    schema_: JsonObject | None = Field(None, alias="schema")
    strict: bool | None = None


class TextFormat(Body):
    """No constraint."""

    type: Literal["text"]


class JsonFormat(Body):
    """Any JSON object, or one that a schema allows, in llama-server's form."""

    model_config = ConfigDict(populate_by_name=True)

    type: Literal["json_object"]
    schema_: JsonObject | None = Field(None, alias="schema")


class SchemaFormat(Body):
    """JSON by a schema."""

    type: Literal["json_schema"]
    json_schema: NamedSchema


class ChatRequest(Generating):
    """For `/v1/chat/completions`."""

    model_config = _example(messages=[{"role": "user", "content": "Hi!"}], max_tokens=32)

    messages: Annotated[Items[Message], Field(min_length=1, max_length=4096)]
    max_tokens: int | None = Field(
        None, ge=-1, le=_MAX_INT, description="By default, and with -1, all that the context holds."
    )
    max_completion_tokens: int | None = Field(
        None, ge=-1, le=_MAX_INT, description="Comes before `max_tokens`."
    )
    logprobs: bool | None = False
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: TextFormat | JsonFormat | SchemaFormat | None = Field(
        None, discriminator="type"
    )
    tools: Annotated[Items[Tool], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = Field(
        None, description="Several calls in an answer. By default where the model decides."
    )
    reasoning_format: Literal["auto", "deepseek", "none"] | None = Field(
        None,
        description="Not OpenAI's. Reasoning in `reasoning_content`; with `none` in the content.",
    )
    enable_thinking: bool | None = Field(
        None, description="Not OpenAI's. The same variable of `chat_template_kwargs`."
    )
    chat_template_kwargs: JsonObject | None = Field(
        None, description="Not OpenAI's. Variables of the model's template."
    )
    modalities: Items[Literal["text"]] | None = Field(None, description="Only text.")
    functions: None = Field(None, description="Not supported; use `tools`.")
    function_call: None = Field(None, description="Not supported; use `tool_choice`.")
    reasoning_effort: str | None = Field(
        None, description="A variable of the model's template, for templates that know it."
    )
    verbosity: str | None = Field(None, description="Accepted, and of no effect.")


class EmbeddingRequest(Body):
    """For `/v1/embeddings`."""

    model_config = _example(input=["A fox.", "A dog."])

    model: str | None = None
    input: Prompts
    encoding_format: Literal["float", "base64"] | None = "float"
    dimensions: int | None = Field(None, ge=1, description="Only the model's own.")
    parse_special: bool | None = _parse_special()
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
    parse_special: bool | None = _parse_special()


class TokenizeRequest(Body):
    """For `/tokenize`: a text, or a chat."""

    model_config = _example(content="A fox.", with_pieces=True)

    model: str | None = None
    content: str | None = None
    prompt: str | None = Field(None, description="vLLM's name of `content`.")
    messages: Annotated[Items[Message], Field(min_length=1, max_length=4096)] | None = Field(
        None, description="Instead of a text."
    )
    add_special: bool | None = Field(False, description="Add BOS and EOS as the model wants them.")
    parse_special: bool | None = _parse_special()
    with_pieces: bool | None = Field(False, description="Tell each token's text too.")


class DetokenizeRequest(Body):
    """For `/detokenize`."""

    model_config = _example(tokens=[1, 2, 3])

    model: str | None = None
    tokens: Items[Annotated[int, Field(ge=0, lt=2**31)]]


def as_prompts(
    given: str | list[str] | list[int] | list[list[int]],
) -> list[str | list[int]]:
    """The prompts of a request that may hold one or many, texts or ids."""
    if isinstance(given, str) or isinstance(given[0], int):
        return [given]
    return list(given)
