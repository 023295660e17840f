"""llama-server's own API: what its clients send, and the request for text that it means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import ConfigDict, Field, JsonValue

from pytreellama.model.vocab import Vocab
from pytreellama.serve.errors import APIError
from pytreellama.serve.fields import Body, Items, JsonObject, Stop, TokenIds
from pytreellama.serve.lora_scales import LoraScales
from pytreellama.serve.protocols.chat_bodies import completion_request
from pytreellama.serve.requests import CompletionRequest, Speculation

_MAX_INT = 2**53 - 1
_BAN = -100.0
_MAX_BIASES = 1 << 17

Mixed = Annotated[
    Items[Annotated[int, Field(ge=0, lt=2**31)] | str], Field(min_length=1, max_length=1 << 20)
]
"""A prompt of texts and token ids."""
Biased = tuple[int | str, float | bool] | list[int | str | float | bool]


def _unused() -> Any:
    return Field(None, description="Accepted, and of no effect.")


class LlamaSampling(Body):
    """What `/completion` and `/infill` have in common."""

    model: str | None = None
    n_predict: int | None = Field(
        None, ge=-2, le=_MAX_INT, description="By default, -1 and -2: all that the context holds."
    )
    max_tokens: int | None = Field(None, ge=-1, le=_MAX_INT, description="Another name of it.")
    stream: bool | None = False
    stop: Stop | Annotated[Items[Stop], Field(max_length=64)] | None = None
    temperature: float | None = Field(None, ge=0.0, le=100.0)
    top_k: int | None = Field(None, ge=-1, lt=2**31)
    top_p: float | None = Field(None, ge=0.0, le=1.0)
    min_p: float | None = Field(None, ge=0.0, le=1.0)
    typical_p: float | None = Field(None, ge=0.0, le=1.0)
    repeat_penalty: float | None = Field(None, ge=0.001, le=1000.0)
    repeat_last_n: int | None = Field(None, ge=-1, le=2**20)
    presence_penalty: float | None = Field(None, ge=-2.0, le=2.0)
    frequency_penalty: float | None = Field(None, ge=-2.0, le=2.0)
    seed: int | None = Field(None, ge=-1, le=_MAX_INT, description="-1 is any.")
    grammar: str | None = None
    json_schema: JsonObject | None = None
    ignore_eos: bool | None = None
    logit_bias: (
        dict[str, float | bool] | Annotated[Items[Biased], Field(max_length=_MAX_BIASES)] | None
    ) = Field(None, description="Pairs of a token id or a text, and a bias; false bans it.")
    n_probs: int | None = Field(None, ge=0, le=20)
    return_tokens: bool | None = False
    return_progress: bool | None = False
    lora: LoraScales | None = Field(None, description="Scales of LoRA adapters, by id or name.")
    speculation: Speculation | None = Field(None, description="Not llama-server's.")

    dynatemp_range: float | None = None
    dynatemp_exponent: float | None = None
    top_n_sigma: float | None = None
    dry_multiplier: float | None = None
    dry_base: float | None = None
    dry_allowed_length: int | None = None
    dry_penalty_last_n: int | None = None
    dry_sequence_breakers: Items[str] | None = None
    xtc_probability: float | None = None
    xtc_threshold: float | None = None
    mirostat: int | None = None
    mirostat_tau: float | None = None
    mirostat_eta: float | None = None

    post_sampling_probs: bool | None = Field(
        None, description="Of no effect: n_probs comes before."
    )
    cache_prompt: bool | None = _unused()
    id_slot: int | None = _unused()
    n_keep: int | None = _unused()
    min_keep: int | None = _unused()
    samplers: JsonValue = _unused()
    timings_per_token: bool | None = _unused()
    response_fields: JsonValue = _unused()
    t_max_predict_ms: float | None = _unused()
    t_max_prompt_ms: float | None = _unused()

    def request(self, vocab: Vocab) -> CompletionRequest:
        """The request that is meant, but for its prompt, of which it has a stand-in.

        Args:
            vocab: of texts in ``logit_bias``.

        Raises:
            APIError: a value that no request may have.
        """
        n_predict = self.max_tokens if self.n_predict is None else self.n_predict
        values: dict[str, Any] = {
            "model": self.model,
            "prompt": [0],
            "max_tokens": -1 if n_predict is None else max(n_predict, -1),
            "penalty_last_n": self.repeat_last_n,
            "seed": None if self.seed == -1 else self.seed,
            "logprobs": self.n_probs or None,
            "logit_bias": _biases(self.logit_bias, vocab),
            "return_progress": self.return_progress,
        }
        for name in _SAME_NAMES:
            values[name] = getattr(self, name)
        values["lora"] = self.model_dump(include={"lora"})["lora"]
        if self.speculation is not None:
            values["speculation"] = self.speculation.model_dump()
        return completion_request(values)


_SAME_NAMES = (
    *("stream", "stop", "temperature", "top_k", "top_p", "min_p", "typical_p", "repeat_penalty"),
    *("presence_penalty", "frequency_penalty", "grammar", "json_schema", "ignore_eos"),
    *("dynatemp_range", "dynatemp_exponent", "top_n_sigma", "dry_multiplier", "dry_base"),
    *("dry_allowed_length", "dry_penalty_last_n", "dry_sequence_breakers", "xtc_probability"),
    *("xtc_threshold", "mirostat", "mirostat_tau", "mirostat_eta"),
)


class LlamaCompletionRequest(LlamaSampling):
    """For `/completion`."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"prompt": "Once upon a time", "n_predict": 32}]}
    )

    prompt: (
        str | TokenIds | Mixed | Annotated[Items[str | TokenIds | Mixed], Field(min_length=1)]
    ) = Field(description="A text, token ids, a list of both, or several prompts.")

    def prompts(self) -> list[str | list[int | str]]:
        """Each prompt, as a text, or a list of texts and token ids."""
        given: Any = self.prompt
        if isinstance(given, str):
            return [given]
        is_several = all(isinstance(one, str) for one in given)
        if is_several or any(isinstance(one, list) for one in given):
            return list(given)
        return [given]


class InfillFile(Body):
    """Another file of the project."""

    text: str
    filename: str | None = None


class InfillRequest(LlamaSampling):
    """For `/infill`: text between a prefix and a suffix."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"input_prefix": "def f():\n", "input_suffix": "    return x\n"}]
        }
    )

    input_prefix: str
    input_suffix: str
    input_extra: Annotated[Items[InfillFile], Field(max_length=1024)] | None = None
    prompt: str | None = Field(None, description="Goes on from the prefix.")
    n_indent: int | None = _unused()

    def files(self) -> list[tuple[str, str]]:
        """Names and contents of other files."""
        return [(file.filename or "tmp", file.text) for file in self.input_extra or []]


class RerankRequest(Body):
    """For `/v1/rerank`: how well documents answer a query."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"query": "What is a fox?", "documents": ["An animal.", "A colour."]}]
        }
    )

    model: str | None = None
    query: Annotated[str, Field(min_length=1)]
    documents: Annotated[Items[str], Field(min_length=1)] | None = None
    texts: Annotated[Items[str], Field(min_length=1)] | None = Field(
        None, description="Another name of `documents`, which is answered in the form of TEI."
    )
    top_n: int | None = Field(None, ge=1, description="Most results; by default all.")
    return_documents: bool | None = False
    return_text: bool | None = Field(False, description="With `texts`, as `return_documents`.")


def encode_mixed(vocab: Vocab, prompt: Sequence[int | str]) -> list[int]:
    """Token ids of texts and token ids; BOS stands before a text that comes first."""
    ids: list[int] = []
    for i, one in enumerate(prompt):
        if isinstance(one, str):
            bos = vocab.adds_bos and i == 0
            ids += vocab.encode(one, add_bos=bos, add_eos=False, parse_special=True)
        else:
            ids.append(one)
    return ids


def _biases(
    given: Mapping[str, float | bool] | Sequence[Sequence[int | str | float | bool]] | None,
    vocab: Vocab,
) -> dict[str, float] | None:
    """By token id as text, which is how OpenAI's API has them."""
    if given is None:
        return None
    biases: dict[str, float] = {}
    pairs = given.items() if isinstance(given, Mapping) else given
    for i, pair in enumerate(pairs):
        if len(pair) != 2:
            raise APIError(400, f"logit_bias.{i}: expected a token and a bias", param="logit_bias")
        token, bias = pair
        if not isinstance(bias, (int, float)):
            raise APIError(400, f"logit_bias.{i}: expected a number, or false", param="logit_bias")
        value = _BAN if bias is False else max(min(bias, -_BAN), _BAN)
        for id in _ids_of(token, vocab):
            biases[str(id)] = float(value)
    return biases


def _ids_of(token: int | str | float, vocab: Vocab) -> list[int]:
    is_id = isinstance(token, str) and token.isdecimal() and token.isascii() and len(token) < 10
    if isinstance(token, str) and not is_id:
        return vocab.encode(token, add_special=False, parse_special=True)
    return [int(token)]
