"""A client that asks a server for answers of a chat, and what it sees of them."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from lib.questions import Question

SECONDS_MOST = 600.0


@dataclass(frozen=True)
class Answered:
    """What a client saw of one answer."""

    n_tokens: int
    first_s: float
    total_s: float


def ask(url: str, question: Question, n_tokens: int) -> Answered:
    body = body_of(question.messages, n_tokens) | {
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    started_s = time.perf_counter()
    first_s, last = 0.0, {}
    for event in events(url, body):
        if not first_s and b'"content":"' in event and b'"content":""' not in event:
            first_s = time.perf_counter() - started_s
        if b'"usage":{' in event:
            last = json.loads(event)
    usage = last["usage"]
    return Answered(usage["completion_tokens"], first_s, time.perf_counter() - started_s)


def body_of(messages: list[dict[str, Any]], n_tokens: int) -> dict[str, Any]:
    return {"messages": messages, "max_tokens": n_tokens, "temperature": 0.0}


def events(url: str, body: dict[str, Any]) -> Iterator[bytes]:
    with posted(url, body) as response:
        for line in response:
            if line.startswith(b"data: {"):
                yield line[6:]


@contextmanager
def posted(url: str, body: dict[str, Any]) -> Iterator[http.client.HTTPResponse]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=SECONDS_MOST)
    try:
        head = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), head)
        response = connection.getresponse()
        if response.status != 200:
            raise RuntimeError(f"{response.status}: {response.read()[:500]!r}")
        yield response
    finally:
        connection.close()
