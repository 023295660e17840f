"""Chats of models with recurrent states and sliding windows: what each turn reads, and how soon.

    python bench/prefixes.py [--json] [--models NAME ...] [--turns N] [--repeats N] [--threads N]

The models have random weights: one of about 0.5 billion in the shape of a Qwen3.5, and a small
Gemma 3 whose windows have room for themselves alone (``swa_full=False``). An engine without a
prefix cache and one with it take turns in the same chat, which begins with instructions. In a
second chat a template drops the first half of every older answer, as templates do with reasoning.
Answers are compared: both engines must generate the same tokens.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lib.random_models import hybrid_model, window_model
from lib.report import Figure, Spread, note, publish
from pytreellama import Engine, Model

MODELS: dict[str, Callable[[], Path]] = {
    "qwen35": lambda: hybrid_model("qwen35"),
    "gemma3": window_model,
}
N_INSTRUCTIONS, N_QUESTION, N_ANSWER = 600, 60, 64


@dataclass(frozen=True)
class Turn:
    """One turn of a chat.

    Attributes:
        n_read: prompt tokens that were prefilled.
        n_new: prompt tokens that no earlier turn had.
        first_s: seconds until the first token of the answer.
    """

    n_read: int
    n_new: int
    first_s: float
    answer: tuple[int, ...]


def take_turn(engine: Engine, prompt: list[int], n_new: int) -> Turn:
    """Generate an answer, and say what it took."""
    started_s = time.perf_counter()
    generation = engine.submit(prompt, max_tokens=N_ANSWER, ignore_eos=True)
    next(iter(generation))
    first_s = time.perf_counter() - started_s
    done = generation.result()
    return Turn(len(prompt) - done.stats.n_shared, n_new, first_s, tuple(done.tokens))


def chat(engines: dict[str, Engine], seed: int, n_turns: int, drops: bool) -> list[dict[str, Turn]]:
    """The turns of one chat, by engine.

    Args:
        drops: the first half of each answer is not in the next prompt.
    """
    rng = np.random.default_rng(seed)
    n_vocab = min(engine.vocab.n_tokens for engine in engines.values())

    def text_of(n_tokens: int) -> list[int]:
        return list(map(int, rng.integers(300, n_vocab, n_tokens)))

    prompt, n_new, turns = text_of(N_INSTRUCTIONS + N_QUESTION), N_INSTRUCTIONS + N_QUESTION, []
    for i in range(n_turns):
        order = list(engines.items())[:: -1 if i % 2 else 1]
        turn = {name: take_turn(engine, prompt, n_new) for name, engine in order}
        answers = {one.answer for one in turn.values()}
        if len(answers) != 1:
            raise SystemExit("a shared prefix has changed an answer")
        turns.append(turn)
        kept = list(answers.pop())[N_ANSWER // 2 if drops else 0 :]
        question = text_of(N_QUESTION)
        prompt = [*prompt, *kept, *question]
        n_new = len(question) + (len(kept) if drops else 0) + 1  # the last token was not read
    return turns


def measure(name: str, args: argparse.Namespace) -> tuple[list[tuple[str, Any]], list[Figure]]:
    """Rows and figures of one model."""
    sizes: dict[str, Any] = {"n_ctx": 8192, "n_threads": args.threads, "swa_full": False}
    rows: list[tuple[str, Any]] = []
    figures: list[Figure] = []
    with (
        Model(MODELS[name]()) as model,
        Engine(model, "none", **sizes) as plain,
        Engine(model, "none", n_cached_prefixes=8, **sizes) as caching,
    ):
        engines = {"without": plain, "with": caching}
        for drops in (False, True):
            title = f"{name}, {'half of answers dropped' if drops else 'chat'}"
            note(title)
            chats = [chat(engines, 2 * i + drops, args.turns, drops) for i in range(args.repeats)]
            for i in range(args.turns):
                rows += rows_of(f"{title}: turn {i + 1}", [one[i] for one in chats])
            figures += figures_of(title, [turn for one in chats for turn in one[1:]])
        rows.append(
            (f"{name}: checkpoints, MiB", round(caching.load.n_checkpoint_bytes / 2**20, 1))
        )
        rows.append((f"{name}: checkpoints", caching.load.n_checkpoints))
    return rows, figures


def rows_of(title: str, turns: list[dict[str, Turn]]) -> list[tuple[str, Any]]:
    """What one turn took, by engine."""
    rows: list[tuple[str, Any]] = []
    for engine, turn in turns[0].items():
        first_ms = Spread.of([1e3 * one[engine].first_s for one in turns])
        rows.append((f"{title} {engine}, tokens read", turn.n_read))
        rows.append((f"{title} {engine}, ms to first token", first_ms))
    return sorted(rows)


def figures_of(title: str, later: list[dict[str, Turn]]) -> list[Figure]:
    """What turns from the second on read twice, and how soon they answer."""
    again = max(turn["with"].n_read - turn["with"].n_new for turn in later)
    ratio = float(np.median([turn["with"].first_s / turn["without"].first_s for turn in later]))
    return [
        Figure.at_most(f"{title}: tokens read again, at most in a turn", again, 0),
        Figure.at_most(f"{title}: time to first token, of that without", ratio, 0.5),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--models", nargs="+", choices=tuple(MODELS), default=list(MODELS))
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    rows: list[tuple[str, Any]] = []
    figures: list[Figure] = []
    for name in args.models:
        more_rows, more_figures = measure(name, args)
        rows += more_rows
        figures += more_figures
    publish("Prefixes of chats", rows, figures, args.json)


if __name__ == "__main__":
    main()
