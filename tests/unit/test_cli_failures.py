"""A command that cannot go on says why in one line; interrupts and closed pipes are quiet."""

from __future__ import annotations

from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from pytreellama.cli.failures import BROKEN_PIPE, CleanFailures, as_one_line
from pytreellama.cli.options import Debug
from pytreellama.errors import CacheFullError, ModelLoadError, NativeLibraryError

FAILURES: dict[str, BaseException] = {
    "model": ModelLoadError("cannot load a.gguf:\n  it is damaged"),
    "cache": CacheFullError(""),
    "native": NativeLibraryError("not built"),
    "file": PermissionError(13, "Permission denied", "out/step-0001.svg"),
    "interrupt": KeyboardInterrupt(),
    "pipe": BrokenPipeError(32, "Broken pipe"),
    "bug": ZeroDivisionError("division by zero"),
}

app = typer.Typer(cls=CleanFailures, pretty_exceptions_enable=False)


@app.command()
def fail(kind: Annotated[str, typer.Argument()], debug: Debug = False) -> None:
    raise FAILURES[kind]


@app.command()
def other() -> None:
    """A second command, so that the first needs its name."""


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("model", "error: cannot load a.gguf: it is damaged\n"),
        ("cache", "error: CacheFullError\n"),
        ("native", "error: not built\n"),
        ("file", "error: out/step-0001.svg: Permission denied\n"),
    ],
)
def test_an_expected_failure_is_one_line_on_stderr(kind: str, message: str) -> None:
    result = CliRunner().invoke(app, ["fail", kind])
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", message)


@pytest.mark.parametrize("kind", ["model", "native", "file"])
def test_debug_lets_the_exception_through(kind: str) -> None:
    result = CliRunner().invoke(app, ["fail", kind, "--debug"])
    assert result.exception is FAILURES[kind]


def test_a_bug_is_not_hidden() -> None:
    result = CliRunner().invoke(app, ["fail", "bug"])
    assert result.exception is FAILURES["bug"]


@pytest.mark.parametrize(("kind", "code"), [("interrupt", 130), ("pipe", BROKEN_PIPE)])
def test_interrupts_and_closed_pipes_are_quiet(kind: str, code: int) -> None:
    result = CliRunner().invoke(app, ["fail", kind])
    assert (result.exit_code, result.stdout, result.stderr) == (code, "", "")


def test_an_operating_systems_error_without_a_file_is_told() -> None:
    assert as_one_line(OSError(28, "No space left on device")) == "No space left on device"
    assert as_one_line(OSError("strange")) == "strange"
