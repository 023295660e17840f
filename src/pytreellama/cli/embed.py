"""``pytreellama embed``: vectors of texts."""

from __future__ import annotations

from typing import Annotated

import typer

from pytreellama.cli.option import option, unpacked
from pytreellama.cli.options import Debug, ModelPath, Threads
from pytreellama.cli.output import print_json
from pytreellama.cli.placement_flags import PlacementFlags


@unpacked(PlacementFlags)
def embed(
    placement: PlacementFlags,
    texts: Annotated[
        list[str] | None,
        typer.Argument(
            help="The texts. If missing, each line of stdin is one.", show_default=False
        ),
    ] = None,
    model: ModelPath = None,
    pooling: Annotated[
        str | None,
        option("--pooling", help="mean, last or cls. Default: what the file says, else mean."),
    ] = None,
    threads: Threads = None,
    debug: Debug = False,
) -> None:
    """Write the vectors of texts as JSON: one object a text, one a line."""
    from pytreellama.cli.session import given_text, load_model
    from pytreellama.engine import Engine

    given = texts or given_text(None).splitlines()
    with (
        load_model(model, placement) as loaded,
        Engine(loaded, "none", n_threads=threads) as engine,
    ):
        vectors = engine.embed(given, pooling)  # type: ignore[arg-type]  # it checks the name
    for text, vector in zip(given, vectors, strict=True):
        print_json({"text": text, "embedding": [float(value) for value in vector]})
