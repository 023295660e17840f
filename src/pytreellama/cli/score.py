"""``pytreellama score``: how likely a model finds continuations of a text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from pytreellama.cli.option import option, unpacked
from pytreellama.cli.options import Debug, Json, ModelPath, Threads
from pytreellama.cli.output import print_json, stdout_console
from pytreellama.cli.placement_flags import PlacementFlags

if TYPE_CHECKING:
    from pytreellama.engine import Score


@unpacked(PlacementFlags)
def score(
    placement: PlacementFlags,
    prompt: Annotated[str, typer.Argument(help="The text that the continuations follow.")],
    continuations: Annotated[
        list[str],
        typer.Argument(help="Continuations, appended to the text as they are: mind the space."),
    ],
    model: ModelPath = None,
    chat: Annotated[bool, option("--chat", help="Treat the text as a user message.")] = False,
    threads: Threads = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show the log-probabilities of continuations, likeliest first.

    All are evaluated as one tree in one pass.
    """
    from pytreellama.cli.session import load_model
    from pytreellama.engine import Engine

    given = [{"role": "user", "content": prompt}] if chat else prompt
    with (
        load_model(model, placement) as loaded,
        Engine(loaded, "none", n_threads=threads) as engine,
    ):
        rows = [
            _row(text, one)
            for text, one in zip(continuations, engine.score(given, continuations), strict=True)
        ]
    if as_json:
        print_json({"scores": rows})
        return
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for column in ("continuation", "tokens", "log-probability", "a token"):
        table.add_column(column, justify="left" if column == "continuation" else "right")
    for row in sorted(rows, key=lambda row: -row["logp"]):
        mean = row["logp"] / row["n_tokens"]
        table.add_row(Text(row["text"]), str(row["n_tokens"]), f"{row['logp']:.3f}", f"{mean:.3f}")
    stdout_console().print(table)


def _row(text: str, one: Score) -> dict[str, Any]:
    return {
        "text": text,
        "n_tokens": len(one.tokens),
        "logp": one.logp,
        "tokens": list(one.tokens),
        "logps": [float(logp) for logp in one.logps],
    }
