"""`/v1/embeddings` and `/v1/score`: what the model makes of texts, without writing any."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from functools import partial

from fastapi import APIRouter, Request
from starlette.responses import Response

from pytreellama.engine import Generation
from pytreellama.engine.jobs import EmbedJob, EvaluationJob, ScoreJob
from pytreellama.serve.answers import Embedded, EmbeddingList, Scored, ScoreList, Usage
from pytreellama.serve.bodies import JsonRoute, caller_of
from pytreellama.serve.callers import Caller
from pytreellama.serve.errors import APIError, api_error_of
from pytreellama.serve.openapi import answers_of
from pytreellama.serve.requests import EmbeddingRequest, ScoreRequest, as_prompts
from pytreellama.serve.service import Service, json_response


def evaluation_router(service: Service) -> APIRouter:
    """The routes, for an app."""
    router = APIRouter(tags=["evaluation"], route_class=JsonRoute)

    @router.post("/embeddings", responses=answers_of(EmbeddingList))
    async def embeddings(body: EmbeddingRequest, request: Request) -> Response:
        """Vectors of texts: hidden states of the model, pooled, of length 1."""
        caller = caller_of(request)
        return json_response(await caller.finish(embed(service, body, caller)))

    @router.post("/score", responses=answers_of(ScoreList))
    async def score(body: ScoreRequest, request: Request) -> Response:
        """Log-probabilities of continuations of one prompt: one tree, in one pass."""
        caller = caller_of(request)
        return await caller.finish(_score(service, body, caller))

    return router


async def embed(service: Service, body: EmbeddingRequest, caller: Caller) -> EmbeddingList:
    """Vectors of texts.

    Raises:
        APIError: the request cannot be served.
    """
    service.require_model(body.model)
    engine = service.engine.engine
    n_values = engine.model.n_embd_out
    if body.dimensions not in (None, n_values):
        raise APIError(400, f"this model's vectors have {n_values} dimensions", param="dimensions")
    texts = as_prompts(body.input)
    require_few(service, len(texts), "input")

    parses = body.parse_special is not False

    def embed_job(text: str | list[int]) -> EmbedJob:
        ids = service.text_limit.encode(text, add_eos=True, parse_special=parses)
        return engine.embed_job(ids)

    jobs = [await caller.run(partial(embed_job, text)) for text in texts]
    for job in jobs:
        await evaluate(service, job, caller)
    return await caller.run(partial(_embedded, service, body, jobs))


def _embedded(service: Service, body: EmbeddingRequest, jobs: Sequence[EmbedJob]) -> EmbeddingList:
    vectors: list[list[float] | str] = [
        base64.b64encode(job.embedding.tobytes()).decode()
        if body.encoding_format == "base64"
        else job.embedding.tolist()
        for job in jobs
    ]
    n_tokens = sum(job.stats.n_prompt for job in jobs)
    return EmbeddingList(
        data=[Embedded(index=i, embedding=vector) for i, vector in enumerate(vectors)],
        model=service.settings.model_name,
        usage=Usage(prompt_tokens=n_tokens, total_tokens=n_tokens),
    )


async def _score(service: Service, body: ScoreRequest, caller: Caller) -> Response:
    service.require_model(body.model)
    if (body.prompt is None) == (body.messages is None):
        raise APIError(400, "give either a prompt or messages", param="prompt")
    require_few(service, len(body.continuations), "continuations")
    prompt = await caller.run(partial(_prompt, service, body))
    parses = body.parse_special is not False
    encode = partial(service.text_limit.encode_continuation, parse_special=parses)
    continuations = [await caller.run(partial(encode, one)) for one in body.continuations]
    job = await caller.run(partial(service.engine.engine.score_job, prompt, continuations))
    await evaluate(service, job, caller)
    return await caller.run(partial(_scored, service, job))


def _prompt(service: Service, body: ScoreRequest) -> list[int]:
    if body.messages is not None:
        return service.chat_prompts.tokens(body.messages)
    assert body.prompt is not None
    return service.text_limit.encode(body.prompt, parse_special=body.parse_special is not False)


def _scored(service: Service, job: ScoreJob) -> Response:
    data = [
        Scored(
            index=i,
            logprob=one.logp,
            tokens=list(one.tokens),
            token_texts=list(map(service.engine.engine.vocab.piece_text, one.tokens)),
            token_logprobs=one.logps.tolist(),
        )
        for i, one in enumerate(job.scores)
    ]
    n_prompt = job.stats.n_prompt
    n_scored = sum(len(one.tokens) for one in job.scores)
    usage = Usage(
        prompt_tokens=n_prompt, completion_tokens=n_scored, total_tokens=n_prompt + n_scored
    )
    return json_response(ScoreList(data=data, model=service.settings.model_name, usage=usage))


async def evaluate(service: Service, job: EvaluationJob, caller: Caller) -> None:
    """Run a job; its result is there afterwards.

    Raises:
        APIError: what the engine refuses, or too much at once.
    """
    submit = partial(service.engine.engine.submit_job, job, wait=False)
    try:
        await service.engine.finish(await caller.run(submit, drop=Generation.cancel))
    except Exception as error:
        raise api_error_of(error, service.queue.retry_after_s) from error


def require_few(service: Service, n_texts: int, param: str) -> None:
    """Raise APIError for more texts than one request may have."""
    most = service.settings.n_continuations_max
    if n_texts > most:
        raise APIError(
            400, f"{n_texts} were given; this server takes {most} in one request", param=param
        )
