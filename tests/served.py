"""A real server for tests: a process of its own, its address, its log, and its end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from alone import started

_START_S = 120.0  # with costs that are measured first, on a machine that does other things
_STOP_S = 60.0
_ADDRESS = re.compile(rb"is served at (http://\S+)/v1;")


@dataclass(frozen=True)
class Served:
    """A server that runs.

    Attributes:
        url: of the page; OpenAI's interface is at ``url + "/v1"``.
        log_path: all that it has said.
    """

    process: subprocess.Popen[bytes]
    url: str
    log_path: Path

    @property
    def log(self) -> str:
        """What it has said so far, for messages of failures."""
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels; of a server that asks for no key."""
        text = httpx.get(f"{self.url}/metrics").raise_for_status().text
        lines = [line for line in text.splitlines() if re.match(rf"{name}(\{{| )", line)]
        assert lines, f"{name} is not among the metrics:\n{text}"
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    def ask_to_stop(self) -> None:
        """SIGTERM; does not wait."""
        self.process.send_signal(signal.SIGTERM)

    def stop(self, within_s: float = _STOP_S) -> None:
        """SIGTERM, and see that it leaves cleanly."""
        if self.process.poll() is None:
            self.ask_to_stop()
        self.wait(within_s)

    def wait(self, within_s: float = _STOP_S) -> None:
        """See that it leaves cleanly, once it was asked to."""
        try:
            code = self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it runs on after {within_s:g} s:\n{self.log}") from None
        assert code == 0, f"it left with {code}:\n{self.log}"


@contextmanager
def served(
    model: Path, folder: Path, *options: str, environment: Mapping[str, str] | None = None
) -> Iterator[Served]:
    """``pytreellama serve`` on a free port; at the end it is stopped, and must leave cleanly.

    A test that ends the process itself, however it does, has to ``wait`` for it.

    Args:
        folder: of its logs and of what it measures; servers with the same one measure once.
        options: of the command line.
        environment: in addition to this process's.
    """
    with _process(model, folder, options, environment or {}) as (process, log_path):
        one = Served(process, _address(process, log_path), log_path)
        _wait_until_ready(one)
        yield one
        if process.returncode is None:
            one.stop()


@contextmanager
def _process(
    model: Path, folder: Path, options: tuple[str, ...], environment: Mapping[str, str]
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    command = [sys.executable, "-m", "pytreellama", "serve", "--port", "0", "--model", str(model)]
    inherited = {name: v for name, v in os.environ.items() if name != "PYTREELLAMA_API_KEY"}
    own = {"XDG_CACHE_HOME": str(folder / "cache"), **environment}
    with tempfile.NamedTemporaryFile(dir=folder, suffix=".log", delete=False) as log:
        child = started(
            [*command, *options],
            env=inherited | own,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        with child as process:
            yield process, Path(log.name)


def _address(process: subprocess.Popen[bytes], log_path: Path) -> str:
    give_up_s = time.monotonic() + _START_S
    while (match := _ADDRESS.search(log_path.read_bytes())) is None:
        _require_running(process, log_path, give_up_s)
        time.sleep(0.02)
    return match[1].decode()


def _wait_until_ready(one: Served) -> None:
    give_up_s = time.monotonic() + _START_S
    while True:
        try:
            if httpx.get(f"{one.url}/health").is_success:
                return
        except httpx.TransportError:
            pass  # it does not listen yet
        _require_running(one.process, one.log_path, give_up_s)
        time.sleep(0.02)


def _require_running(process: subprocess.Popen[bytes], log_path: Path, give_up_s: float) -> None:
    what = None
    if process.poll() is not None:
        what = f"it left with {process.returncode}"
    elif time.monotonic() > give_up_s:
        what = f"it was not ready within {_START_S:g} s"
    if what is not None:
        log = log_path.read_text(encoding="utf-8", errors="replace")
        raise AssertionError(f"{what}:\n{log}")
