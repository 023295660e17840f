"""Many greedy requests at once, beside llama.cpp's llama-batched-bench at the same settings.

    python bench/parallel.py [--json] [--questions FILE] [--requests N] [--prompt N] [--tokens N]
                             [--drafter D] [--repeats N] [--model FILE]

Prompts of as many tokens, answers of as many tokens, one cache for all; a second run of ours drafts
as well. Total is prompts and answers over all seconds, as llama-batched-bench counts. Runs take
turns; ratios are pair by pair. llama-batched-bench keeps every sequence's stream apart
(``-no-kvu``) or in one cache, whichever is faster for it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

from lib.questions import Question, add_questions_option, load_questions
from lib.report import Figure, Spread, note, publish, tool
from pytreellama import Engine, Model
from pytreellama.context.params import default_n_threads


def main() -> None:
    options = parse_options()
    questions = load_questions(options.questions)
    bench = tool("llama-batched-bench")
    speeds: dict[str, list[float]] = {"plain": [], options.drafter: []}
    speeds |= {"llama-batched-bench": [], "llama-batched-bench -no-kvu": []}
    with Model(options.model) if options.model else Model.default() as model:
        for i in range(options.repeats + 1):
            note(f"repeat {i} of {options.repeats}")
            measured = {
                "plain": ours(model, "none", questions, options),
                options.drafter: ours(model, options.drafter, questions, options),
                "llama-batched-bench": theirs(bench, model.path, ["-kvu"], options),
                "llama-batched-bench -no-kvu": theirs(bench, model.path, ["-no-kvu"], options),
            }
            for name, speed in measured.items():
                if i > 0:  # the first round fills caches
                    speeds[name].append(speed)
    best = list(map(max, speeds["llama-batched-bench"], speeds["llama-batched-bench -no-kvu"]))
    ratios = {
        name: [a / b for a, b in zip(speeds[name], best, strict=True)]
        for name in ("plain", options.drafter)
    }
    publish(
        f"{options.requests} requests of {options.prompt} + {options.tokens} tokens",
        [
            *((f"{name}, tokens/s in all", Spread.of(values)) for name, values in speeds.items()),
            *((f"{name} / llama.cpp", Spread.of(values)) for name, values in ratios.items()),
        ],
        [
            Figure.at_least(f"{name} / llama.cpp", statistics.median(values), 1.0)
            for name, values in ratios.items()
        ],
        options.json,
        threads=options.threads,
    )


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    add_questions_option(parser)
    parser.add_argument("--requests", type=int, default=16)
    parser.add_argument("--prompt", type=int, default=64, help="tokens of each prompt")
    parser.add_argument("--tokens", type=int, default=128, help="tokens of each answer")
    parser.add_argument("--drafter", default="suffix+recycling", metavar="D")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--model", type=Path, help="a GGUF file; by default the default model")
    parser.add_argument("--threads", type=int, default=default_n_threads())
    return parser.parse_args()


def n_cells(options: argparse.Namespace) -> int:
    """Room for all requests, and their trees."""
    return int(options.requests * 256 * -(-(options.prompt + options.tokens + 16) // 256))


def ours(
    model: Model, drafter: str, questions: list[Question], options: argparse.Namespace
) -> float:
    sizes: dict[str, Any] = {"n_ctx": n_cells(options), "n_seq_max": options.requests}
    with Engine(model, drafter, n_threads=options.threads, **sizes) as engine:
        prompts = prompts_of(engine, questions, options)
        started_s = time.perf_counter()
        engine.generate(prompts, max_tokens=options.tokens, ignore_eos=True)
        spent_s = time.perf_counter() - started_s
    return float(options.requests * (options.prompt + options.tokens) / spent_s)


def prompts_of(
    engine: Engine, questions: list[Question], options: argparse.Namespace
) -> list[list[int]]:
    """Each of the same length; short questions are asked again."""
    prompts = []
    for i in range(options.requests):
        ids = engine.encode_prompt(questions[i % len(questions)].messages)
        # chats begin alike, which would be read once only
        ids = [5 + i, *ids]
        prompts.append((ids * -(-options.prompt // len(ids)))[: options.prompt])
    return prompts


def theirs(bench: Path, model: Path, options: list[str], sizes: argparse.Namespace) -> float:
    words: dict[str, Any] = {
        "-m": model,
        "-t": sizes.threads,
        "-fa": "on",
        "-npp": sizes.prompt,
        "-ntg": sizes.tokens,
        "-npl": sizes.requests,
        "-c": n_cells(sizes),
        "--output-format": "jsonl",
        "-lv": 1,
    }
    command = [str(bench), *options, *(str(word) for pair in words.items() for word in pair)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    line = next(line for line in done.stdout.splitlines() if line.startswith("{"))
    return float(json.loads(line)["speed"])


if __name__ == "__main__":
    main()
