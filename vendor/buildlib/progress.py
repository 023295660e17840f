"""What a person sees while a build runs: one line that redraws itself, or a line per 10%."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import TextIO

REDRAW_S = 0.5


def format_elapsed(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}"


class Progress:
    """Reports phases and steps to `stream`; says nothing until the first phase."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._redraws = self._stream.isatty()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._ticker: threading.Thread | None = None
        self._phase = ""
        self._step = self._n_steps = 0
        self._told_tenths = 0
        self._started_s = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def phase(self, name: str) -> None:
        with self._lock:
            self._clear_line()
            self._phase, self._step, self._n_steps, self._told_tenths = name, 0, 0, 0
            if self._redraws:
                self._redraw()
                self._start_ticker()
            else:
                self._print(name)

    def step(self, step: int, n_steps: int) -> None:
        with self._lock:
            self._step, self._n_steps = step, n_steps
            if self._redraws:
                self._redraw()
            elif n_steps:
                self._tell_tenth(10 * step // n_steps)

    def say(self, text: str) -> None:
        """Print a line that stays."""
        with self._lock:
            self._clear_line()
            self._print(text)

    def close(self) -> None:
        self._stop.set()
        if self._ticker is not None:
            self._ticker.join()
            self._ticker = None
        with self._lock:
            self._clear_line()
            self._phase = ""

    def _tell_tenth(self, tenths: int) -> None:
        if tenths > self._told_tenths:
            self._told_tenths = tenths
            self._print(f"  {10 * tenths}% [{self._step}/{self._n_steps}] {self._elapsed()}")

    def _elapsed(self) -> str:
        return format_elapsed(time.monotonic() - self._started_s)

    def _start_ticker(self) -> None:
        if self._ticker is None:
            self._stop.clear()
            self._ticker = threading.Thread(target=self._tick, daemon=True)
            self._ticker.start()

    def _tick(self) -> None:
        while not self._stop.wait(REDRAW_S):
            with self._lock:
                if self._phase:
                    self._redraw()

    def _redraw(self) -> None:
        count = f" [{self._step}/{self._n_steps}]" if self._n_steps else ""
        self._stream.write(f"\r\x1b[2K{self._phase}{count} {self._elapsed()}")
        self._stream.flush()

    def _clear_line(self) -> None:
        if self._redraws and self._phase:
            self._stream.write("\r\x1b[2K")
            self._stream.flush()

    def _print(self, text: str) -> None:
        self._stream.write(text + "\n")
        self._stream.flush()
