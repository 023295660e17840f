"""Chats beside prompts of thousands of tokens: ours and llama.cpp's server, stock.

    python bench/mixed_load.py [--json] [--questions FILE] [--tokens N] [--repeats N] [--clients N]
                               [--long N] [--seconds N] [--threads N] [--model FILE]

Clients ask one question after the other, as streams: first by themselves, for so many seconds, then
while one more client sends prompts of ``--long`` tokens, until the first of them is answered and as
many seconds are over. A chat's time between tokens is that behind its first token, over all of its
tokens. Each prompt is new to the server. Servers take turns and are started anew each time.
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lib.chat_client import Answered, ask
from lib.peers.builds import SERVER, tool_path
from lib.peers.server import served
from lib.questions import Question, add_answering_options, load_questions
from lib.report import Figure, Spread, note, publish
from pytreellama import Model
from pytreellama.bench.results import in_turn
from pytreellama.model.default_model import default_model_path

OURS, THEIRS = "pytreellama", "llama-server"
WORDS = ("river", "stone", "lamp", "paper", "green", "seven", "window", "follow", "market")
N_CTX_CHAT = 2048
SLOWER = 1.5  # the most that a long prompt may stretch the time between tokens


@dataclass
class Seen:
    """What the clients of one server saw: chats by themselves, chats beside prompts, prompts."""

    alone: list[Answered] = field(default_factory=list)
    beside: list[Answered] = field(default_factory=list)
    long: list[Answered] = field(default_factory=list)


def main() -> None:
    options = parse_options()
    model = options.model or default_model_path()
    questions = load_questions(options.questions)
    runs: dict[str, list[Seen]] = defaultdict(list)
    commands = commands_of(model, options)
    with Model(model, vocab_only=True) as loaded:
        prompts = long_prompts(loaded, options.long)
        for repeat in range(options.repeats):
            for name in in_turn(list(commands), repeat):
                with served(commands[name]) as url:
                    runs[name].append(watch(url, questions, prompts, options))
                note(f"{repeat + 1}: {name}: {told(runs[name][-1])}")
    publish(
        f"{options.clients} chats beside prompts of {options.long} tokens",
        [row for name, seen in sorted(runs.items()) for row in rows_of(name, seen)],
        figures_of(runs),
        options.json,
        model=model.name,
        threads=options.threads,
    )


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_answering_options(parser)
    parser.add_argument("--clients", type=int, default=8, metavar="N", help="that chat")
    parser.add_argument("--long", type=int, default=12_000, metavar="N", help="tokens of a prompt")
    parser.add_argument("--seconds", type=float, default=30.0, metavar="N", help="of each half")
    parser.add_argument("--model", type=Path, help="a GGUF file; by default the default model")
    return parser.parse_args()


def commands_of(model: Path, options: argparse.Namespace) -> dict[str, list[str]]:
    """Both servers by the same sizes; llama-server divides its context among its slots."""
    n_parallel, n_long = options.clients + 1, options.long + N_CTX_CHAT
    shared = ["-m", str(model), "--threads", str(options.threads), "--parallel", str(n_parallel)]
    n_ctx = options.clients * N_CTX_CHAT + n_long
    ours = [sys.executable, "-m", "pytreellama", "serve", "--log-level", "warning"]
    theirs = [str(tool_path(SERVER)), "--threads-batch", str(options.threads), "--no-webui", "-kvu"]
    return {name: [*c, *shared, "-c", str(n_ctx)] for name, c in ((OURS, ours), (THEIRS, theirs))}


def long_prompts(model: Model, n_tokens: int) -> Iterator[Question]:
    """Prompts of about so many tokens, no two of which begin alike."""
    for seed in itertools.count():
        words = random.Random(seed).choices(WORDS, k=n_tokens)
        ids = model.vocab.encode(" ".join(words))[: n_tokens - 64]
        text = model.vocab.decode(ids) + "\nWhich word is the last one?"
        yield Question("long", [{"role": "user", "content": text}])


def watch(
    url: str,
    questions: Sequence[Question],
    prompts: Iterator[Question],
    options: argparse.Namespace,
) -> Seen:
    """Both halves on one server."""
    seen, asking = Seen(), itertools.cycle(questions)
    ask(url, next(asking), 16)
    with_chats(url, asking, options, seen.alone, lambda: time.sleep(options.seconds))

    def send() -> None:
        until_s = time.monotonic() + options.seconds
        while not seen.long or time.monotonic() < until_s:
            seen.long.append(ask(url, next(prompts), 8))

    with_chats(url, asking, options, seen.beside, send)
    return seen


def with_chats(
    url: str,
    asking: Iterator[Question],
    options: argparse.Namespace,
    answers: list[Answered],
    meanwhile: Any,
) -> None:
    """Let clients chat until ``meanwhile`` returns."""
    is_over, lock, failures = threading.Event(), threading.Lock(), []

    def chat() -> None:
        try:
            while not is_over.is_set():
                with lock:
                    question = next(asking)
                answers.append(ask(url, question, options.tokens))
        except Exception as error:
            failures.append(error)

    clients = [threading.Thread(target=chat) for _ in range(options.clients)]
    for client in clients:
        client.start()
    try:
        meanwhile()
    finally:
        is_over.set()
        for client in clients:
            client.join()
    if failures:
        raise failures[0]


#
# what came of it
#


def between_ms(answers: Sequence[Answered]) -> float:
    """Mean time between the tokens of all answers."""
    spent_s = sum(a.total_s - a.first_s for a in answers)
    return 1000 * spent_s / sum(a.n_tokens - 1 for a in answers)


def first_ms(answers: Sequence[Answered], percentile: float) -> float:
    return 1000 * float(np.percentile([a.first_s for a in answers], percentile))


def told(seen: Seen) -> str:
    slower = between_ms(seen.beside) / between_ms(seen.alone)
    return f"first token {first_ms(seen.beside, 50):.0f} ms, between tokens {slower:.2f} of alone"


def rows_of(name: str, runs: Sequence[Seen]) -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for half in ("alone", "beside"):
        answers = [getattr(seen, half) for seen in runs]
        for percentile in (50, 95):
            firsts = [first_ms(one, percentile) for one in answers]
            rows.append((f"{name}, {half}, first token ({percentile} %), ms", Spread.of(firsts)))
        rows.append(
            (f"{name}, {half}, between tokens, ms", Spread.of([between_ms(one) for one in answers]))
        )
    longs = [first_ms(seen.long, 50) / 1000 for seen in runs]
    rows.append((f"{name}, a long prompt's first token, s", Spread.of(longs)))
    return rows


def figures_of(runs: dict[str, list[Seen]]) -> list[Figure]:
    def median_of(name: str, percentile: float) -> float:
        return statistics.median(first_ms(seen.beside, percentile) for seen in runs[name])

    slower = [between_ms(seen.beside) / between_ms(seen.alone) for seen in runs[OURS]]
    figures = [
        Figure.at_most(
            f"first token beside long prompts ({p} %), ours / llama-server",
            median_of(OURS, p) / median_of(THEIRS, p),
            1.0,
        )
        for p in (50, 95)
    ]
    name = "between tokens beside long prompts / alone"
    return [*figures, Figure.at_most(name, statistics.median(slower), SLOWER)]


if __name__ == "__main__":
    main()
