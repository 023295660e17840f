"""Memory of a long answer: the process's peak, and what it grows by for each 1,000 tokens.

    python bench/memory.py [--tokens N] [--ctx N] [--json]

Each drafter writes the same greedy answer in a process of its own (Linux). A KV cache is whole from
the start, so what grows is scratch, the pages of larger trees, and what an answer keeps.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from lib.report import Figure, publish

DRAFTERS = ("none", "auto")
MOST_GROWTH_MB = {"none": 5.0, "auto": 20.0}
"""For each 1,000 of 7,000 tokens; of trees most is scratch for their sizes, once."""


def status_mb(name: str) -> float:
    """A size of this process, by its name in /proc."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


def write(drafter: str, n_tokens: int, n_ctx: int) -> dict[str, float]:
    """The peaks in MB of an answer: after a few tokens, and at its end."""
    import pytreellama as ptl

    with ptl.Model.default() as model, ptl.Engine(model, drafter=drafter, n_ctx=n_ctx) as engine:
        loaded = status_mb("VmHWM")
        engine.prepare()
        engine.generate("Hello", max_tokens=16, ignore_eos=True)
        short = status_mb("VmHWM")
        prompt = "Write a very long story about a city."
        engine.generate(prompt, max_tokens=n_tokens, ignore_eos=True)
        long = status_mb("VmHWM")
    return {"loaded": loaded, "short": short, "long": long}


def measured(drafter: str, n_tokens: int, n_ctx: int) -> dict[str, float]:
    """The same in a fresh process."""
    command = [sys.executable, __file__, "--child", drafter]
    command += ["--tokens", str(n_tokens), "--ctx", str(n_ctx)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=7000)
    parser.add_argument("--ctx", type=int, default=8192)
    parser.add_argument("--child", choices=DRAFTERS, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    options = parser.parse_args(arguments)
    if options.child:
        print(json.dumps(write(options.child, options.tokens, options.ctx)))
        return
    rows: list[tuple[str, object]] = []
    figures = []
    for drafter in DRAFTERS:
        found = measured(drafter, options.tokens, options.ctx)
        rows += [(f"{drafter}, {name}: peak, MB", round(mb)) for name, mb in found.items()]
        growth = 1000 * (found["long"] - found["short"]) / options.tokens
        name = f"{drafter}: MB for each 1,000 tokens"
        figures.append(Figure.at_most(name, growth, MOST_GROWTH_MB[drafter]))
    publish("memory of a long answer", rows, figures, options.json)


if __name__ == "__main__":
    main()
