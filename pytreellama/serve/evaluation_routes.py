"""`/v1/embeddings` and `/v1/score`: what the model makes of texts, without writing any."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable
from typing import TypeVar

from fastapi import APIRouter, Request
from starlette.responses import Response

from pytreellama.serve.answers import Embedded, EmbeddingList, Scored, ScoreList, Usage
from pytreellama.serve.faults import Fault, fault_of
from pytreellama.serve.openapi import answers_of
from pytreellama.serve.requests import EmbeddingRequest, ScoreRequest, as_prompts
from pytreellama.serve.service import Service, json_response
from pytreellama.serve.writing import unless_gone

_T = TypeVar("_T")


def evaluation_router(service: Service) -> APIRouter:
    """The routes, for an app."""
    router = APIRouter(prefix="/v1", tags=["evaluation"])

    @router.post("/embeddings", responses=answers_of(EmbeddingList))
    async def embeddings(body: EmbeddingRequest, request: Request) -> Response:
        """Vectors of texts: hidden states of the model, pooled, of length 1."""
        return json_response(await unless_gone(request, _embed(service, body)))

    @router.post("/score", responses=answers_of(ScoreList))
    async def score(body: ScoreRequest, request: Request) -> Response:
        """Log-probabilities of continuations of one prompt: one tree, in one pass."""
        return json_response(await unless_gone(request, _score(service, body)))

    return router


async def _embed(service: Service, body: EmbeddingRequest) -> EmbeddingList:
    service.require_model(body.model)
    engine = service.engine.engine
    n_values = engine.model.n_embd_out
    if body.dimensions not in (None, n_values):
        raise Fault(400, f"this model's vectors have {n_values} dimensions", param="dimensions")
    texts = [engine.encode_prompt(text) for text in as_prompts(body.input)]
    _require_few(service, len(texts), "input")
    for text in texts:
        service.desk.check_length(text)
    states = await _in_time(service, service.engine.embed(texts, wait=False))
    vectors: list[list[float] | str] = [
        base64.b64encode(state.tobytes()).decode()
        if body.encoding_format == "base64"
        else state.tolist()
        for state in states
    ]
    n_tokens = sum(map(len, texts))
    return EmbeddingList(
        data=[Embedded(index=i, embedding=vector) for i, vector in enumerate(vectors)],
        model=service.settings.model_name,
        usage=Usage(prompt_tokens=n_tokens, total_tokens=n_tokens),
    )


async def _score(service: Service, body: ScoreRequest) -> ScoreList:
    service.require_model(body.model)
    engine, vocab = service.engine.engine, service.engine.engine.vocab
    if (body.prompt is None) == (body.messages is None):
        raise Fault(400, "give either a prompt or messages", param="prompt")
    if body.messages is not None:
        prompt = service.chat_prompts.tokens(body.messages)
    else:
        assert body.prompt is not None
        prompt = engine.encode_prompt(body.prompt)
    _require_few(service, len(body.continuations), "continuations")
    service.desk.check_length(prompt)
    scores = await _in_time(service, service.engine.score(prompt, body.continuations, wait=False))
    data = [
        Scored(
            index=i,
            logprob=one.logp,
            tokens=list(one.tokens),
            token_texts=list(map(vocab.piece_text, one.tokens)),
            token_logprobs=one.logps.tolist(),
        )
        for i, one in enumerate(scores)
    ]
    n_prompt, n_scored = len(prompt), sum(len(one.tokens) for one in scores)
    return ScoreList(
        data=data,
        model=service.settings.model_name,
        usage=Usage(
            prompt_tokens=n_prompt,
            completion_tokens=n_scored,
            total_tokens=n_prompt + n_scored,
        ),
    )


async def _in_time(service: Service, work: Awaitable[_T]) -> _T:
    """Wait for it, as long as a request may take."""
    limit_s = service.settings.request_s
    try:
        return await asyncio.wait_for(work, limit_s)
    except asyncio.TimeoutError:
        raise Fault(
            503,
            f"it was not done within {limit_s:g} seconds; the server is too busy",
            code="timeout",
            retry_after_s=service.desk.retry_after_s,
        ) from None
    except Exception as error:
        raise fault_of(error, service.desk.retry_after_s) from error


def _require_few(service: Service, n_texts: int, param: str) -> None:
    most = service.settings.n_continuations_max
    if n_texts > most:
        raise Fault(
            400, f"{n_texts} were given; this server takes {most} in one request", param=param
        )
