"""Plain decoding beside llama.cpp's own tools, what an import costs, and that nothing grows.

    python bench/plain.py [--json] [--model FILE] [--repeats N]

Speed: greedy decoding of 128 tokens through ``Engine`` and ``llama-bench``'s tg128, built from the
same source, in turns. Memory: peak resident size of a process that generates, beside
``llama-completion`` with the same settings. Growth: resident size over many steps and many
open and close cycles.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from lib.report import Figure, Spread, note, publish, tool
from pytreellama import Context, Engine, Model, TokenTree
from pytreellama.context.params import default_n_threads

N_TOKENS = 128
N_CTX = 4096
N_STEPS = 10_000
N_CYCLES = 200

GENERATE = """
import sys
from pytreellama import Engine, Model

engine = Engine(Model(sys.argv[1]), "none", n_ctx=int(sys.argv[2]), n_threads=int(sys.argv[3]))
engine.generate("Once upon a time", max_tokens=64, ignore_eos=True)
"""


LAUNCH = """
import os, subprocess, sys

quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
_, status, usage = os.wait4(subprocess.Popen(sys.argv[1:], **quiet).pid, 0)
if status != 0:
    sys.exit(f"{sys.argv[1]} failed")
print(usage.ru_maxrss)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    parser.add_argument("--model", type=Path, help="a GGUF file; by default the default model")
    parser.add_argument("--repeats", type=int, default=7, help="pairs of speed runs")
    parser.add_argument("--threads", type=int, default=default_n_threads())
    options = parser.parse_args()

    with Model(options.model) if options.model else Model.default() as model:
        path = model.path
        ours, theirs = speed(model, options.threads, options.repeats)
        steps = growth_over_steps(model, options.threads)
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    import_s = import_seconds("import pytreellama")
    engine_s = import_seconds("from pytreellama import Engine")
    our_bytes, their_bytes, python_bytes = peak_bytes(path, options.threads)
    cycles = growth_over_cycles(path, options.threads)

    publish(
        "plain decoding",
        [
            ("Engine, tokens/s", Spread.of(ours)),
            ("llama-bench tg128, tokens/s", Spread.of(theirs)),
            ("ratio, pair by pair", Spread.of(ratios)),
            ("import pytreellama, s", Spread.of(import_s)),
            ("from pytreellama import Engine, s", Spread.of(engine_s)),
            ("peak resident, ours, MiB", our_bytes / 2**20),
            ("peak resident, llama-completion, MiB", their_bytes / 2**20),
            ("of ours, Python with NumPy alone, MiB", python_bytes / 2**20),
            (f"growth over {N_STEPS} steps, MiB", steps / 2**20),
            (f"growth over {N_CYCLES} open/close cycles, MiB", cycles / 2**20),
        ],
        [
            Figure.at_least("plain speed / llama-bench tg128", statistics.median(ratios), 0.97),
            Figure.at_most("import pytreellama, s", statistics.median(import_s), 0.2),
            Figure.at_most("peak memory / llama-completion", our_bytes / their_bytes, 1.1),
            Figure.at_most(f"growth over {N_STEPS} steps, MiB", steps / 2**20, 1.0),
            Figure.at_most(f"growth over {N_CYCLES} cycles, MiB", cycles / 2**20, 1.0),
        ],
        options.json,
        model=str(path.name),
        threads=options.threads,
    )


def speed(model: Model, n_threads: int, n_repeats: int) -> tuple[list[float], list[float]]:
    """Tokens a second, pair by pair, after one pair that does not count."""
    bench = tool("llama-bench")
    ours, theirs = [], []
    with Engine(model, drafter="none", n_ctx=N_CTX, n_threads=n_threads) as engine:
        for i in range(n_repeats + 1):
            note(f"speed: pair {i} of {n_repeats}")
            pair = (engine_speed(engine), llama_bench_speed(bench, model.path, n_threads))
            if i > 0:
                ours.append(pair[0])
                theirs.append(pair[1])
    return ours, theirs


def engine_speed(engine: Engine) -> float:
    prompt = [engine.vocab.bos or 0]
    engine.generate(prompt, max_tokens=1)  # llama-bench warms up by a token before each run too
    start_s = time.perf_counter()
    engine.generate(prompt, max_tokens=N_TOKENS, ignore_eos=True)
    return N_TOKENS / (time.perf_counter() - start_s)


def llama_bench_speed(bench: Path, model: Path, n_threads: int) -> float:
    command: list[Any] = [bench, "-m", model, "-p", "0", "-n", str(N_TOKENS), "-r", "1"]
    command += ["-t", str(n_threads), "-fa", "1", "-o", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout)[0]["avg_ts"])


def import_seconds(statement: str, n_repeats: int = 9) -> list[float]:
    """Seconds that a fresh interpreter takes longer with the statement than without."""
    return [
        run_seconds([sys.executable, "-c", statement]) - run_seconds([sys.executable, "-c", "pass"])
        for _ in range(n_repeats)
    ]


def run_seconds(command: list[str]) -> float:
    start_s = time.perf_counter()
    subprocess.run(command, check=True)
    return time.perf_counter() - start_s


def peak_bytes(model: Path, n_threads: int) -> tuple[int, int, int]:
    """Peak resident size of our process, of llama-completion's, and of bare Python with NumPy."""
    note("memory: one process each")
    ours = peak_of([sys.executable, "-c", GENERATE, str(model), str(N_CTX), str(n_threads)])
    command: list[Any] = [
        tool("llama-completion"),
        "-m",
        model,
        "-p",
        "Once upon a time",
        "-n",
        "64",
    ]
    command += ["-c", str(N_CTX), "-t", str(n_threads), "-no-cnv", "--ignore-eos", "--temp", "0"]
    theirs = peak_of([str(word) for word in command])
    return ours, theirs, peak_of([sys.executable, "-c", "import numpy"])


def peak_of(command: list[str]) -> int:
    # a process starts with the peak of the one that made it: so a small one makes it
    done = subprocess.run(
        [sys.executable, "-c", LAUNCH, *command], stdout=subprocess.PIPE, text=True, check=True
    )
    unit = 1 if sys.platform == "darwin" else 1024
    return int(done.stdout) * unit


def growth_over_steps(model: Model, n_threads: int) -> int:
    """Bytes that the process grows by over many tree steps, after a first tenth of them."""
    note(f"growth: {N_STEPS} steps")
    tree = TokenTree.from_paths([[1, 2], [1, 3]])
    with Context(model, n_ctx=256, n_threads=n_threads) as context:
        seq = context.sequences.new()

        def run(n_steps: int) -> int:
            for _ in range(n_steps):
                if context.sequences.n_past(seq) > 100:
                    context.memory.rm(seq)
                context.decode(tree, seq=seq)
                context.commit(seq, [0, 2])
            return resident_bytes()

        before = run(N_STEPS // 10)
        return run(N_STEPS) - before


def growth_over_cycles(path: Path, n_threads: int) -> int:
    """Bytes that the process grows by over many loads of model and context, after a tenth."""
    note(f"growth: {N_CYCLES} cycles of open and close")

    def run(n_cycles: int) -> int:
        for _ in range(n_cycles):
            # without repacking, a load is quick and maps the file
            with Model(path, repack=False) as model, Context(model, n_ctx=256) as context:
                context.decode(TokenTree.chain([2]), seq=context.prefill([1]))
        return resident_bytes()

    before = run(N_CYCLES // 10)
    return run(N_CYCLES) - before


def resident_bytes() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)


if __name__ == "__main__":
    main()
