"""What a pass of n tokens costs in plain steps, stock llama.cpp beside ours, for each quantisation.

    python bench/batch_cost.py [--json | --markdown] [--types T ...] [--large] [--model FILE]
                               [--tokens N ...] [--repeats N] [--stock-attention]

Both builds' ``llama-batched-bench`` decode n sequences at once, a token and a row of logits each.
Every sequence has a short text and a stream of its own, so that attention is as little as it can be
and the same for every token: matrix products are the rest. The last column is a prefill: 512 tokens
of one sequence, with logits of the last. Builds take turns; ratios are medians of those in turns.
Ours attends faster than stock even so: with ``--stock-attention`` nothing but products differs.

Beside them stands the limit if arithmetic hid behind the reading of weights, or reading behind
arithmetic: a plain step of ours, or the pass's multiplications at the best rate that any pass of
ours reached. (A prefill's rate is lower: its tokens attend to hundreds of others.)

The model is the default one, requantised; ``--large`` adds one that no cache of a CPU holds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from lib.models import Work, add_types_option, large_model, name_of, requantised, work_of
from lib.report import Figure, Spread, note, publish, tool
from lib.stock import stock_tool
from pytreellama.context.params import default_n_threads
from pytreellama.model.default_model import default_model_path

TYPES = (
    *("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"),
    *("Q4_K_M", "Q5_K_M", "Q6_K", "IQ4_NL", "F16", "BF16"),
)
TOKENS = (2, 4, 8, 16, 32, 64, 128, 256)
MAX_TOKENS = 256  # llama.cpp has no more sequences
PREFILL = 512
N_PROMPT = 16
CELLS = 256  # a sequence's part of the cache is a multiple of so many

# short passes are many, for the sake of precision, long ones few, for the sake of time
MAX_SHORT, N_STEPS_SHORT, N_STEPS_LONG = 32, 16, 4

TABLE_WIDTH = 140

GOALS = {
    "Q8_0": {2: 1.2, 4: 1.5, 8: 2.6},
    "Q4_1": {2: 1.3, 4: 1.8, 8: 3.2},
    "Q5_0": {2: 1.3, 4: 1.8, 8: 3.2},
    "Q4_0": {2: 1.3, 4: 1.9, 8: 3.5},
    "Q4_K_M": {2: 1.3, 4: 1.9, 8: 3.5},
    "F16": {2: 1.15, 4: 1.4, 8: 2.0},
}
SLOWEST_GOAL = 1.02
RATIO = "ours / stock"


def main() -> None:
    options = parse_options()
    if options.stock_attention:
        os.environ["LLAMA_KQ_ORDER_DISABLE"] = "1"
    sources = [options.model or default_model_path(), *([large_model()] if options.large else [])]
    models = {
        (name_of(source), file_type): requantised(source, file_type)
        for source in sources
        for file_type in options.types
    }
    tools = {name: build("llama-batched-bench") for name, build in BUILDS.items()}
    costs = [
        Costs(name, file_type, work_of(path), measure(tools, path, options))
        for (name, file_type), path in models.items()
    ]
    if not options.json:
        show(costs, options.markdown)
    if not options.markdown:
        publish(
            "cost of small batches",
            [row for cost in costs for row in rows(cost)],
            [figure for cost in costs for figure in figures(cost)],
            options.json,
            threads=options.threads,
            stock_attention=options.stock_attention,
            costs=[line for cost in costs for line in lines(cost)],
        )


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    output.add_argument("--markdown", action="store_true", help="the table of costs for the docs")
    add_types_option(parser, TYPES)
    parser.add_argument("--large", action="store_true", help="a random model of 1B parameters, too")
    parser.add_argument("--model", type=Path, help="a GGUF file instead of the default model")
    parser.add_argument("--tokens", nargs="+", type=int, default=TOKENS, metavar="N")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--stock-attention", action="store_true", help="let ours attend as stock")
    parser.add_argument("--threads", type=int, default=default_n_threads())
    options = parser.parse_args()
    if not all(1 <= n <= MAX_TOKENS for n in options.tokens):
        parser.error(f"--tokens must be from 1 to {MAX_TOKENS}")
    return options


#
# what is measured
#

BUILDS = {"stock": stock_tool, "ours": tool}

Seconds = dict[int, list[float]]  # tokens of a pass -> seconds of one, for each repeat


def measure(tools: dict[str, Path], model: Path, options: argparse.Namespace) -> dict[str, Seconds]:
    sizes = sorted({1, *options.tokens})
    short = tuple(n for n in sizes if n <= MAX_SHORT)
    long = tuple(n for n in sizes if n > MAX_SHORT)
    seconds: dict[str, Seconds] = {build: defaultdict(list) for build in tools}
    for i in range(options.repeats):
        for group in filter(None, (short, long, (PREFILL,))):
            told = ", ".join(map(str, group))
            note(f"{model.stem}: repeat {i + 1} of {options.repeats}, passes of {told} tokens")
            for build, path in tools.items():
                for n, value in pass_seconds(path, model, group, options.threads).items():
                    seconds[build][n].append(value)
    return seconds


def pass_seconds(
    tool: Path, model: Path, sizes: tuple[int, ...], n_threads: int
) -> dict[int, float]:
    """Seconds of a pass of each size, or of the prefill."""
    if sizes == (PREFILL,):
        results = batched_bench(tool, model, PREFILL, 1, (1,) * N_STEPS_LONG, n_threads)
        return {PREFILL: statistics.mean(result["t_pp"] for result in results)}
    n_steps = N_STEPS_SHORT if max(sizes) <= MAX_SHORT else N_STEPS_LONG
    results = batched_bench(tool, model, N_PROMPT, n_steps, sizes, n_threads)
    return {result["pl"]: result["t_tg"] / n_steps for result in results}


def batched_bench(
    tool: Path, model: Path, n_prompt: int, n_steps: int, n_seqs: tuple[int, ...], n_threads: int
) -> list[dict[str, Any]]:
    """The results for each number of sequences, after one that does not count."""
    n_cells = CELLS * -(-(n_prompt + n_steps) // CELLS)
    words: dict[str, Any] = {
        "-m": model,
        "-t": n_threads,
        "-fa": "on",
        "-npp": n_prompt,
        "-ntg": n_steps,
        "-npl": ",".join(map(str, (n_seqs[0], *n_seqs))),
        "-c": max(n_seqs) * n_cells,
        "-b": PREFILL,
        "-ub": PREFILL,
        "--output-format": "jsonl",
        "-lv": 1,  # errors, no warnings
    }
    command = [str(tool), "-no-kvu", "-pps", *(str(w) for pair in words.items() for w in pair)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    results = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert tuple(result["pl"] for result in results[1:]) == n_seqs
    return results[1:]


#
# what is told
#


@dataclass(frozen=True)
class Costs:
    """What was measured of one model in one type, by build."""

    model: str
    file_type: str
    work: Work
    seconds: dict[str, Seconds]

    @property
    def tokens(self) -> list[int]:
        return sorted(self.seconds["ours"])

    def plain_s(self, build: str) -> float:
        return statistics.median(self.seconds[build][1])

    def in_steps(self, build: str, n: int) -> float:
        """Plain steps of the same build."""
        return _median_ratio(self.seconds[build][n], self.seconds[build][1])

    def ours_to_stock(self, n: int) -> float:
        return _median_ratio(self.seconds["ours"][n], self.seconds["stock"][n])

    def n_multiplications(self, n: int) -> int:
        return self.work.of(n, 1 if n == PREFILL else n)

    def rate(self, n: int) -> float:
        """Multiplications a second in our passes of n tokens."""
        return self.n_multiplications(n) / statistics.median(self.seconds["ours"][n])

    def best_rate(self) -> float:
        return max(map(self.rate, self.tokens))

    def limit(self, n: int) -> float:
        """Plain steps of ours that a pass would take if it waited for one thing only."""
        return max(1.0, self.n_multiplications(n) / self.best_rate() / self.plain_s("ours"))


def _median_ratio(above: list[float], below: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def lines(cost: Costs) -> Iterator[dict[str, Any]]:
    """The table of costs, line by line."""
    for build in cost.seconds:
        plain_ms = round(cost.plain_s(build) * 1e3, 4)
        yield _line(cost, build, plain_ms, {n: cost.in_steps(build, n) for n in cost.tokens})
    yield _line(cost, "limit", None, {n: cost.limit(n) for n in cost.tokens})
    yield _line(cost, RATIO, None, {n: cost.ours_to_stock(n) for n in cost.tokens})


def _line(
    cost: Costs, build: str, plain_ms: float | None, values: dict[int, float]
) -> dict[str, Any]:
    return {
        "model": cost.model,
        "type": cost.file_type,
        "build": build,
        "plain step, ms": plain_ms,
        **{str(n): round(value, 4) for n, value in values.items()},
    }


def show(costs: list[Costs], as_markdown: bool) -> None:
    console = Console(width=TABLE_WIDTH)
    for model in dict.fromkeys(cost.model for cost in costs):
        told = [line for cost in costs if cost.model == model for line in lines(cost)]
        title = f"{model}: what a pass of n tokens costs in plain steps of the same build"
        table = Table(title=title, box=box.MARKDOWN if as_markdown else box.HEAVY_HEAD)
        for name in list(told[0])[1:]:
            table.add_column(name, justify="left" if name in ("type", "build") else "right")
        for line in told:
            table.add_row(*map(_cell, list(line.values())[1:]), end_section=line["build"] == RATIO)
        console.print(table)


def _cell(value: str | float | None) -> str:
    return f"{value:.2f}" if isinstance(value, float) else value or ""


def rows(cost: Costs) -> Iterator[tuple[str, Any]]:
    name = f"{cost.model} {cost.file_type}"
    yield f"{name}: a plain step reads", str(cost.work)
    for build, seconds in cost.seconds.items():
        yield f"{name}: plain step of {build}, ms", Spread.of([s * 1e3 for s in seconds[1]])
    bandwidth = cost.work.n_bytes.total() / cost.plain_s("ours")
    yield f"{name}: plain step of ours, GB/s", f"{bandwidth / 1e9:.1f}"
    for what, rate in (("prefill", cost.rate(PREFILL)), ("best pass", cost.best_rate())):
        yield f"{name}: {what} of ours, 10^9 multiplications/s", f"{rate / 1e9:.0f}"


def figures(cost: Costs) -> Iterator[Figure]:
    name = f"{cost.model} {cost.file_type}"
    for n, goal in GOALS.get(cost.file_type, {}).items():
        if n in cost.tokens:
            value = cost.in_steps("ours", n)
            yield Figure.at_most(f"{name}: {n} tokens, in plain steps", value, goal)
    slowest = max(cost.ours_to_stock(n) for n in cost.tokens)
    yield Figure.at_most(f"{name}: slowest ours / stock", slowest, SLOWEST_GOAL)


if __name__ == "__main__":
    main()
