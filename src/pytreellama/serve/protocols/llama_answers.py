"""llama-server's own API: what its clients get."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, Field, RootModel

from pytreellama.engine import Chunk, TokenLogp
from pytreellama.model.vocab import Vocab
from pytreellama.serve.answers import Answered, PrefillProgress, Timings, Usage
from pytreellama.serve.logprobs import top_logprob

StopType = Literal["none", "eos", "limit", "word"]


class LlamaTop(BaseModel):
    """A token that could have come."""

    id: int
    token: str
    bytes: list[int]
    logprob: float


class LlamaTokenProbability(LlamaTop):
    """A token that came, and the likeliest there."""

    top_logprobs: list[LlamaTop]


class LlamaPiece(Answered):
    """The next piece of a text."""

    left_out = frozenset({"completion_probabilities", "prompt_progress"})

    index: int
    content: str
    tokens: list[int] = Field(description="With `return_tokens`, and in streams.")
    stop: bool = False
    id_slot: int = -1
    tokens_predicted: int
    tokens_evaluated: int
    completion_probabilities: list[LlamaTokenProbability] | None = None
    prompt_progress: PrefillProgress | None = None


class LlamaCompletion(LlamaPiece):
    """Of `/completion` and `/infill`; in a stream, the last event's data."""

    stop: bool = True
    model: str
    prompt: str
    generation_settings: dict[str, Any]
    has_new_line: bool
    truncated: bool = False
    stop_type: StopType
    stopping_word: str
    tokens_cached: int
    timings: Timings


class LlamaCompletions(RootModel[LlamaCompletion | list[LlamaCompletion]]):
    """Of `/completion`: a list, where several prompts were given."""


class RerankDocument(BaseModel):
    """A document's text."""

    text: str


class Reranked(Answered):
    """A document's place in the request, and how well it answers."""

    left_out = frozenset({"document"})

    index: int
    relevance_score: float
    document: RerankDocument | None = None


class RerankList(BaseModel):
    """Of `/v1/rerank`, the best document first."""

    object: Literal["list"] = "list"
    model: str
    results: list[Reranked]
    usage: Usage


class RerankedText(Answered):
    """One of `texts`, in the form of TEI."""

    left_out = frozenset({"text"})

    index: int
    score: float
    text: str | None = None


class RerankAnswer(RootModel[RerankList | list[RerankedText]]):
    """Of `/v1/rerank`: a list, where `texts` were given."""


def stop_type_of(chunk: Chunk) -> StopType:
    """Why a text ended."""
    if chunk.stop_string is not None:
        return "word"
    if chunk.finish_reason is None:
        return "none"
    return "eos" if chunk.finish_reason == "stop" else "limit"


def probabilities(
    vocab: Vocab, logps: Sequence[TokenLogp] | None
) -> list[LlamaTokenProbability] | None:
    """Of each token that was written, if they were asked for."""
    if logps is None:
        return None
    return [
        LlamaTokenProbability(
            **_facts(vocab, one.token, one.logp),
            top_logprobs=[LlamaTop(**_facts(vocab, *top)) for top in one.top],
        )
        for one in logps
    ]


def _facts(vocab: Vocab, token: int, logp: float) -> dict[str, Any]:
    return {"id": token, **top_logprob(vocab, token, logp).model_dump()}
