"""What clients get: OpenAI's objects, and this server's own."""

from __future__ import annotations

import secrets
import time
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field, SerializerFunctionWrapHandler, model_serializer

from pytreellama.serve.messages import FunctionCall

Finish = Literal["stop", "length", "tool_calls"]

_STOP_REASON = "Not OpenAI's: the stop string that ended the text, under vLLM's name."


def new_id(kind: str, mark: str = "-") -> str:
    """An id such as ``chatcmpl-3f...``."""
    return f"{kind}{mark}{secrets.token_hex(12)}"


def now() -> int:
    """Seconds since 1970."""
    return int(time.time())


class Answered(BaseModel):
    """An object of an answer. Some fields are left out where they are None, the others null."""

    left_out: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _without(self, handler: SerializerFunctionWrapHandler):  # type: ignore[no-untyped-def]
        # an annotated result would stand in the OpenAPI document in the fields' place
        values = handler(self)
        return {
            name: value
            for name, value in values.items()
            if value is not None or name not in self.left_out
        }


class PromptDetails(BaseModel):
    """Of the prompts' tokens, those that were in the cache already."""

    cached_tokens: int


class CompletionDetails(BaseModel):
    """Guessed tokens that were verified: those that the text went on with, and the others."""

    accepted_prediction_tokens: int
    rejected_prediction_tokens: int


class Usage(Answered):
    """Counts of tokens."""

    left_out = frozenset({"prompt_tokens_details", "completion_tokens_details"})

    prompt_tokens: int
    completion_tokens: int = 0
    total_tokens: int
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: CompletionDetails | None = None


class Timings(BaseModel):
    """What an answer took, under llama-server's names; times in milliseconds."""

    cache_n: int = Field(description="Prompt tokens found in the prefix cache.")
    prompt_n: int = Field(description="Prompt tokens that were prefilled.")
    prompt_ms: float
    prompt_per_second: float
    predicted_n: int
    predicted_ms: float
    predicted_per_second: float
    draft_n: int
    draft_n_accepted: int


class PrefillProgress(BaseModel):
    """How far a prompt's prefill is, under llama-server's names."""

    total: int = Field(description="Tokens of the prompt.")
    cache: int = Field(description="Of these, tokens found in the prefix cache.")
    processed: int = Field(description="Tokens in the KV cache, these included.")
    time_ms: int


class TopLogprob(BaseModel):
    """A token that could have come."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    """A token that came, and the likeliest there."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    """Of each token of the answer."""

    content: list[TokenLogprob] | None
    refusal: None = None


class TextLogprobs(BaseModel):
    """Of each token of the text, in the older form."""

    tokens: list[str]
    token_logprobs: list[float | None] = Field(description="Null for a prompt's first token.")
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class PromptLogprob(BaseModel):
    """Of a prompt's token, or one of the likeliest there, in vLLM's form."""

    logprob: float
    rank: int
    decoded_token: str


class TextChoice(Answered):
    """One text, or the next piece of it."""

    left_out = frozenset({"prompt_logprobs"})

    index: int
    text: str
    logprobs: TextLogprobs | None = None
    finish_reason: Finish | None = None
    stop_reason: str | None = Field(default=None, description=_STOP_REASON)
    prompt_logprobs: list[dict[str, PromptLogprob] | None] | None = None


class Steps(BaseModel):
    """This server's own: what happened at the steps behind a chunk."""

    steps: list[dict[str, Any]] = Field(description="Each verified tree; see docs/serve.md.")


class Headed(Answered):
    """What answers to requests for text begin with, in this order."""

    id: str
    object: str
    created: int
    model: str
    system_fingerprint: str


class TextCompletion(Headed):
    """Of `/v1/completions`; with `stream`, each event's data is one with the next pieces."""

    left_out = frozenset({"usage", "timings", "pytreellama", "prompt_progress"})

    object: Literal["text_completion"] = "text_completion"
    choices: list[TextChoice]
    usage: Usage | None = None
    timings: Timings | None = None
    pytreellama: Steps | None = None
    prompt_progress: PrefillProgress | None = None


class CalledFunction(FunctionCall):
    """A function's name, and its arguments as JSON text."""


class AnswerCall(BaseModel):
    """A call that the model asks for."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class AnswerMessage(Answered):
    """What the model answers."""

    left_out = frozenset({"tool_calls", "reasoning_content"})

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    reasoning_content: str | None = None
    tool_calls: list[AnswerCall] | None = None


class ChatChoice(BaseModel):
    """One answer."""

    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: Finish
    stop_reason: str | None = Field(default=None, description=_STOP_REASON)


class ChatCompletion(Headed):
    """Of `/v1/chat/completions`."""

    object: Literal["chat.completion"] = "chat.completion"
    choices: list[ChatChoice]
    usage: Usage
    timings: Timings


class DeltaFunction(Answered):
    """The name in the first piece of a call, and further text of its arguments."""

    left_out = frozenset({"name"})

    name: str | None = None
    arguments: str


class DeltaCall(Answered):
    """The next piece of a call: its id and type are in the first one."""

    left_out = frozenset({"id", "type"})

    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: DeltaFunction


class Delta(Answered):
    """The next piece of an answer."""

    left_out = frozenset({"role", "content", "reasoning_content", "tool_calls"})

    role: Literal["assistant"] | None = None
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[DeltaCall] | None = None


class DeltaChoice(BaseModel):
    """Whose next piece it is."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None = None
    finish_reason: Finish | None = None
    stop_reason: str | None = Field(default=None, description=_STOP_REASON)


class ChatChunk(Headed):
    """Of `/v1/chat/completions` with `stream`: each event's data."""

    left_out = frozenset({"usage", "timings", "pytreellama", "prompt_progress"})

    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    choices: list[DeltaChoice]
    usage: Usage | None = None
    timings: Timings | None = None
    pytreellama: Steps | None = None
    prompt_progress: PrefillProgress | None = None


class ModelCard(BaseModel):
    """The model that is served, and this server's own facts of it."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "pytreellama"
    meta: dict[str, int | str] = Field(description="n_ctx, n_ctx_train, n_params, n_vocab...")


class ModelList(BaseModel):
    """Of `/v1/models`."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class Embedded(BaseModel):
    """A text's vector, of length 1: numbers, or their float32 bytes in base64."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingList(BaseModel):
    """Of `/v1/embeddings`."""

    object: Literal["list"] = "list"
    data: list[Embedded]
    model: str
    usage: Usage


class Scored(BaseModel):
    """A continuation's log-probability (natural), in all and by token."""

    object: Literal["score"] = "score"
    index: int
    logprob: float
    tokens: list[int]
    token_texts: list[str]
    token_logprobs: list[float]


class ScoreList(BaseModel):
    """Of `/v1/score`, in the order that was asked for."""

    object: Literal["list"] = "list"
    data: list[Scored]
    model: str
    usage: Usage


class TokenPiece(BaseModel):
    """A token's id and its text; a list of bytes where these are not UTF-8."""

    id: int
    piece: str | list[int]


class Tokens(BaseModel):
    """Of `/tokenize`."""

    tokens: list[int] | list[TokenPiece]
    count: int
    max_model_len: int


class Detokenized(BaseModel):
    """Of `/detokenize`."""

    content: str


class AppliedTemplate(BaseModel):
    """Of `/apply-template`."""

    prompt: str


class Slot(BaseModel):
    """One of the sequences that run at the same time."""

    id: int
    n_ctx: int
    is_processing: bool


class Properties(BaseModel):
    """Of `/props`: what llama-server's clients ask for before anything else."""

    default_generation_settings: dict[str, Any]
    total_slots: int
    model_alias: str
    model_path: str = Field(description="The file's name, without its folder.")
    chat_template: str
    bos_token: str
    eos_token: str
    modalities: dict[str, bool]
    build_info: str


class Health(BaseModel):
    """Of `/health`."""

    status: Literal["ok", "stopped"]


class ErrorFacts(BaseModel):
    """What went wrong, and with what."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """Of every answer with a status of 400 and more."""

    error: ErrorFacts
