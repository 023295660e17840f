"""How a command ends when it cannot go on: one clean line, an exit code, no traceback."""

from __future__ import annotations

import os
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from pytreellama.cli.typed import UsageError, require_readable, with_advice
from pytreellama.errors import PyTreeLlamaError

FAILED = 1
INTERRUPTED = 130
"""What a shell reports for a process that SIGINT ended."""
BROKEN_PIPE = 141
"""What a shell reports for a process that SIGPIPE ended."""

_DEBUG = "pytreellama.debug"


def remember_debug(context: typer.Context, asked: bool) -> None:
    """Callback of ``--debug``: tells ``CleanFailures`` to let exceptions through."""
    context.meta[_DEBUG] = asked


class CleanFailures(TyperGroup):
    """A group of commands whose expected failures are printed as ``error: ...`` on stderr."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        if command is not None and not hasattr(command, "commands"):
            require_readable(command, rest)
        return name, command, rest

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except UsageError as error:
            with_advice(error)
            raise
        except BrokenPipeError as error:
            discard_stdout()
            raise typer.Exit(BROKEN_PIPE) from error
        except KeyboardInterrupt as error:
            raise typer.Exit(INTERRUPTED) from error
        except (PyTreeLlamaError, OSError) as error:
            if ctx.meta.get(_DEBUG):
                raise
            print_error(error)
            raise typer.Exit(FAILED) from error


def print_error(error: BaseException) -> None:
    """Print an exception as one line on stderr."""
    typer.echo(f"error: {as_one_line(error)}", err=True)


def as_one_line(error: BaseException) -> str:
    """The message of an exception, line breaks taken out."""
    if isinstance(error, OSError) and error.strerror and not isinstance(error, PyTreeLlamaError):
        where = f"{error.filename}: " if error.filename is not None else ""
        return f"{where}{error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def flush_stdout() -> None:
    """Write out what is buffered, now, while a closed pipe can still be handled quietly."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        discard_stdout()
        sys.exit(BROKEN_PIPE)


def discard_stdout() -> None:
    """Send stdout nowhere, or the interpreter complains about it at exit."""
    try:
        target = sys.stdout.fileno()
    except (OSError, ValueError, AttributeError):
        return  # not a file: a test's or an embedder's stream
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, target)
    os.close(nowhere)
