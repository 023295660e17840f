"""Chats in other protocols: their requests run as chats, and what is written takes their form."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Protocol

from fastapi import Request
from pydantic import BaseModel
from starlette.responses import Response

from pytreellama.serve.callers import Caller
from pytreellama.serve.chat_routes import ChatWriter, begin_chat
from pytreellama.serve.protocols.pieces import ChatPiece, piece_of_chunk, piece_of_completion
from pytreellama.serve.requests import ChatRequest, CompletionRequest
from pytreellama.serve.service import Service, respond
from pytreellama.serve.stream_forms import Event, StreamForm
from pytreellama.serve.text_routes import TextWriter, begin_text


class ChatTranslator(Protocol):
    """Puts one answer to a chat into a protocol's form: as a whole, or piece by piece."""

    def whole(self, piece: ChatPiece) -> BaseModel:
        """The answer of which ``piece`` is all."""
        ...

    def begin(self, n_prompt: int) -> Iterator[Event]:
        """The events before anything is written."""
        ...

    def push(self, piece: ChatPiece) -> Iterator[Event]:
        """The events of what was written; the last piece has the usage."""
        ...

    def finish(self) -> Iterator[Event]:
        """The events at the end."""
        ...


async def respond_chat(
    service: Service,
    request: Request,
    caller: Caller,
    chat: ChatRequest,
    translator: ChatTranslator,
    form: StreamForm,
) -> Response:
    """Run a chat, and respond in a protocol's form."""
    writer = TranslatedWriter(await begin_chat(service, chat, caller), translator)
    return await respond(service, request, writer, streams=bool(chat.stream), form=form)


async def respond_text(
    service: Service,
    request: Request,
    caller: Caller,
    text: CompletionRequest,
    translator: ChatTranslator,
    form: StreamForm,
) -> Response:
    """Continue a text, and respond in a protocol's form."""
    writer = TranslatedWriter(await begin_text(service, text, caller), translator)
    return await respond(service, request, writer, streams=bool(text.stream), form=form)


class TranslatedWriter:
    """A writer whose answers and events are a protocol's."""

    def __init__(self, writer: ChatWriter | TextWriter, translator: ChatTranslator) -> None:
        self._writer = writer
        self._translator = translator
        self.answers = writer.answers

    async def whole(self) -> BaseModel:
        """See Writer."""
        return self._translator.whole(piece_of_completion(await self._writer.whole()))

    async def events(self) -> AsyncGenerator[Event]:
        """See Writer."""
        async with aclosing(self._writer.events()) as chunks:
            for event in self._translator.begin(self._writer.n_prompt):
                yield event
            async for chunk in chunks:
                for event in self._translator.push(piece_of_chunk(chunk)):
                    yield event
            for event in self._translator.finish():
                yield event
