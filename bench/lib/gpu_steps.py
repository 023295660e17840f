"""What ``bench/gpu.py`` measures, each part in a process of its own: one JSON object on stdout."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from lib.questions import OWN, load_questions
from lib.shaped_models import shaped_model
from pytreellama import Completion, Context, Engine, Model, TokenTree
from pytreellama.errors import PyTreeLlamaError
from pytreellama.testing.pass_times import timed_passes

Rows = list[dict[str, Any]]

N_WARM = 2  # passes of a size that are not timed: kernels are loaded, and graphs captured
N_STEPS = 32


def passes(options: argparse.Namespace) -> Rows:
    """Milliseconds of a pass over a tree, with its logits, by nodes and tokens of context."""
    rows: Rows = []
    for name in options.models:
        with _model(name) as model:
            for depth in options.depths:
                rows += _passes_at(model, name, depth, options)
    return rows


def _passes_at(model: Model, name: str, depth: int, options: argparse.Namespace) -> Rows:
    n_ctx = depth + max(options.nodes) + 256
    n_batch = max(2048, *options.nodes)
    with Context(model, n_ctx=n_ctx, n_batch=n_batch) as context:
        seq, prefill_s = _prefilled(context, depth)
        common = {"model": name, "depth": depth}
        rows = [common | {"what": "prefill", "tokens_per_s": depth / prefill_s}]
        for n_nodes in options.nodes:
            ms = _tree_ms(context, seq, _tree(n_nodes), options.repeats)
            rows.append(common | {"what": "pass", "nodes": n_nodes, "ms": ms})
    return rows


def _prefilled(context: Context, n_tokens: int) -> tuple[int, float]:
    ids = np.random.default_rng(0).integers(300, context.n_vocab, n_tokens).astype(np.int32)
    started_s = time.perf_counter()
    seq = context.prefill(ids, logits=True)
    context.outputs.argmax()  # the pass has ended then
    return seq, time.perf_counter() - started_s


def _tree(n_nodes: int) -> TokenTree:
    """A tree whose nodes have up to two children."""
    parents = [(i - 1) // 2 if i else -1 for i in range(n_nodes)]
    return TokenTree.from_parents([300 + i for i in range(n_nodes)], parents)


def _tree_ms(context: Context, seq: int, tree: TokenTree, repeats: int) -> dict[str, float]:
    """Medians: until the call returns, until the best token of each node is known, the commit."""
    times: dict[str, list[float]] = {"launch": [], "whole": [], "commit": []}
    for i in range(N_WARM + repeats):
        started_s = time.perf_counter()
        context.decode(tree, seq=seq)
        launched_s = time.perf_counter()
        context.outputs.argmax()
        known_s = time.perf_counter()
        context.commit(seq, tree.path(len(tree) - 1).tolist())
        committed_s = time.perf_counter()
        n_past = context.sequences.n_past(seq)
        context.memory.rm(seq, n_past - len(tree.path(len(tree) - 1)))
        if i >= N_WARM:
            times["launch"].append(launched_s - started_s)
            times["whole"].append(known_s - started_s)
            times["commit"].append(committed_s - known_s)
    return {name: 1e3 * statistics.median(values) for name, values in times.items()}


def engine(options: argparse.Namespace) -> Rows:
    """Plain beside drafted, greedy and sampled, for one request and for many at once."""
    questions = load_questions(OWN)
    rows: Rows = []
    with _model("default") as model:
        for n_requests in options.requests:
            for temperature in (0.0, 0.7):
                sampling = {"temperature": temperature, "seed": 1}
                runs = {
                    drafter: _run(model, drafter, questions, n_requests, sampling, options)
                    for drafter in ("none", *options.drafters)
                }
                plain = runs["none"]
                rows += [
                    {"requests": n_requests, "temperature": temperature, "drafter": drafter}
                    | _facts(*run, plain=plain)
                    for drafter, run in runs.items()
                ]
    return rows


def _run(
    model: Model,
    drafter: str,
    questions: Any,
    n_requests: int,
    sampling: dict[str, Any],
    options: argparse.Namespace,
) -> tuple[list[Completion], float, list[float]]:
    """Completions, seconds, and the seconds of each pass. One short run before warms up."""
    n_ctx = 1024 * max(1, n_requests)
    asked = [questions[i % len(questions)].messages for i in range(n_requests)]
    with Engine(model, drafter, n_ctx=n_ctx, n_seq_max=n_requests) as engine, timed_passes() as ran:
        engine.generate(asked[0], max_tokens=8)
        engine.clear_prefix_cache()
        ran.clear()
        started_s = time.perf_counter()
        completions = engine.generate(asked, max_tokens=options.tokens, ignore_eos=True, **sampling)
        return completions, time.perf_counter() - started_s, list(ran)


def _facts(
    completions: list[Completion],
    seconds: float,
    passes: list[float],
    *,
    plain: tuple[list[Completion], float, list[float]],
) -> dict[str, Any]:
    """What a run was. On a device that computes on after a call, ``pass_ms`` is the launch."""
    n_tokens = sum(len(one.tokens) for one in completions)
    equal = [a.tokens == b.tokens for a, b in zip(completions, plain[0], strict=True)]
    stats = [one.stats for one in completions]
    return {
        "tokens_per_s": n_tokens / seconds,
        "times_plain": plain[1] / seconds,
        "texts_as_plain": sum(equal),
        "texts": len(equal),
        "passes": len(passes),
        "pass_ms": 1e3 * statistics.mean(passes),
        "beside_pass_ms": 1e3 * (seconds - sum(passes)) / len(passes),
        "draft_s": sum(one.draft_s for one in stats),
        "plan_s": sum(one.plan_s for one in stats),
        "verify_s": sum(one.verify_s for one in stats),
        "tokens_per_step": n_tokens / max(1, sum(one.n_steps for one in stats)),
    }


def profile(options: argparse.Namespace) -> Rows:
    """Where a step of one request spends its time in Python: the costliest functions."""
    import cProfile
    import pstats
    import threading

    found: list[cProfile.Profile] = []

    def profiled(run: Callable[[], None]) -> Callable[[], None]:
        def wrapped() -> None:
            watch = cProfile.Profile()
            found.append(watch)
            watch.runcall(run)

        return wrapped

    usual = threading.Thread.run
    try:
        threading.Thread.run = lambda self: profiled(lambda: usual(self))()  # type: ignore[method-assign]
        with _model("default") as model, Engine(model, options.drafters[0], n_ctx=1024) as engine:
            engine.generate(
                load_questions(OWN)[0].messages, max_tokens=options.tokens, temperature=0
            )
    finally:
        threading.Thread.run = usual  # type: ignore[method-assign]
    rows: Rows = []
    for watch in found:
        stats: Any = pstats.Stats(watch)
        for (file, line, name), (_, n_calls, own_s, all_s, _) in stats.stats.items():
            rows.append(
                {
                    "function": f"{file.rpartition('/')[2]}:{line} {name}",
                    "calls": n_calls,
                    "own_ms": 1e3 * own_s,
                    "ms": 1e3 * all_s,
                }
            )
    return sorted(rows, key=lambda row: -row["own_ms"])[:25]


def _model(name: str) -> Model:
    """The default model, or one of random weights."""
    return Model.default() if name == "default" else Model(shaped_model(name))


STEPS: dict[str, Callable[[argparse.Namespace], Rows]] = {
    "passes": passes,
    "engine": engine,
    "profile": profile,
}


def run_step(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """The rows of one step and where they were measured; or why it failed."""
    try:
        with _model("default") as model:
            devices = [f"{device.name}: {device.description}" for device in model.devices]
        return {"devices": devices, "rows": STEPS[name](options)}
    except PyTreeLlamaError as error:
        return {"error": f"{type(error).__name__}: {error}"}
