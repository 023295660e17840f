"""The server beside llama.cpp's: tokens a second and time to the first one, by clients at once.

    python bench/serve.py [--json] [--questions FILE] [--limit N] [--tokens N] [--repeats N]
                          [--clients 1,4,16] [--flash-attn on|off|auto] [--model FILE] [--threads N]

Clients ask one question after the other, greedily, as a stream. Servers take turns and are started
anew each time; every number of clients has questions of its own, so that nobody has read them
before. ``llama-server`` is stock, built from the source that pytreellama is built from, plain and
with its ngram-mod drafting; flash attention is off unless asked for, which is its faster way on
CPUs that were measured. Ratios are pair by pair to the better of its two.

Then one client asks a server with planned trees and one without, question by question in turns, for
several types of weights: what trees bring, to be compared with ``bench/planner.py``, which asks the
engine the same questions (those of ``tests/data/rewriting.jsonl`` are among them).

Then one request of so many tokens is asked for over HTTP and from the same engine in turns, which
shows what HTTP and JSON cost, the client's part included.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from lib.chat_client import Answered, ask, body_of, posted
from lib.models import add_types_option, requantised
from lib.peers.builds import SERVER, tool_path
from lib.peers.server import served
from lib.questions import REWRITING, Question, add_answering_options, first_of_each, load_questions
from lib.report import Figure, Spread, note, publish
from pytreellama import Engine, Model
from pytreellama.bench.results import in_turn
from pytreellama.model.default_model import default_model_path
from pytreellama.serve.app import make_app
from pytreellama.serve.settings import ServerSettings

OURS, OURS_PLAIN = "pytreellama", "pytreellama, drafter none"
THEIRS, THEIRS_NGRAM = "llama-server", "llama-server, ngram-mod"
N_CTX_EACH = 2048
SPEED_UPS = {"Q4_1": 1.26, "Q8_0": 1.43, "F16": 1.56}  # docs/benchmarks.md, planned trees
PLAINLY = ("--drafter", "none")
N_OVERHEAD = 15


def main() -> None:
    options = parse_options()
    questions = first_of_each(load_questions(options.questions), options.limit)
    model = options.model or default_model_path()
    n_most = max(options.clients)
    commands = server_commands(model, n_most, options)
    runs: dict[tuple[str, int], list[list[Answered]]] = defaultdict(list)
    speeds: dict[tuple[str, int], list[float]] = defaultdict(list)
    for repeat in range(options.repeats):
        for name in in_turn(list(commands), repeat):
            with served(commands[name]) as url:
                ask(url, questions[0], 16)
                for i, n_clients in enumerate(options.clients):
                    share = questions[i :: len(options.clients)] or questions
                    answers, seconds = ask_all(url, share, n_clients, options.tokens)
                    runs[name, n_clients].append(answers)
                    speeds[name, n_clients].append(sum(a.n_tokens for a in answers) / seconds)
                    note(f"{repeat + 1}: {name}, {n_clients}: {speeds[name, n_clients][-1]:.0f}")
    asked = [*questions, *first_of_each(load_questions(REWRITING), options.limit)]
    speed_ups = {t: speed_ups_of(t, model, asked, options) for t in options.types}
    overheads = {
        how: overhead(model, questions, options, how == "stream") for how in ("whole", "stream")
    }
    publish(
        f"serving, answers of up to {options.tokens} tokens",
        rows_of(runs, speeds, speed_ups, overheads),
        figures_of(speeds, runs, speed_ups, overheads, options),
        options.json,
        model=model.name,
        threads=options.threads,
        n_questions=len(questions),
    )


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_answering_options(parser)
    parser.add_argument(
        "--clients",
        type=lambda text: list(map(int, text.split(","))),
        default=[1, 4, 16],
        metavar="N,N",
        help="at once",
    )
    parser.add_argument(
        "--flash-attn", choices=["on", "off", "auto"], default="off", help="llama-server's"
    )
    parser.add_argument("--model", type=Path, help="a GGUF file; by default the default model")
    add_types_option(parser, tuple(SPEED_UPS))
    return parser.parse_args()


def server_commands(
    model: Path, n_clients: int, options: argparse.Namespace
) -> dict[str, list[str]]:
    ours = our_command(model, n_clients, options)
    theirs = [
        str(tool_path(SERVER)),
        "-fa",
        options.flash_attn,
        "--threads-batch",
        str(options.threads),
        "--no-webui",
        *sizes(model, n_clients, options),
    ]
    return {
        OURS: ours,
        OURS_PLAIN: [*ours, *PLAINLY],
        THEIRS: theirs,
        THEIRS_NGRAM: [*theirs, "--spec-type", "ngram-mod"],
    }


def our_command(model: Path, n_clients: int, options: argparse.Namespace) -> list[str]:
    command = [sys.executable, "-m", "pytreellama", "serve", "--log-level", "warning"]
    return command + sizes(model, n_clients, options)


def sizes(model: Path, n_clients: int, options: argparse.Namespace) -> list[str]:
    """What both servers are told by the same names."""
    given = {
        "-m": model,
        "-c": N_CTX_EACH * n_clients,
        "--threads": options.threads,
        "--parallel": n_clients,
    }
    return [str(word) for pair in given.items() for word in pair]


#
# clients
#


def ask_all(
    url: str, questions: Sequence[Question], n_clients: int, n_tokens: int
) -> tuple[list[Answered], float]:
    """All questions, by so many clients; what they saw, and seconds from first to last."""
    waiting: SimpleQueue[Question] = SimpleQueue()
    for question in questions:
        waiting.put(question)
    answers: list[Answered] = []
    failures: list[Exception] = []

    def work() -> None:
        try:
            while True:
                answers.append(ask(url, waiting.get_nowait(), n_tokens))
        except Empty:
            return
        except Exception as error:
            failures.append(error)

    clients = [threading.Thread(target=work) for _ in range(n_clients)]
    started_s = time.perf_counter()
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    if failures:
        raise failures[0]
    return answers, time.perf_counter() - started_s


#
# what trees bring
#


def speed_ups_of(
    file_type: str, model: Path, questions: Sequence[Question], options: argparse.Namespace
) -> list[float]:
    """How many times as fast as plain decoding trees write for one client, repeat by repeat."""
    command = our_command(requantised(model, file_type), 1, options)
    speed_ups: list[float] = []
    for _ in range(options.repeats):
        with served(command) as planned, served([*command, *PLAINLY]) as plain:
            answers: dict[str, list[Answered]] = {planned: [], plain: []}
            for i, question in enumerate(questions):
                for url in in_turn([planned, plain], i):
                    answers[url].append(ask(url, question, options.tokens))
        speed_ups.append(writing_speed(answers[planned]) / writing_speed(answers[plain]))
        note(f"{file_type}: {speed_ups[-1]:.3f} of plain")
    return speed_ups


def writing_speed(answers: Sequence[Answered]) -> float:
    """Tokens a second behind the first event."""
    return sum(a.n_tokens for a in answers) / sum(a.total_s - a.first_s for a in answers)


#
# what HTTP costs
#


def overhead(
    model: Path, questions: Sequence[Question], options: argparse.Namespace, streams: bool
) -> list[float]:
    """Shares of a request's time that HTTP and JSON add, pair by pair on one plain engine."""
    shares: list[float] = []
    with Model(model) as loaded, Engine(loaded, "none", n_threads=options.threads) as engine:
        app = make_app(engine, ServerSettings("model"))
        with running(app) as url:
            for i in range(N_OVERHEAD + 1):
                question = questions[i % len(questions)]
                ways: list[Callable[[], None]] = [
                    partial(directly, engine, question, options.tokens, streams),
                    partial(over_http, url, question, options.tokens, streams),
                ]
                seconds = {way: timed(way) for way in in_turn(ways, i)}
                if i > 0:
                    shares.append(seconds[ways[1]] / seconds[ways[0]] - 1.0)
    return shares


@contextmanager
def running(app: Any) -> Iterator[str]:
    import uvicorn

    from pytreellama.serve.run import listening_socket

    with listening_socket("127.0.0.1", 0) as listening:
        config = uvicorn.Config(app, log_level="warning", access_log=False)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def timed(act: Callable[[], None]) -> float:
    started_s = time.perf_counter()
    act()
    return time.perf_counter() - started_s


def directly(engine: Any, question: Question, n_tokens: int, streams: bool) -> None:
    asked = {"max_tokens": n_tokens, "ignore_eos": True, "temperature": 0}
    if streams:
        for _ in engine.stream(question.messages, **asked):
            pass
    else:
        engine.generate([question.messages], **asked)


def over_http(url: str, question: Question, n_tokens: int, streams: bool) -> None:
    body = body_of(question.messages, n_tokens) | {"ignore_eos": True, "stream": streams}
    with posted(url, body) as response:
        for _ in response:
            pass


#
# what came of it
#


def rows_of(
    runs: dict[tuple[str, int], list[list[Answered]]],
    speeds: dict[tuple[str, int], list[float]],
    speed_ups: dict[str, list[float]],
    overheads: dict[str, list[float]],
) -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for (name, n_clients), values in sorted(speeds.items(), key=lambda item: item[0][1]):
        firsts = sorted(a.first_s * 1000 for answers in runs[name, n_clients] for a in answers)
        rows.append((f"{n_clients} clients, {name}, tokens/s", Spread.of(values)))
        rows.append((f"{n_clients} clients, {name}, first token, ms", Spread.of(firsts)))
    rows += [(f"planned / plain, {name}", Spread.of(v)) for name, v in speed_ups.items()]
    rows += [(f"HTTP and JSON, {how}, share", Spread.of(v)) for how, v in overheads.items()]
    return rows


def figures_of(
    speeds: dict[tuple[str, int], list[float]],
    runs: dict[tuple[str, int], list[list[Answered]]],
    speed_ups: dict[str, list[float]],
    overheads: dict[str, list[float]],
    options: argparse.Namespace,
) -> list[Figure]:
    figures: list[Figure] = []
    for n in options.clients:
        better = map(max, speeds[THEIRS, n], speeds[THEIRS_NGRAM, n])
        ratio = statistics.median(a / b for a, b in zip(speeds[OURS, n], better, strict=True))
        figures.append(Figure.at_least(f"tokens/s at {n} clients / better of two", ratio, 1.0))
        ours, theirs = (first_median(runs, n, names) for names in ([OURS], [THEIRS, THEIRS_NGRAM]))
        figures.append(
            Figure.at_most(f"first token at {n} clients / better of two", ours / theirs, 1.0)
        )
    for file_type, values in speed_ups.items():
        name = f"planned / plain at 1 client, {file_type}"
        goal = SPEED_UPS.get(file_type, 1.0)
        figures.append(Figure.at_least(name, statistics.median(values), goal))
    for how, shares in overheads.items():
        name = f"HTTP and JSON of {options.tokens} tokens, {how}"
        figures.append(Figure.at_most(name, statistics.median(shares), 0.03))
    return figures


def first_median(
    runs: dict[tuple[str, int], list[list[Answered]]], n_clients: int, names: list[str]
) -> float:
    """Seconds to the first token in the middle; the least of several servers."""
    return min(
        statistics.median(a.first_s for answers in runs[name, n_clients] for a in answers)
        for name in names
    )


if __name__ == "__main__":
    main()
