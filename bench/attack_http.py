"""What others notice of a large request that is refused: /health, and a stream under way.

    python bench/attack_http.py [--json] [--mebibytes N] [--repeats N] [--model FILE] [--threads N]

A server is started, one client reads a stream without end, another asks for /health again and
again, and a third sends a body of 4 MiB that no server could serve. Latency of /health and the
longest gap between two events of the stream are told while nothing else is asked, and during each
refusal. To measure another checkout, run this file from there with its Python:

    cd OTHER && PYTHONPATH=OTHER .venv/bin/python THIS/bench/attack_http.py
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import httpx

from lib.peers.server import served
from lib.report import Figure, Spread, note, publish
from pytreellama.model.default_model import default_model_path

_T = TypeVar("_T")

HEALTH_S, GAP_S = 0.25, 0.5
ENGLISH = "The cat sat on the mat, and the dog lay by the door. "
PAUSE_S = 0.01
TIMEOUT_S = 900.0
QUIET_S = 5.0


@dataclass
class Noticed:
    """What two clients saw in a span of time, in seconds."""

    health: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)


class Others:
    """A client that asks for /health, and one that reads a stream."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._is_over = threading.Event()
        self._last_s = 0.0
        self.noticed = Noticed()
        self._threads = [threading.Thread(target=act) for act in (self._ask, self._read)]

    @contextmanager
    def there(self) -> Iterator[Others]:
        for thread in self._threads:
            thread.start()
        while not self.noticed.gaps or not self.noticed.health:
            time.sleep(PAUSE_S)
        try:
            yield self
        finally:
            self._is_over.set()
            for thread in self._threads:
                thread.join()

    def during(self, act: Callable[[], _T]) -> tuple[Noticed, _T]:
        """What they see from now until something is done and the next event has come."""
        self.noticed = noticed = Noticed()
        result = act()
        asked_s = time.perf_counter()
        while self._last_s < asked_s or not noticed.health:
            time.sleep(PAUSE_S)
        return noticed, result

    def _ask(self) -> None:
        with httpx.Client(timeout=TIMEOUT_S) as client:
            while not self._is_over.is_set():
                noticed, begun_s = self.noticed, time.perf_counter()
                client.get(f"{self._url}/health").raise_for_status()
                noticed.health.append(time.perf_counter() - begun_s)
                time.sleep(PAUSE_S)

    def _read(self) -> None:
        body = {"prompt": "Once upon a time", "max_tokens": 1000, "ignore_eos": True}
        while not self._is_over.is_set():
            sent: dict[str, Any] = {
                "json": body | {"stream": True, "temperature": 0},
                "timeout": TIMEOUT_S,
            }
            begun_s: float | None = None
            with httpx.stream("POST", f"{self._url}/v1/completions", **sent) as events:
                for line in events.iter_lines():
                    if not line.startswith("data: {"):
                        continue
                    self._last_s = time.perf_counter()
                    if begun_s is not None:
                        self.noticed.gaps.append(self._last_s - begun_s)
                    begun_s = self._last_s
                    if self._is_over.is_set():
                        return


def main() -> None:
    options = parse_options()
    model = options.model or default_model_path()
    command = [sys.executable, "-m", "pytreellama", "serve", "--log-level", "warning", "-m"]
    command += [str(model), "--threads", str(options.threads), "--cached-prefixes", "0"]
    rows: list[tuple[str, Any]] = []
    figures: list[Figure] = []
    with served(command) as url, Others(url).there() as others:
        quiet, _ = others.during(partial(time.sleep, QUIET_S))
        rows += rows_of("undisturbed", quiet)
        for name, (path, body) in attacks(options.mebibytes << 20).items():
            during, waits = Noticed(), list[float]()
            for repeat in range(options.repeats):
                noticed, seconds = others.during(partial(refused, url + path, body))
                note(f"{repeat + 1}: {name}: refused after {seconds:.2f} s")
                during.health += noticed.health
                during.gaps += noticed.gaps
                waits.append(seconds)
            rows.append((f"{name}: refused after, s", Spread.of(waits)))
            rows += rows_of(name, during)
            figures += [
                Figure.at_most(f"/health, longest, s: {name}", max(during.health), HEALTH_S),
                Figure.at_most(
                    f"stream, longest gap beyond the undisturbed, s: {name}",
                    max(during.gaps) - max(quiet.gaps),
                    GAP_S,
                ),
            ]
    publish(
        f"others while a body of {options.mebibytes} MiB is refused",
        rows,
        figures,
        options.json,
        model=model.name,
        threads=options.threads,
    )


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--mebibytes", type=int, default=4, help="of a body")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--model", type=Path, help="a GGUF file; by default the default model")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    return parser.parse_args()


def attacks(n_bytes: int) -> dict[str, tuple[str, bytes]]:
    """Bodies a little smaller than the server's limit, and a text that may be tokenized."""
    text = ENGLISH * ((n_bytes - 1000) // len(ENGLISH))
    chat: dict[str, Any] = {"messages": [{"role": "user", "content": text}], "max_tokens": 1}
    objects = '{"prompt":[' + ",".join(["{}"] * ((n_bytes - 1000) // 3)) + "]}"
    return {
        "a message": ("/v1/chat/completions", json.dumps(chat).encode()),
        "a prompt": ("/v1/completions", json.dumps({"prompt": text}).encode()),
        "a prompt to score": (
            "/v1/score",
            json.dumps({"prompt": text, "continuations": ["a"]}).encode(),
        ),
        "a prompt of 600 kB": (
            "/v1/completions",
            json.dumps({"prompt": text[:600_000]}).encode(),
        ),
        "a list of objects": ("/v1/completions", objects.encode()),
    }


def refused(url: str, body: bytes) -> float:
    """Seconds until a server has refused a body."""
    begun_s = time.perf_counter()
    headers = {"Content-Type": "application/json"}
    answer = httpx.post(url, content=body, headers=headers, timeout=TIMEOUT_S)
    seconds = time.perf_counter() - begun_s
    if answer.status_code != 400:
        raise SystemExit(f"{answer.status_code} and not 400: {answer.text[:300]}")
    return seconds


def rows_of(name: str, noticed: Noticed) -> list[tuple[str, Any]]:
    return [
        (f"{name}: /health, s", Spread.of(noticed.health)),
        (f"{name}: gaps of the stream, s", Spread.of(noticed.gaps)),
    ]


if __name__ == "__main__":
    main()
