"""``pytreellama quantize``: a model file in another weight type."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pytreellama.cli.option import option
from pytreellama.cli.options import Debug, Json, Threads
from pytreellama.cli.output import ProgressBar, print_json


def quantize(
    source: Annotated[Path, typer.Argument(help="A GGUF file.")],
    target: Annotated[Path, typer.Argument(help="The file to write; replaced if it exists.")],
    file_type: Annotated[
        str, typer.Argument(help="Q8_0, Q6_K, Q5_K_M, Q4_K_M, Q4_0, Q3_K_M, Q2_K and others.")
    ] = "Q4_K_M",
    pure: Annotated[
        bool,
        option("--pure", help="The same type for all tensors; some stay more precise otherwise."),
    ] = False,
    threads: Threads = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a model file in another weight type, with llama.cpp's quantiser."""
    from pytreellama.model.quantize import quantize as run

    with ProgressBar(f"writing {target.name}") as bar:
        path = run(
            source.expanduser(), target.expanduser(), file_type,
            n_threads=threads, pure=pure, progress=bar.report,
        )  # fmt: skip
    if as_json:
        print_json({"path": str(path), "n_bytes": path.stat().st_size})
    else:
        typer.echo(f"{path}: {path.stat().st_size / 2**20:.0f} MiB")
