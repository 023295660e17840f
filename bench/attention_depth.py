"""What a pass costs behind a long text: nodes of a tree, depths, and types of the cache.

    python bench/attention_depth.py [--json] [--depths N ...] [--nodes N ...] [--cache-types T ...]
                          [--beside FOLDER]

``--beside`` names a folder with another build of the package (``pytreellama/`` in it), such as one
from before a change. The builds are asked in turns, so that a noisy machine is noisy for both. The
least of some passes is shown: what else runs on a machine only adds. The limit is the bytes of
weights and of cells that a pass reads, by the bandwidth that as many threads of NumPy have.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lib.report import Figure, note, publish

DEPTHS = (64, 2048, 7000)
NODES = (1, 2, 4, 8, 16)
CACHE_TYPES = ("f16", "q8_0")
N_SPARE = 64  # cells for the tree
BESIDE_GOALS = {(7000, 8, "f16"): 0.55, (7000, 16, "f16"): 0.62}  # of the kernel before
BANDWIDTH_BYTES = 2**28  # what each thread reads; more than any cache


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--model", type=Path, help="a GGUF file; the default model without it")
    parser.add_argument("--depths", type=int, nargs="+", default=DEPTHS)
    parser.add_argument("--nodes", type=int, nargs="+", default=NODES)
    parser.add_argument("--cache-types", nargs="+", default=CACHE_TYPES)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--beside", type=Path, help="folder with another build of the package")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        serve(options)
        return
    rows = []
    for row in measure(options):
        rows.append(row)
        times = ", ".join(f"{ms:.2f} ms ({who})" for who, ms in row["ms"].items())
        note(f"{head(row)}: {times}")
        row["shown"] = f"{times}; limit {row['limit_ms']:.2f} ms"
    table = [(head(row), row if options.json else row["shown"]) for row in rows]
    publish("passes by depth", table, list(figures(rows)), options.json)


def head(row: dict[str, Any]) -> str:
    """Which pass it is."""
    return f"{row['cache']} cache, depth {row['depth']}, {row['nodes']} nodes"


def figures(rows: list[dict[str, Any]]) -> Iterator[Figure]:
    """Plain passes against the memory's limit; trees against the other build."""
    for row in rows:
        if row["nodes"] == 1 and row["depth"] >= max(DEPTHS):
            limits = row["ms"]["this"] / row["limit_ms"]
            yield Figure.at_most(f"{head(row)}, in units of the memory's limit", limits, 1.6)
        goal = BESIDE_GOALS.get((row["depth"], row["nodes"], row["cache"]))
        if goal is not None and "beside" in row["ms"]:
            share = row["ms"]["this"] / row["ms"]["beside"]
            yield Figure.at_most(f"{head(row)}, this / beside", share, goal)


def measure(options: argparse.Namespace) -> Any:
    """A row for each size; one worker a build, for one type of the cache at a time."""
    builds = {"this": None} | ({"beside": options.beside} if options.beside else {})
    for kind in options.cache_types:
        workers = {name: start(kind, folder, options) for name, folder in builds.items()}
        for depth, nodes in itertools.product(options.depths, options.nodes):
            ms: dict[str, float] = {}
            for _ in range(options.repeats):
                for name, worker in workers.items():
                    ms[name] = min(ms.get(name, 1e9), ask(worker, depth, nodes))
            limit_ms = ask(workers["this"], depth, 0)
            yield {"cache": kind, "depth": depth, "nodes": nodes, "ms": ms, "limit_ms": limit_ms}
        for worker in workers.values():
            worker.stdin.close()
            worker.wait()


def start(kind: str, folder: Path | None, options: argparse.Namespace) -> Any:
    arguments = [sys.executable, __file__, "--worker", "--cache-types", kind]
    arguments += ["--depths", str(max(options.depths))]
    arguments += ["--model", str(options.model)] if options.model else []
    arguments += ["--threads", str(options.threads)] if options.threads else []
    environment = os.environ | ({"PYTHONPATH": str(folder)} if folder else {})
    return subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )


def ask(worker: Any, depth: int, nodes: int) -> float:
    worker.stdin.write(f"{depth} {nodes}\n")
    worker.stdin.flush()
    return float(worker.stdout.readline())


def serve(options: argparse.Namespace) -> None:
    """Answer requests, a line each (depth, nodes), with milliseconds; 0 nodes is the limit."""
    import numpy as np

    from pytreellama import Context, Model, TokenTree
    from pytreellama.context.memory_check import kv_cache_bytes

    kind = options.cache_types[0]
    rng = np.random.default_rng(1)
    model = Model(options.model) if options.model else Model.default()
    n_ctx = max(options.depths) + N_SPARE + max(NODES)
    threads = {"n_threads": options.threads} if options.threads else {}
    with model, Context(model, n_ctx=n_ctx, type_k=kind, type_v=kind, **threads) as context:
        seq = context.sequences.new()
        for line in sys.stdin:
            depth, nodes = map(int, line.split())
            if nodes == 0:
                n_bytes = (
                    model.size
                    + depth * kv_cache_bytes(model, context.params) / context.params.n_ctx
                )
                print(1e3 * n_bytes / bandwidth(context.n_threads), flush=True)
                continue
            have = context.sequences.n_past(seq)
            if have > depth:
                context.memory.rm(seq, depth)
            elif have < depth:
                context.prefill(rng.integers(3, 40000, depth - have, np.int32), seq)
            parents = [(node - 1) // 2 for node in range(nodes)]
            parents[0] = -1
            tree = TokenTree.from_parents(rng.choice(40000, nodes, replace=False) + 3, parents)
            best = 1e9
            for _ in range(3):
                start_s = time.perf_counter()
                context.decode(tree, seq=seq)
                best = min(best, time.perf_counter() - start_s)
                context.discard(seq)
            print(1e3 * best, flush=True)


def bandwidth(n_threads: int) -> float:
    """Bytes that threads together read in a second, the best of five."""
    import numpy as np

    arrays = [np.ones(BANDWIDTH_BYTES // 4, np.float32) for _ in range(n_threads)]
    best_s = 1e9
    with ThreadPoolExecutor(n_threads) as pool:
        for _ in range(5):
            start_s = time.perf_counter()
            list(pool.map(np.max, arrays))
            best_s = min(best_s, time.perf_counter() - start_s)
    return n_threads * BANDWIDTH_BYTES / best_s


if __name__ == "__main__":
    main()
