"""What all benches share: figures with goals, tables, JSON, and llama.cpp's own tools beside us."""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Figure:
    """A measured number and what it was meant to be.

    Attributes:
        goal: such as ``>= 0.97``.
    """

    name: str
    value: float
    goal: str
    met: bool

    @classmethod
    def at_least(cls, name: str, value: float, goal: float) -> Figure:
        return cls(name, round(value, 4), f">= {goal}", value >= goal)

    @classmethod
    def at_most(cls, name: str, value: float, goal: float) -> Figure:
        return cls(name, round(value, 4), f"<= {goal}", value <= goal)


@dataclass(frozen=True)
class Spread:
    """Repeated measurements: the median to quote, the rest to judge the machine by."""

    median: float
    smallest: float
    largest: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values), len(values))

    def __str__(self) -> str:
        return f"{self.median:.4g} ({self.smallest:.4g} to {self.largest:.4g}, n = {self.n})"


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextmanager
def shown(what: str) -> Iterator[Callable[[float], None]]:
    """Show how far something is: a bar on a terminal, one line elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        note(what)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=1.0)
        yield lambda share: progress.update(task, completed=share)


def publish(
    title: str,
    rows: Iterable[tuple[str, Any]],
    figures: Sequence[Figure],
    as_json: bool,
    **facts: Any,
) -> None:
    """Print the tables, or with ``--json`` one object with the list ``figures``."""
    rows = list(rows)
    if as_json:
        print(
            json.dumps(
                {
                    "bench": title,
                    "machine": platform.processor() or platform.machine(),
                    "figures": [asdict(figure) for figure in figures],
                    "rows": {name: _plain(value) for name, value in rows},
                    **facts,
                }
            )
        )
        return
    console = Console()
    details = Table("what", "measured", title=title)
    for name, value in rows:
        details.add_row(name, str(value))
    console.print(details)
    goals = Table("figure", "value", "goal", "met", title="figures")
    for figure in figures:
        goals.add_row(figure.name, f"{figure.value:g}", figure.goal, "yes" if figure.met else "NO")
    console.print(goals)


def tool(name: str) -> Path:
    """A tool of llama.cpp, built from the very source that pytreellama is built from."""
    command = [sys.executable, str(ROOT / "build.py"), "build", "--target", name]
    path = None
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as build:
        for line in build.stdout or ():
            print(line, end="", file=sys.stderr)
            if line.startswith(f"{name}: "):
                path = Path(line.partition(": ")[2].strip())
    if build.returncode != 0 or path is None:
        raise SystemExit(f"{name} could not be built; see what build.py says above")
    return path


def _plain(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
