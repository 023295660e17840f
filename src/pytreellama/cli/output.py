"""Where things are printed: results on stdout, everything that accompanies them on stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pytreellama.closing import Closing

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

_PATIENCE_S = 0.5
_MARKS = 1000  # rich counts progress in whole numbers


def never_fail_to_encode() -> None:
    """Print a question mark for what a terminal's encoding lacks instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")


def stderr_console() -> Console:
    """The console for tables and progress beside a result."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def stdout_console() -> Console:
    """The console for tables that are the result.

    Where their reader has gone away, printing raises BrokenPipeError, as writing does.
    """
    from rich.console import Console

    class HonestConsole(Console):
        def on_broken_pipe(self) -> None:
            """Called while BrokenPipeError is handled; by default rich raises SystemExit."""
            raise

    return HonestConsole(highlight=False)


def write(text: str) -> None:
    """Write a piece of the result, at once."""
    print(text, end="", flush=True)


def print_json(value: Mapping[str, Any]) -> None:
    """Write the result as one JSON object on one line."""
    encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower()
    print(json.dumps(value, ensure_ascii=not encoding.startswith("utf")), flush=True)


class ProgressBar(Closing):
    """A bar on stderr that appears only if the work takes longer than half a second.

    Nothing is shown where stderr is not a terminal.

    Args:
        title: what is going on.
        refreshes_per_s: fewer disturb measurements less.
    """

    def __init__(self, title: str, refreshes_per_s: float = 10.0) -> None:
        self._title = title
        self._refreshes_per_s = refreshes_per_s
        self._console = stderr_console()
        self._started_s = time.perf_counter()
        self._progress: Progress | None = None
        self._share = 0.0

    def report(self, share: float) -> None:
        """Show how much of the work is done, from 0.0 to 1.0."""
        self._share = share
        if share >= 1.0:
            self.close()
        elif self._progress is not None:
            self._progress.update(self._progress.task_ids[0], completed=round(share * _MARKS))
        elif self._console.is_terminal and time.perf_counter() - self._started_s > _PATIENCE_S:
            self._show()

    def retitle(self, title: str) -> None:
        """Say anew what is going on."""
        self._title = title
        if self._progress is not None:
            self._progress.update(self._progress.task_ids[0], description=title)

    def close(self) -> None:
        """Take the bar off the screen."""
        progress, self._progress = self._progress, None
        if progress is not None:
            progress.stop()

    def _show(self) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        self._progress = Progress(
            *columns,
            console=self._console,
            transient=True,
            refresh_per_second=self._refreshes_per_s,
        )
        self._progress.add_task(self._title, total=_MARKS, completed=round(self._share * _MARKS))
        self._progress.start()


def facts_table(title: str, facts: Mapping[str, object]) -> Table:
    """A table of names and values."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name, Text(str(value)))
    return table
