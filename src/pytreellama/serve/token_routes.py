"""`/tokenize`, `/detokenize` and `/apply-template`: from texts to tokens, and back."""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter, Request
from starlette.responses import Response

from pytreellama.serve.answers import AppliedTemplate, Detokenized, TokenPiece, Tokens
from pytreellama.serve.bodies import JsonRoute, caller_of
from pytreellama.serve.errors import APIError
from pytreellama.serve.openapi import answers_of
from pytreellama.serve.requests import ChatRequest, DetokenizeRequest, TokenizeRequest
from pytreellama.serve.service import Service, json_response


def token_router(service: Service) -> APIRouter:
    """The routes, for an app."""
    router = APIRouter(tags=["tokens"], route_class=JsonRoute)

    @router.post("/tokenize", responses=answers_of(Tokens))
    async def tokenize(body: TokenizeRequest, request: Request) -> Response:
        """Token ids of a text or of a chat."""
        caller = caller_of(request)
        return await caller.finish(caller.run(partial(_tokenize, service, body)))

    @router.post("/detokenize", responses=answers_of(Detokenized))
    async def detokenize(body: DetokenizeRequest, request: Request) -> Response:
        """The text of token ids."""
        caller = caller_of(request)
        return await caller.finish(caller.run(partial(_detokenize, service, body)))

    @router.post("/apply-template", responses=answers_of(AppliedTemplate))
    async def apply_template(body: ChatRequest, request: Request) -> Response:
        """The text that a chat becomes, up to where the answer begins."""
        caller = caller_of(request)
        return await caller.finish(caller.run(partial(_apply_template, service, body)))

    return router


def _tokenize(service: Service, body: TokenizeRequest) -> Response:
    service.require_model(body.model)
    vocab = service.engine.engine.vocab
    given = [one for one in (body.content, body.prompt, body.messages) if one is not None]
    if len(given) != 1:
        raise APIError(400, "give one of content, prompt and messages", param="content")
    if body.messages is not None:
        ids = service.chat_prompts.tokens(body.messages)
    else:
        text = body.content if body.content is not None else body.prompt or ""
        service.text_limit.check_bytes(text)
        ids = vocab.encode(
            text,
            add_special=bool(body.add_special),
            parse_special=body.parse_special is not False,
        )
    tokens: list[int] | list[TokenPiece] = ids
    if body.with_pieces:
        tokens = [TokenPiece(id=token, piece=_piece(vocab.pieces[token])) for token in ids]
    answer = Tokens(tokens=tokens, count=len(ids), max_model_len=service.text_limit.n_tokens)
    return json_response(answer)


def _piece(piece: bytes) -> str | list[int]:
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return list(piece)


def _detokenize(service: Service, body: DetokenizeRequest) -> Response:
    service.require_model(body.model)
    text = service.engine.engine.vocab.decode(body.tokens, special=True)
    return json_response(Detokenized(content=text))


def _apply_template(service: Service, body: ChatRequest) -> Response:
    service.require_model(body.model)
    return json_response(AppliedTemplate(prompt=service.chat_prompts.text(body.messages, body)))
