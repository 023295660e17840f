"""Multiple choice by log-likelihood: ``Engine.score`` beside llama-cpp-python's server.

    python bench/loglikelihood.py [--json] [--questions FILE] [--limit N] [--choices N]
                                  [--repeats N] [--threads N] [--model FILE]

What lm-evaluation-harness asks for in a multiple-choice task: the log-probability of each choice
after its question. Ours is what the adapter ``pytreellama.integrations.lm_eval`` calls: all choices
of a question in one pass. The server is asked as the harness's ``gguf`` model asks it: a completion
of question and choice with ``echo`` and ``logprobs``, one a choice. It keeps what it has read of
the prompt before. Questions are those of the file, a choice is the beginning of another question.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from lib.peers.python import Environment, environment
from lib.peers.server import post, served
from lib.peers.types import PeerError
from lib.questions import add_answering_options, load_questions
from lib.report import Figure, Spread, note, publish
from pytreellama import Engine, Model
from pytreellama.bench.results import in_turn
from pytreellama.model.default_model import default_model_path

OURS, THEIRS = "Engine.score", "llama-cpp-python's server"
N_CTX, N_CONTEXT_CHARS, N_CHOICE_CHARS = 2048, 600, 100
SERVER_PACKAGES = (
    "uvicorn",
    "fastapi",
    "pydantic-settings",
    "sse-starlette",
    "starlette-context",
    "PyYAML",
)


@dataclass(frozen=True)
class Item:
    """A question and its choices."""

    context: str
    choices: tuple[str, ...]


def main() -> None:
    options = parse_options()
    model = options.model or default_model_path()
    items = items_of(options)
    seconds: dict[str, list[float]] = {OURS: [], THEIRS: []}
    found: dict[str, list[float]] = {}
    with (
        Model(model) as loaded,
        Engine(loaded, "none", n_ctx=N_CTX, n_threads=options.threads) as engine,
        their_server(model, options.threads) as url,
    ):
        for repeat in range(options.repeats):
            for name in in_turn([OURS, THEIRS], repeat):
                engine.clear_prefix_cache()
                started_s = time.perf_counter()
                found[name] = scored(engine, items) if name == OURS else asked(url, items)
                seconds[name].append(time.perf_counter() - started_s)
                note(f"{repeat + 1}: {name}: {seconds[name][-1]:.1f} s")
    n_requests = sum(len(item.choices) for item in items)
    ratios = [theirs / ours for ours, theirs in zip(seconds[OURS], seconds[THEIRS], strict=True)]
    worst = max(abs(a - b) for a, b in zip(found[OURS], found[THEIRS], strict=True))
    publish(
        f"log-likelihoods of {n_requests} choices of {len(items)} questions",
        [
            *(
                (f"{n}, choices/s", Spread.of([n_requests / s for s in v]))
                for n, v in seconds.items()
            ),
            ("ours / theirs", Spread.of(ratios)),
            ("largest difference of a log-probability", worst),
        ],
        [Figure.at_least("choices/s, ours / theirs", statistics.median(ratios), 1.0)],
        options.json,
        model=model.name,
        threads=options.threads,
    )


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_answering_options(parser)
    parser.add_argument("--choices", type=int, default=4, metavar="N", help="of each question")
    parser.add_argument("--model", type=Path, help="a GGUF file; by default the default model")
    return parser.parse_args()


def items_of(options: argparse.Namespace) -> list[Item]:
    texts = [q.messages[-1]["content"] for q in load_questions(options.questions)][: options.limit]
    choices = [" " + text[:N_CHOICE_CHARS].strip() for text in texts]
    n = len(texts)
    return [
        Item(
            text[:N_CONTEXT_CHARS].strip(),
            tuple(choices[(i + 1 + k) % n] for k in range(options.choices)),
        )
        for i, text in enumerate(texts)
    ]


def scored(engine: Engine, items: Sequence[Item]) -> list[float]:
    """As the adapter does: question and choice are tokenised together, and then cut."""
    logps: list[float] = []
    for item in items:
        ids = engine.encode_prompt(item.context)
        wholes = [engine.encode_prompt(item.context + choice) for choice in item.choices]
        logps += [s.logp for s in engine.score(ids, [whole[len(ids) :] for whole in wholes])]
    return logps


def asked(url: str, items: Sequence[Item]) -> list[float]:
    """As the harness's ``gguf`` model does."""
    return [logp_of(url, item.context, choice) for item in items for choice in item.choices]


def logp_of(url: str, context: str, choice: str) -> float:
    body = {
        "prompt": context + choice,
        "max_tokens": 1,
        "echo": True,
        "logprobs": 1,
        "temperature": 0.0,
    }
    told = post(f"{url}/v1/completions", body)["choices"][0]["logprobs"]
    places = zip(told["text_offset"], told["token_logprobs"], strict=True)
    end = len(context + choice)
    return float(sum(logp for offset, logp in places if len(context) <= offset < end))


@contextmanager
def their_server(model: Path, n_threads: int) -> Iterator[str]:
    """llama-cpp-python's server over stock's library, in an environment of its own."""
    package = environment("llama-cpp-python")
    if isinstance(package, PeerError):
        raise package
    made = server_environment(package)
    made.make()
    sizes = ["--n_ctx", str(N_CTX), "--n_threads", str(n_threads), "--logits_all", "true"]
    words = ["env", *(f"{name}={value}" for name, value in made.to_run), str(made.python)]
    with served([*words, "-m", "llama_cpp.server", "--model", str(model), *sizes], "/docs") as url:
        yield url


def server_environment(package: Environment) -> Environment:
    requirements = (*package.requirements, *SERVER_PACKAGES)
    return replace(package, name="llama-cpp-python-server", requirements=requirements)


if __name__ == "__main__":
    main()
