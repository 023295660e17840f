"""The command line: parses arguments, prints text, tables and progress.

Commands import NumPy and the native library inside functions, so that ``--help`` is fast and works
without a build.
"""

from __future__ import annotations

from typing import Annotated

import typer

from pytreellama import __version__
from pytreellama.cli import (
    bench,
    chat,
    demo,
    doctor,
    eagle,
    embed,
    generate,
    medusa,
    plan,
    pull,
    quantize,
    score,
    serve,
    tokenize,
    tree,
)
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
app.command("chat")(chat.chat)
app.command("demo")(demo.demo)
app.command("tree")(tree.tree)
app.command("serve")(serve.serve)
app.command("plan")(plan.plan)
app.command("bench")(bench.bench)
app.command("doctor")(doctor.doctor)
app.command("pull")(pull.pull)
app.command("quantize")(quantize.quantize)
app.command("tokenize")(tokenize.tokenize)
app.command("score")(score.score)
app.command("embed")(embed.embed)
app.add_typer(medusa.app, name="medusa")
app.add_typer(eagle.app, name="eagle")


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"pytreellama {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Tree-based parallel decoding for any GGUF model.

    Speculative decoding with token trees: drafts a tree of continuations, verifies it in
    one forward pass, and keeps the accepted path. The output is the model's own.
    """


def main() -> None:
    """Run the command line; the entry point of ``pytreellama``."""
    never_fail_to_encode()
    try:
        app(prog_name="pytreellama")
    finally:
        flush_stdout()
