"""`/completion`, `/infill` and `/v1/rerank`: llama-server's own API."""

from __future__ import annotations

import math
from functools import partial

from fastapi import APIRouter, Request
from starlette.responses import Response

from pytreellama.engine.jobs import ScoreJob
from pytreellama.serve.answers import Usage
from pytreellama.serve.bodies import JsonRoute, caller_of
from pytreellama.serve.callers import Caller
from pytreellama.serve.errors import APIError
from pytreellama.serve.evaluation_routes import evaluate, require_few
from pytreellama.serve.infill import infill_prompt
from pytreellama.serve.openapi import answers_of
from pytreellama.serve.protocols.llama_answers import (
    LlamaCompletion,
    LlamaCompletions,
    LlamaPiece,
    RerankAnswer,
    RerankDocument,
    Reranked,
    RerankedText,
    RerankList,
)
from pytreellama.serve.protocols.llama_requests import (
    InfillRequest,
    LlamaCompletionRequest,
    LlamaSampling,
    RerankRequest,
    encode_mixed,
)
from pytreellama.serve.protocols.llama_writer import LlamaWriter
from pytreellama.serve.request_queue import AnswerOptions
from pytreellama.serve.service import Service, json_response, respond
from pytreellama.serve.stream_forms import LLAMA_SERVER


def llama_router(service: Service) -> APIRouter:
    """The routes of texts, for an app."""
    router = APIRouter(tags=["llama-server"], route_class=JsonRoute)

    @router.post(
        "/completion", responses=answers_of(LlamaCompletions, streams=True, chunk=LlamaPiece)
    )
    async def completion(body: LlamaCompletionRequest, request: Request) -> Response:
        """Continue one prompt or several, in llama-server's form."""
        return await _respond(service, body, request)

    @router.post("/infill", responses=answers_of(LlamaCompletion, streams=True, chunk=LlamaPiece))
    async def infill(body: InfillRequest, request: Request) -> Response:
        """Write what stands between a prefix and a suffix."""
        return await _respond(service, body, request)

    return router


def rerank_router(service: Service) -> APIRouter:
    """The route of reranking, for an app."""
    router = APIRouter(tags=["evaluation"], route_class=JsonRoute)

    @router.post("/rerank", responses=answers_of(RerankAnswer))
    async def rerank(body: RerankRequest, request: Request) -> Response:
        """Order documents by how well they answer a query."""
        caller = caller_of(request)
        return await caller.finish(_rerank(service, body, caller))

    return router


async def _respond(service: Service, body: LlamaSampling, request: Request) -> Response:
    is_constrained = body.grammar is not None or body.json_schema is not None
    caller = caller_of(request).slow(is_constrained)
    writer = await caller.finish(_begin(service, body, caller))
    return await respond(service, request, writer, streams=bool(body.stream), form=LLAMA_SERVER)


async def _begin(service: Service, body: LlamaSampling, caller: Caller) -> LlamaWriter:
    service.require_model(body.model)
    n_prompts = len(body.prompts()) if isinstance(body, LlamaCompletionRequest) else 1
    service.queue.check_room(n_prompts, 1)
    asked = await caller.run(partial(_prepare, service, body))
    answers = await service.queue.begin(asked, caller)
    return LlamaWriter(service, asked, answers, returns_tokens=bool(body.return_tokens))


def _prepare(service: Service, body: LlamaSampling) -> AnswerOptions:
    prompts = _prompts(service, body)
    wanted = body.request(service.engine.engine.vocab)
    max_tokens = service.max_tokens(wanted.max_tokens, None, max(map(len, prompts)))
    options = wanted.options(max_tokens, wanted.logprobs, service.settings.sampling)
    return AnswerOptions(
        prompts, 1, options, bool(body.stream), wants_progress=bool(body.return_progress)
    )


def _prompts(service: Service, body: LlamaSampling) -> list[list[int]]:
    if isinstance(body, InfillRequest):
        prefix = body.input_prefix + (body.prompt or "")
        return [infill_prompt(service, prefix, body.input_suffix, body.files())]
    assert isinstance(body, LlamaCompletionRequest)
    return [_prompt(service, one) for one in body.prompts()]


def _prompt(service: Service, prompt: str | list[int | str]) -> list[int]:
    if isinstance(prompt, str):
        if not prompt:
            raise APIError(400, "prompt: expected a text that is not empty", param="prompt")
        return service.text_limit.encode(prompt)
    service.text_limit.check_bytes(*(one for one in prompt if isinstance(one, str)))
    return service.text_limit.encode(encode_mixed(service.engine.engine.vocab, prompt))


# -- reranking


async def _rerank(service: Service, body: RerankRequest, caller: Caller) -> Response:
    service.require_model(body.model)
    if (body.documents is None) == (body.texts is None):
        raise APIError(400, "give either documents or texts", param="documents")
    documents = body.documents or body.texts or []
    require_few(service, len(documents), "documents")
    scores: list[float] = []
    n_tokens = 0
    for document in documents:
        job = await caller.run(partial(_query_job, service, body.query, document))
        await evaluate(service, job, caller)
        (one,) = job.scores
        scores.append(math.exp(one.logp / len(one.tokens)))
        n_tokens += job.stats.n_prompt + len(one.tokens)
    best = sorted(range(len(scores)), key=lambda i: -scores[i])[: body.top_n]
    if body.texts is not None:
        return json_response(
            RerankAnswer(
                [
                    RerankedText(
                        index=i, score=scores[i], text=documents[i] if body.return_text else None
                    )
                    for i in best
                ]
            )
        )
    results = [Reranked(index=i, relevance_score=scores[i]) for i in best]
    if body.return_documents:
        for one_result in results:
            one_result.document = RerankDocument(text=documents[one_result.index])
    usage = Usage(prompt_tokens=n_tokens, total_tokens=n_tokens)
    return json_response(
        RerankList(model=service.settings.model_name, results=results, usage=usage)
    )


def _query_job(service: Service, query: str, document: str) -> ScoreJob:
    """Scores the query as a question about the document (Sachan et al. 2022, arXiv:2204.07496)."""
    limit = service.text_limit
    prompt = limit.encode(
        f"Passage: {document}\nPlease write a question based on this passage.\nQuestion:",
        parse_special=False,
    )
    continuation = limit.encode_continuation(f" {query}", parse_special=False)
    return service.engine.engine.score_job(prompt, [continuation])
