"""``--lora``: adapters of a command line, and their scales."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pytreellama.cli.option import option
from pytreellama.errors import RequestError

LoraFiles = Annotated[
    list[str] | None,
    option(
        "--lora",
        help="LoRA adapter: a GGUF file, or FILE=SCALE. May be repeated. Default scale: 1.",
        panel="Model",
    ),
]


def lora_files(given: Sequence[str] | None) -> dict[str, str]:
    """Paths of adapters by name: the file's, without .gguf.

    Raises:
        RequestError: two files of one name.
    """
    files: dict[str, str] = {}
    for one in given or ():
        path, _ = _split(one)
        name = Path(path).stem
        if name in files:
            raise RequestError(f"invalid --lora={one}: another adapter is called {name!r} too")
        files[name] = path
    return files


def lora_scales(given: Sequence[str] | None) -> dict[str, float]:
    """Scales of adapters by name, as for ``lora_files``."""
    return {Path(path).stem: scale for path, scale in map(_split, given or ())}


def _split(given: str) -> tuple[str, float]:
    """The path, and the scale behind the last ``=`` if that is a number."""
    path, equals, scale = given.rpartition("=")
    if not equals:
        return given, 1.0
    try:
        return path, float(scale)
    except ValueError:
        return given, 1.0  # a file name may hold =
