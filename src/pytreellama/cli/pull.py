"""``pytreellama pull``: downloads a model, and says where it is."""

from __future__ import annotations

from typing import Annotated

import typer

from pytreellama.cli.option import option
from pytreellama.cli.options import Debug, Json
from pytreellama.cli.output import print_json


def pull(
    source: Annotated[
        str,
        typer.Argument(
            help="owner/name or owner/name:Q4_K_M of the Hugging Face Hub (hf: in front is "
            "allowed), or `default` for the default model."
        ),
    ],
    filename: Annotated[
        str | None,
        option("--file", help="A file of the repository, or a pattern such as '*q8_0.gguf'."),
    ] = None,
    revision: Annotated[
        str | None, option("--revision", help="A branch, tag or commit of the repository.")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Download a model once, and print the path of its file.

    Commands take the same names after -m hf:, and download what is missing.
    """
    from pytreellama.model.default_model import default_model_path
    from pytreellama.model.hub import hub_model_path
    from pytreellama.model.source import HUB

    if source != "default":
        typer.echo(f"looking for {source} on the Hugging Face Hub", err=True)
    if source == "default":
        path = default_model_path()
    else:
        path = hub_model_path(source.removeprefix(HUB), filename, revision=revision)
    if as_json:
        print_json({"path": str(path), "n_bytes": path.stat().st_size})
    else:
        typer.echo(str(path))
