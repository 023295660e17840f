"""The command line: arguments in; text, tables and progress out. The work is done elsewhere.

Modules that load the native part or NumPy are imported inside commands, so that ``--help`` is
quick and works without a build.
"""

from __future__ import annotations

from typing import Annotated

import typer

from pytreellama import __version__
from pytreellama.cli import bench, doctor, generate, medusa, plan, serve, tree
from pytreellama.cli.failures import CleanFailures, flush_stdout
from pytreellama.cli.output import never_fail_to_encode

__all__ = ["app", "main"]

app = typer.Typer(
    name="pytreellama",
    cls=CleanFailures,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("generate")(generate.generate)
app.command("tree")(tree.tree)
app.command("serve")(serve.serve)
app.command("plan")(plan.plan)
app.command("bench")(bench.bench)
app.command("doctor")(doctor.doctor)
app.add_typer(medusa.app, name="medusa")


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"pytreellama {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and leave.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Tree-based parallel decoding for any GGUF model.

    Guesses a tree of continuations, checks it in one pass of the model,
    and keeps what the model agrees with: its own text, sooner.
    """


def main() -> None:
    """Run the command line; the entry point of ``pytreellama``."""
    never_fail_to_encode()
    try:
        app(prog_name="pytreellama")
    finally:
        flush_stdout()
