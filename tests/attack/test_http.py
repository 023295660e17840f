"""Hostile requests: each is refused or answered, and meanwhile everybody else is served."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the extra: pip install 'pytreellama[serve]'")

import httpx

from pytreellama.model.default_model import default_model_path
from served import Served, served

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
SCORE, EMBEDDINGS = "/v1/score", "/v1/embeddings"
PATIENCE_S = 20.0
"""What /health and others' answers may take on a machine that does other things; not a goal."""
MAX_BODY = 4 << 20
ENGLISH = "The cat sat on the mat, and the dog lay by the door. "
OPTIONS = ("--n-ctx", "4096", "--kept", "0", "--request-time", "15", "--shutdown-time", "5")
FUNCTION = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
SAID = [{"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("attacked")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Served]:
    with served(default_model_path(), folder, *OPTIONS) as one:
        yield one


@pytest.fixture(scope="module")
def watch(server: Served) -> Iterator[_Watch]:
    one = _Watch(server)
    one.start()
    yield one
    one.stop()


@pytest.fixture
def undisturbed(server: Served, watch: _Watch) -> Iterator[None]:
    """All the while /health is answered and a stream goes on, and afterwards all is normal."""
    watch.wait_for_event()
    yield
    watch.wait_for_event()
    failures, watch.failures[:] = list(watch.failures), []
    assert not failures, (failures, server.log)
    require_normal(server)


def post(
    one: Served, path: str, body: object, *, timeout_s: float = 60.0, **headers: str
) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = {"content-type": "application/json", **headers}
    return httpx.post(one.url + path, content=content, headers=sent, timeout=timeout_s)


def require_normal(one: Served) -> None:
    assert one.process.poll() is None, one.log
    answer = post(one, COMPLETIONS, {"prompt": "Once", "max_tokens": 2}, timeout_s=PATIENCE_S)
    assert answer.status_code == 200, answer.text


def require_form(answer: httpx.Response) -> None:
    """An answer, or a refusal in OpenAI's form."""
    if answer.status_code == 200:
        return
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.json()["error"].keys() == {"message", "type", "param", "code"}
    assert len(answer.text) < 2000


class _Watch:
    """Asks for /health again and again, and reads a stream."""

    def __init__(self, one: Served) -> None:
        self._one = one
        self._is_over = threading.Event()
        self.failures: list[Exception] = []
        self.n_events = 0
        self._threads = [
            threading.Thread(target=self._guarded, args=[act])
            for act in (self._ask_health, self._read_stream)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()
        self.wait_for_event()

    def stop(self) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def wait_for_event(self) -> None:
        """Of the stream: one that comes after now."""
        n_events, until_s = self.n_events, time.monotonic() + 4 * PATIENCE_S
        while self.n_events == n_events and not self.failures:
            assert time.monotonic() < until_s, "the stream stands still"
            time.sleep(0.005)

    def _guarded(self, act: Callable[[], None]) -> None:
        while not self._is_over.is_set():
            try:
                act()
            except Exception as error:
                self.failures.append(error)
                time.sleep(0.1)

    def _ask_health(self) -> None:
        httpx.get(f"{self._one.url}/health", timeout=PATIENCE_S).raise_for_status()
        time.sleep(0.02)

    def _read_stream(self) -> None:
        body = {"prompt": "Once", "max_tokens": 1000, "ignore_eos": True, "stream": True}
        url = self._one.url + COMPLETIONS
        with httpx.stream("POST", url, json=body, timeout=2 * PATIENCE_S) as events:
            for line in events.iter_lines():
                self.n_events += line.startswith("data: {")
                if self._is_over.is_set():
                    return


def filled(head: str, element: str, tail: str, n_bytes: int = MAX_BODY - 100) -> bytes:
    """JSON of as many equal elements as fit."""
    n = (n_bytes - len(head) - len(tail)) // (len(element) + 1)
    return (head + ",".join([element] * n) + tail).encode()


def english(n_bytes: int = MAX_BODY - 1000) -> str:
    return ENGLISH * (n_bytes // len(ENGLISH))


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def keys(head: str, tail: str, value: str, n: int) -> bytes:
    return (head + ",".join(f'"{i}":{value}' for i in range(n)) + tail).encode()


_MESSAGE = '{"messages":[{"role":"user","content":'

REFUSED: dict[str, tuple[str, Callable[[], object]]] = {
    "a message of 4 MiB": (
        CHAT,
        lambda: {"messages": [{"role": "user", "content": english()}]},
    ),
    "a prompt of 4 MiB": (COMPLETIONS, lambda: {"prompt": english()}),
    "a prompt of one letter": (COMPLETIONS, lambda: {"prompt": "a" * (MAX_BODY - 1000)}),
    "a prompt of brackets": (COMPLETIONS, lambda: {"prompt": "[{,:" * 1_000_000}),
    "a score of 4 MiB": (SCORE, lambda: {"prompt": english(), "continuations": ["a"]}),
    "a long continuation": (SCORE, lambda: {"prompt": "a", "continuations": [english()]}),
    "an embedding of 4 MiB": (EMBEDDINGS, lambda: {"input": english()}),
    "empty objects": (COMPLETIONS, lambda: filled('{"prompt":[', "{}", "]}")),
    "empty lists": (COMPLETIONS, lambda: filled('{"prompt":[', "[]", "]}")),
    "empty texts": (COMPLETIONS, lambda: filled('{"prompt":[', '""', "]}")),
    "nulls": (COMPLETIONS, lambda: filled('{"prompt":[', "null", "]}")),
    "ids": (COMPLETIONS, lambda: filled('{"prompt":[', "5", "]}")),
    "fewer ids": (COMPLETIONS, lambda: {"prompt": [5] * 900_000}),
    "wrong continuations": (SCORE, lambda: filled('{"prompt":"a","continuations":[', "{}", "]}")),
    "wrong inputs": (EMBEDDINGS, lambda: filled('{"input":[', "{}", "]}")),
    "wrong parts": (CHAT, lambda: filled(_MESSAGE + "[", "{}", "]}]}")),
    "wrong calls": (CHAT, lambda: filled(_MESSAGE + '"a","tool_calls":[', "{}", "]}]}")),
    "unknown fields": (COMPLETIONS, lambda: keys("{", "}", "0", 300_000)),
    "fewer unknown fields": (COMPLETIONS, lambda: keys("{", "}", "0", 60_000)),
    "wrong metadata": (COMPLETIONS, lambda: keys('{"metadata":{', "}}", "0", 60_000)),
    "wrong biases": (
        COMPLETIONS,
        lambda: keys('{"prompt":"a","logit_bias":{', "}}", "1000", 60_000),
    ),
    "biases beyond the vocabulary": (
        COMPLETIONS,
        lambda: {"prompt": "a", "logit_bias": {str(10**8 + i): 1 for i in range(60_000)}},
    ),
    "100,000 biases": (
        COMPLETIONS,
        lambda: {"prompt": "a", "logit_bias": {str(i): 1 for i in range(100_000)}},
    ),
    "100,000 stop strings": (COMPLETIONS, lambda: {"prompt": "a", "stop": ["ab"] * 100_000}),
    "a stop string of a million letters": (
        COMPLETIONS,
        lambda: {"prompt": "a", "stop": "b" * 10**6},
    ),
    "2,040 prompts": (COMPLETIONS, lambda: {"prompt": ["a" * 2000] * 2040}),
    "a billion answers": (COMPLETIONS, lambda: {"prompt": "a", "n": 10**9}),
    "a field with a long name": (COMPLETIONS, lambda: {"prompt": "a", "b" * 4_000_000: 1}),
    "a tool with a long name": (
        CHAT,
        lambda: {"messages": SAID, "tools": [FUNCTION], "tool_choice": named("b" * 4_000_000)},
    ),
    "a long role": (CHAT, lambda: {"messages": [{"role": "b" * 4_000_000, "content": "a"}]}),
    "deep lists": (COMPLETIONS, lambda: b'{"prompt":' + b"[" * 1_000_000),
    "deep objects": (COMPLETIONS, lambda: b'{"prompt":' * 30_000),
    "a deep schema": (
        CHAT,
        lambda: (
            b'{"messages":[{"role":"user","content":"a"}],"response_format":{"type":"json_schema",'
            b'"json_schema":{"schema":' + b'{"items":' * 20_000 + b"1" + b"}" * 20_003
        ),
    ),
    "quotes": (COMPLETIONS, lambda: b'"' * 4_000_000),
    "escaped quotes": (COMPLETIONS, lambda: b'{"prompt":"' + b'\\"' * 2_000_000),
    "half a surrogate pair": (COMPLETIONS, lambda: b'{"prompt":"\\ud800"}'),
    "an integer of 5,000 digits": (COMPLETIONS, lambda: {"prompt": "a", "seed": 10**4000}),
    "a float that is none": (COMPLETIONS, lambda: {"prompt": "a", "top_p": float("nan")}),
    "no UTF-8": (COMPLETIONS, lambda: b'{"prompt":"\xff\xfe"}'),
    "UTF-16": (COMPLETIONS, lambda: '{"prompt":"a"}'.encode("utf-16")),
}
ANSWERED: dict[str, tuple[str, object]] = {
    "a trillion tokens": (COMPLETIONS, {"prompt": "a", "max_tokens": 10**12, "stop": [" ", "\n"]}),
    "the smallest seed": (COMPLETIONS, {"prompt": "a", "max_tokens": 1, "seed": -(2**63)}),
    "many biases": (
        COMPLETIONS,
        {"prompt": "a", "max_tokens": 1, "logit_bias": {str(i): 1 for i in range(49_000)}},
    ),
    "a key twice": (COMPLETIONS, b'{"prompt":"a","max_tokens":2,"max_tokens":1}'),
    "NUL": (COMPLETIONS, {"prompt": "\0" * 100, "max_tokens": 1}),
    "long stop strings": (
        COMPLETIONS,
        {"prompt": "a", "max_tokens": 20, "stop": ["a" * 999 + chr(98 + i) for i in range(16)]},
    ),
}

SHORT = {
    "a message of 4 MiB",
    "a prompt of one letter",
    "a score of 4 MiB",
    "empty objects",
    "nulls",
    "fewer unknown fields",
    "100,000 stop strings",
    "deep lists",
    "an integer of 5,000 digits",
    "a header that never ends",
    "a chunked body that is too large",
}
"""What the short form has of all these; the others are of the same kinds."""


def _long_but(names: Iterable[str], short: set[str]) -> list[Any]:
    marks = {True: [], False: [pytest.mark.long]}
    return [pytest.param(name, marks=marks[name in short]) for name in names]


@pytest.mark.usefixtures("undisturbed")
@pytest.mark.parametrize("name", _long_but(REFUSED, SHORT))
def test_it_is_refused_and_nobody_else_notices(server: Served, name: str) -> None:
    path, body = REFUSED[name]
    answer = post(server, path, body())
    assert answer.status_code == 400, answer.text[:500]
    require_form(answer)


@pytest.mark.parametrize("name", ANSWERED)
def test_it_is_answered(server: Served, name: str) -> None:
    answer = post(server, *ANSWERED[name])
    assert answer.status_code == 200, answer.text[:500]
    require_normal(server)


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/json; charset=utf-8", 200),
        ("APPLICATION/JSON", 200),
        ("application/vnd.api+json", 200),
        ("text/plain", 400),
        ("text/json", 400),
        ("multipart/form-data", 400),
        ("", 400),
        (";", 400),
        ("a" * 5000, 400),
    ],
)
def test_only_json_is_taken_for_it(server: Served, kind: str, status: int) -> None:
    body = {"prompt": "a", "max_tokens": 1}
    headers: dict[str, Any] = {"content-type": kind}
    answer = post(server, COMPLETIONS, body, **headers)
    assert answer.status_code == status
    require_form(answer)


# --- below HTTP ---------------------------------------------------------------------------------

_POST = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
_CHUNKED = _POST + b"Transfer-Encoding: chunked\r\n\r\n"
_CHUNK = b"10000\r\n" + b" " * 65536 + b"\r\n"

RAW: dict[str, tuple[bytes, bytes]] = {
    "a header that never ends": (b"GET /health HTTP/1.1\r\nX: ", b"a" * 65536),
    "headers that never end": (b"GET /health HTTP/1.1\r\n", b"X: a\r\n" * 10_000),
    "an address that never ends": (b"GET /", b"a" * 65536),
    "a chunk's extension that never ends": (_CHUNKED + b"1;", b"a" * 65536),
    "trailers that never end": (_CHUNKED + b"0\r\n", b"X: a\r\n" * 10_000),
    "a chunked body that is too large": (_CHUNKED, _CHUNK),
    "a body larger than it is said to be": (_POST + b"Content-Length: 3\r\n\r\n", b" " * 65536),
    "a length that is too large": (_POST + b"Content-Length: 99999999\r\n\r\n", b" " * 65536),
    "a length of thirty digits": (_POST + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n", b" "),
    "a negative length": (_POST + b"Content-Length: -1\r\n\r\n", b" "),
    "two lengths": (_POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\n", b" "),
    "no HTTP": (b"\x16\x03\x01\x02\x00", b"\x00\xff" * 1000),
}


@pytest.mark.usefixtures("undisturbed")
@pytest.mark.parametrize("name", _long_but(RAW, SHORT))
def test_what_never_ends_is_cut(server: Served, name: str) -> None:
    begin, more = RAW[name]
    answer = exchanged(server, begin, (more for _ in range(512)))
    assert answer is not None, "the server goes on reading"
    assert answer[:12] in (b"", b"HTTP/1.1 400", b"HTTP/1.1 413"), answer


def exchanged(one: Served, begin: bytes, more: Iterable[bytes]) -> bytes | None:
    """How a server's answer begins, empty if it only hangs up; None if it does neither."""
    host, _, port = one.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(begin)
            for piece in more:
                connection.sendall(piece)
        try:
            return connection.recv(4096)
        except ConnectionError:
            return b""
        except TimeoutError:
            return None


# --- work that takes long -----------------------------------------------------------------------


def patterns(n: int) -> dict[str, Any]:
    """A JSON schema whose patterns must all match, which takes long to compile."""
    return {"type": "string", "allOf": [{"pattern": f"^.*a.{{{i}}}b.*$"} for i in range(n)]}


def by_schema(schema: dict[str, Any]) -> dict[str, Any]:
    format = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    return {"messages": SAID, "max_tokens": 4, "response_format": format}


@pytest.mark.long
def test_schemas_that_take_long_leave_room_for_others_and_hold_up_no_end(folder: Path) -> None:
    """Whether they are refused soon or take a minute each."""
    with served(default_model_path(), folder, *OPTIONS[:-1], "1") as one:
        body = by_schema(patterns(40))
        askers = [
            threading.Thread(target=_ignoring, args=[lambda: post(one, CHAT, body, timeout_s=2.0)])
            for _ in range(6)
        ]
        for asker in askers:
            asker.start()
        for asker in askers:
            require_normal(one)
            asker.join()
        require_normal(one)
        one.stop()


def _ignoring(act: Callable[[], object]) -> None:
    with contextlib.suppress(httpx.HTTPError):
        act()


_SLOW_GRAMMAR = (
    "root ::= s\ns ::= [^\\x00] s s | [^\\x00] t s | [^\\x00]\n"
    "t ::= [^\\x00] s t | [^\\x00] t t | [^\\x00]\n"
)


@pytest.mark.long
def test_a_server_whose_engine_is_held_up_ends_when_it_is_told_to(folder: Path) -> None:
    """Whether the grammar is refused, cut short, or holds the engine: the process ends."""
    with served(default_model_path(), folder, *OPTIONS[:-1], "1") as one:
        body = {"prompt": "Once", "max_tokens": 30, "grammar": _SLOW_GRAMMAR}
        asker = threading.Thread(target=_ignoring, args=[lambda: post(one, COMPLETIONS, body)])
        asker.start()
        time.sleep(3.0)
        one.ask_to_stop()
        assert one.process.wait(90.0) in (0, 1)
        asker.join()


@pytest.mark.usefixtures("undisturbed")
@pytest.mark.parametrize("n", [3, pytest.param(60, marks=pytest.mark.long)])
def test_an_answer_that_is_nearly_a_call_is_read_in_one_pass(server: Served, n: int) -> None:
    grammar = f'root ::= "<function=f>" ("\\n" sp){{{n}}} "</function>"\nsp ::= " "{{80}}'
    body = {"messages": SAID, "tools": [FUNCTION], "max_tokens": 2000, "temperature": 0}
    body["logit_bias"] = {"46778": 100}  # many blanks
    answer = post(server, CHAT, body | {"grammar": grammar})
    require_form(answer)


@pytest.mark.long
@pytest.mark.usefixtures("undisturbed")
@pytest.mark.parametrize(
    ("path", "body"),
    [
        (SCORE, {"prompt": "a", "continuations": ["b" * 2000] * 2040}),
        (EMBEDDINGS, {"input": ["a b c d " * 100] * 2000}),
        (COMPLETIONS, {"prompt": english(300_000)}),
        (CHAT, {"messages": [{"role": "assistant", "content": english()}, *SAID]}),
        (CHAT, {"messages": SAID * 4096}),
        (CHAT, by_schema({"items": {"anyOf": [{"const": i} for i in range(10_000)]}})),
    ],
)
def test_large_requests_that_may_be_right_disturb_nobody(
    server: Served, path: str, body: dict[str, Any]
) -> None:
    answer = post(server, path, body)
    assert answer.status_code in (200, 400, 503), answer.text[:500]


@pytest.mark.long
@pytest.mark.usefixtures("undisturbed")
def test_a_hundred_large_requests_at_once_are_refused(server: Served) -> None:
    body = json.dumps({"prompt": english()}).encode()
    statuses: list[int] = []

    def ask() -> None:
        statuses.append(post(server, COMPLETIONS, body, timeout_s=120.0).status_code)

    askers = [threading.Thread(target=ask) for _ in range(100)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert len(statuses) == 100
    assert set(statuses) <= {400, 429, 503}
