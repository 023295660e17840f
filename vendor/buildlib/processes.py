"""Child processes whose output goes to a log and which never outlive us."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TextIO

TERMINATE_S = 10.0


def run_logged(
    command: Sequence[str | Path],
    log: TextIO,
    *,
    on_line: Callable[[str], None] | None = None,
    env: Mapping[str, str] | None = None,
) -> int:
    """Run `command`, copy each line of its output to `log` and to `on_line`; its exit status."""
    log.write("$ " + " ".join(str(part) for part in command) + "\n")
    log.flush()
    child = subprocess.Popen(
        [str(part) for part in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=env,
        encoding="utf-8",
        errors="replace",
    )
    try:
        assert child.stdout is not None
        for line in child.stdout:
            log.write(line)
            if on_line is not None:
                on_line(line)
        return child.wait()
    except BaseException:
        _end(child)
        raise
    finally:
        if child.stdout is not None:
            child.stdout.close()
        log.flush()


def first_line(command: Sequence[str]) -> str | None:
    """The first non-empty line that a short command prints; None if it cannot run or fails."""
    try:
        result = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if result.returncode != 0:
        return None
    lines = (line.strip() for line in result.stdout.splitlines())
    return next((line for line in lines if line), "")


def _end(child: subprocess.Popen[str]) -> None:
    child.terminate()
    try:
        child.wait(TERMINATE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
