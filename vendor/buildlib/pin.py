"""The pin: which llama.cpp is vendored, read from vendor/llama_cpp.toml."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import BuildError


@dataclass(frozen=True)
class Pin:
    distribution: str
    version: str
    sha256: str
    size_mb: int
    commit: str
    licence: str
    path: str
    unpack: tuple[str, ...]


def read_toml(path: Path) -> dict[str, Any]:
    """Parse a TOML file; Python 3.10 borrows the parser that pip carries."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        try:
            import tomli as tomllib
        except ImportError:
            from pip._vendor import tomli as tomllib
    try:
        data: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        return data
    except FileNotFoundError:
        raise BuildError(f"{path} is missing", "get a complete checkout") from None
    except tomllib.TOMLDecodeError as error:
        raise BuildError(f"{path} is not valid TOML: {error}", "restore the file") from None


def read_pin(path: Path) -> Pin:
    data = read_toml(path)
    try:
        archive, llama_cpp = data["archive"], data["llama_cpp"]
        return Pin(
            distribution=archive["distribution"],
            version=archive["version"],
            sha256=archive["sha256"],
            size_mb=archive["size_mb"],
            commit=llama_cpp["commit"],
            licence=llama_cpp["licence"],
            path=llama_cpp["path"],
            unpack=tuple(llama_cpp["unpack"]),
        )
    except KeyError as error:
        raise BuildError(f"{path} has no entry {error}", "restore the file") from None
