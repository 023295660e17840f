"""What a tree costs: bookkeeping and passes, stock llama.cpp beside ours, in turns.

    python bench/tree_attention.py [--json] [--plot FILE.svg] [--contexts N ...] [--nodes N ...]

Two processes hold the same model and text. One decodes trees as stock llama.cpp does: a sequence id
a leaf, and stock's attention (the same code: without an order of cells our kernel is not taken).
The other decodes them by ancestors. They are asked in turns, so that a noisy machine is noisy for
both. Prefill and plain decoding are compared with ``llama-bench``, built with and without our
patches. The model is the default one, requantised.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lib.models import requantised
from lib.report import Figure, Spread, note, publish, tool
from lib.stock import stock_tool
from pytreellama import Batch, Context, Model, TokenTree, TreeEncoding
from pytreellama.context.params import default_n_threads
from pytreellama.model.default_model import default_model_path

CONTEXTS = (256, 1024, 4096, 8192)
NODES = (1, 2, 4, 8, 16, 32, 64)
BOOKKEEPING_CONTEXTS = (512, 16384)
BOOKKEEPING_LEAVES = (4, 63)
SIDES = {"stock": TreeEncoding.SEQUENCES, "ours": TreeEncoding.ANCESTORS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    parser.add_argument("--plot", type=Path, help="draw the curves to this file")
    parser.add_argument("--contexts", type=int, nargs="+", default=CONTEXTS)
    parser.add_argument("--nodes", type=int, nargs="+", default=NODES)
    parser.add_argument("--types", nargs="+", default=["Q8_0", "Q4_0"])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=default_n_threads())
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        serve(options.worker, options)
        return

    rows: list[tuple[str, Any]] = []
    figures: list[Figure] = []
    curves: dict[str, dict[str, Any]] = {}
    for file_type in options.types:
        path = requantised(default_model_path(), file_type)
        with worker("stock", path, options) as stock, worker("ours", path, options) as ours:
            sides = {"stock": stock, "ours": ours}
            curve = measure_curve(sides, options)
            books = measure_bookkeeping(sides, options.repeats)
        curves[file_type] = {side: dict(values) for side, values in curve.items()}
        rows += list(curve_rows(file_type, curve, options)) + list(book_rows(file_type, books))
        figures += [*pass_figures(file_type, curve), *book_figures(file_type, books)]
        speeds = measure_speeds(path, options)
        rows += [(f"{file_type}: {name}, ours / stock", Spread.of(r)) for name, r in speeds.items()]
        figures += [
            Figure.at_least(f"{file_type}: {name}, ours / stock", statistics.median(ratios), 0.98)
            for name, ratios in speeds.items()
        ]
    if options.plot:
        draw(curves, options)
    publish("tree attention", rows, figures, options.json, threads=options.threads)


#
# one side, in a process of its own
#


def serve(model_path: str, options: argparse.Namespace) -> None:
    """Answer requests, a line of JSON each: [kind, context, nodes, leaves]."""
    side = SIDES[os.environ["TREELLAMA_BENCH_SIDE"]]
    with (
        Model(model_path) as model,
        Context(model, n_ctx=17408, n_threads=options.threads, tree_encoding=side) as context,
    ):
        bench = Side(context)
        for line in sys.stdin:
            print(json.dumps(bench.answer(*json.loads(line))), flush=True)


class Side:
    """A text of a wanted length, and passes over trees that hang on its end."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._rng = np.random.default_rng(1)
        self._seq = context.sequences.new()
        self._batch = Batch(context.n_batch)

    def answer(self, kind: str, n_past: int, n_nodes: int, n_leaves: int) -> list[float]:
        """Seconds before, in and after a pass."""
        self._resize(n_past)
        if kind == "plain":
            start_s = time.perf_counter()
            self._context.decode(5, seq=self._seq)
            return [0.0, time.perf_counter() - start_s, 0.0]
        tree = self._tree(n_nodes, n_leaves)
        times_s = [time.perf_counter()]
        self._batch.clear()
        self._context.place(self._batch, self._seq, tree)
        times_s.append(time.perf_counter())
        self._context.decode(self._batch)
        times_s.append(time.perf_counter())
        self._context.commit(self._seq, tree.path(len(tree) - 1).tolist())
        times_s.append(time.perf_counter())
        return [b - a for a, b in itertools.pairwise(times_s)]

    def _resize(self, n_past: int) -> None:
        have = self._context.sequences.n_past(self._seq)
        if have > n_past:
            self._context.memory.rm(self._seq, n_past)
        elif have < n_past:
            text = self._rng.integers(3, 40000, n_past - have, np.int32)
            self._context.prefill(text, self._seq)

    def _tree(self, n_nodes: int, n_leaves: int) -> TokenTree:
        """A trunk that forks into equal branches, of about so many leaves."""
        n_trunk = max(1, n_nodes - n_leaves * max(1, (n_nodes - 1) // max(n_leaves, 1)))
        parents = list(range(-1, n_trunk - 1))
        for i in range(n_nodes - n_trunk):
            parents.append(n_trunk - 1 if i < n_leaves else len(parents) - n_leaves)
        tokens = self._rng.choice(40000, n_nodes, replace=False) + 3
        return TokenTree.from_parents(tokens, parents)


class Worker:
    """The other end of ``serve``."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, kind: str, n_past: int, n_nodes: int, n_leaves: int) -> list[float]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps([kind, n_past, n_nodes, n_leaves]) + "\n")
        self._process.stdin.flush()
        answer: list[float] = json.loads(self._process.stdout.readline())
        return answer


@contextmanager
def worker(side: str, model: Path, options: argparse.Namespace) -> Iterator[Worker]:
    env = {**os.environ, "TREELLAMA_BENCH_SIDE": side}
    if side == "stock":
        env["LLAMA_KQ_ORDER_DISABLE"] = "1"
    command: list[Any] = [
        sys.executable,
        __file__,
        "--worker",
        str(model),
        "--threads",
        str(options.threads),
    ]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=env, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            yield Worker(process)
        finally:
            process.terminate()


#
# what is measured
#

Curve = dict[str, dict[tuple[int, int], Spread]]  # side -> (context, nodes) -> seconds of a pass


def measure_curve(sides: dict[str, Worker], options: argparse.Namespace) -> Curve:
    contexts = sorted({*options.contexts, 512, 4096})
    curve: Curve = {side: {} for side in sides}
    for n_past in contexts:
        note(f"passes at context {n_past}")
        seen: dict[tuple[str, int], list[float]] = {}
        for i in range(options.repeats + 1):
            for n_nodes in sorted({0, *options.nodes, 16, 32}):
                for side, ask in sides.items():
                    kind = "tree" if n_nodes else "plain"
                    _, pass_s, _ = ask.ask(kind, n_past, n_nodes, max(1, n_nodes // 4))
                    if i > 0:
                        seen.setdefault((side, n_nodes), []).append(pass_s)
        for (side, n_nodes), values in seen.items():
            curve[side][n_past, n_nodes] = Spread.of(values)
    return curve


Books = dict[tuple[str, int, int], Spread]  # side, context, leaves -> seconds


def measure_bookkeeping(sides: dict[str, Worker], n_repeats: int) -> Books:
    books: dict[tuple[str, int, int], list[float]] = {}
    for n_past in BOOKKEEPING_CONTEXTS:
        note(f"bookkeeping at context {n_past}")
        for i in range(n_repeats + 1):
            for n_leaves in BOOKKEEPING_LEAVES:
                for side, ask in sides.items():
                    before_s, _, after_s = ask.ask("tree", n_past, 64, n_leaves)
                    if i > 0:
                        key = (side, n_past, n_leaves)
                        books.setdefault(key, []).append(before_s + after_s)
    return {key: Spread.of(values) for key, values in books.items()}


def measure_speeds(model: Path, options: argparse.Namespace) -> dict[str, list[float]]:
    """Tokens a second of ours over stock's, pair by pair, by llama-bench."""
    ours, stock = tool("llama-bench"), stock_tool("llama-bench")
    tests = {
        "prefill of 512": ["-p", "512", "-n", "0"],
        "prefill of 4096": ["-p", "4096", "-n", "0"],
        "plain decoding": ["-p", "0", "-n", "64"],
        "plain decoding at 4096": ["-p", "0", "-n", "32", "-d", "4096"],
    }
    ratios: dict[str, list[float]] = {}
    for name, words in tests.items():
        note(f"llama-bench: {name}")
        for i in range(options.repeats + 1):
            speeds = [llama_bench(path, model, words, options.threads) for path in (ours, stock)]
            if i > 0:
                ratios.setdefault(name, []).append(speeds[0] / speeds[1])
    return ratios


def llama_bench(path: Path, model: Path, words: list[str], n_threads: int) -> float:
    command: list[Any] = [
        path,
        "-m",
        model,
        *words,
        "-r",
        "1",
        "-t",
        str(n_threads),
        "-fa",
        "1",
        "-o",
        "json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout)[0]["avg_ts"])


#
# what is told
#


def curve_rows(
    file_type: str, curve: Curve, options: argparse.Namespace
) -> Iterator[tuple[str, str]]:
    for n_past, n_nodes in curve["ours"]:
        ours, stock = (curve[side][n_past, n_nodes].median for side in ("ours", "stock"))
        steps = ours / curve["ours"][n_past, 0].median
        what = f"{n_nodes} nodes" if n_nodes else "plain step"
        yield (
            f"{file_type}: context {n_past}, {what}",
            f"{ours * 1e3:.2f} ms = {steps:.2f} plain steps; stock {stock * 1e3:.2f} ms",
        )


def book_rows(file_type: str, books: Books) -> Iterator[tuple[str, str]]:
    for (side, n_past, n_leaves), seconds in books.items():
        yield (
            f"{file_type}: bookkeeping, {side}, context {n_past}, {n_leaves} leaves",
            f"{seconds.median * 1e3:.3f} ms ({seconds.smallest * 1e3:.3f} to "
            f"{seconds.largest * 1e3:.3f})",
        )


def pass_figures(file_type: str, curve: Curve) -> Iterator[Figure]:
    ours, stock = curve["ours"], curve["stock"]
    for n_nodes, goal in ((16, 2.5), (32, 4.5)):
        seconds = ours[4096, n_nodes].median
        name = f"{file_type}: {n_nodes} nodes at 4096, in "
        yield Figure.at_most(name + "plain steps of ours", seconds / ours[4096, 0].median, goal)
        yield Figure.at_most(name + "plain steps of stock", seconds / stock[4096, 0].median, goal)
    ratio = ours[512, 16].median / stock[512, 16].median
    yield Figure.at_most(f"{file_type}: 16 nodes at 512, ours / stock", ratio, 1.0)


def book_figures(file_type: str, books: Books) -> Iterator[Figure]:
    short, long = BOOKKEEPING_CONTEXTS
    for n_leaves in BOOKKEEPING_LEAVES:
        at_short, at_long = (books["ours", n, n_leaves].median for n in (short, long))
        name = f"{file_type}: bookkeeping of 64 nodes with {n_leaves} leaves"
        yield Figure.at_most(f"{name} at {long}, ms", at_long * 1e3, 1.0)
        yield Figure.at_most(f"{name}, {long} / {short}", at_long / at_short, 1.25)


def draw(curves: dict[str, Any], options: argparse.Namespace) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(
        1, len(curves), figsize=(5.5 * len(curves), 4), squeeze=False, sharey=True
    )
    for panel, (file_type, curve) in zip(panels[0], curves.items(), strict=True):
        for i, n_past in enumerate(sorted(options.contexts)):
            for side, style in (("stock", "--"), ("ours", "-")):
                ms = [curve[side][n_past, n].median * 1e3 for n in options.nodes]
                label = f"{n_past}" if side == "ours" else None
                panel.plot(options.nodes, ms, style, color=f"C{i}", marker=".", label=label)
        panel.set(xscale="log", yscale="log", xlabel="nodes in the tree", title=file_type)
        panel.set_xticks(options.nodes, [str(n) for n in options.nodes])
        panel.grid(alpha=0.3)
    panels[0][0].set_ylabel("ms a pass (dashed: stock llama.cpp)")
    panels[0][-1].legend(title="context")
    figure.tight_layout()
    figure.savefig(options.plot, metadata={"Date": None})


if __name__ == "__main__":
    main()
