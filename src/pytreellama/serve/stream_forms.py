"""Stream forms: how the events of a stream, errors among them, are written in each protocol."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pytreellama.serve.answers import ErrorBody
from pytreellama.serve.error_forms import anthropic_error, ollama_error

Event = dict[str, Any]


@dataclass(frozen=True, slots=True)
class StreamForm:
    """How a stream is written.

    Attributes:
        write: the bytes of an event.
        error: the event of an error in mid-stream, from its status and body.
        end: bytes after the last event.
        is_lines: the stream is JSON lines, not server-sent events.
    """

    write: Callable[[Event], bytes]
    error: Callable[[int, ErrorBody], Event]
    end: bytes = b""
    is_lines: bool = False


def _json(event: Event) -> str:
    return json.dumps(event, separators=(",", ":"))


def _unnamed(event: Event) -> bytes:
    return f"data: {_json(event)}\n\n".encode()


def _named(event: Event) -> bytes:
    """An event that is named by its type."""
    return f"event: {event['type']}\ndata: {_json(event)}\n\n".encode()


def _line(event: Event) -> bytes:
    return f"{_json(event)}\n".encode()


def _plain_error(status: int, body: ErrorBody) -> Event:
    return body.model_dump()


def _responses_error(status: int, body: ErrorBody) -> Event:
    facts = body.error
    return {
        "type": "error",
        "code": facts.code or facts.type,
        "message": facts.message,
        "param": facts.param,
        "sequence_number": 0,
    }


OPENAI = StreamForm(_unnamed, _plain_error, b"data: [DONE]\n\n")
LLAMA_SERVER = StreamForm(_unnamed, _plain_error)
ANTHROPIC = StreamForm(_named, anthropic_error)
RESPONSES = StreamForm(_named, _responses_error)
OLLAMA = StreamForm(_line, ollama_error, is_lines=True)
