"""A recipe: all that decides what a build makes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from . import cuda
from . import toolchain as tools_of
from .cache import cache_root, sha256_file
from .modules import NATIVE, TESTING
from .patches import list_patches
from .pin import Pin, read_pin
from .sources import Source, find_source
from .toolchain import Toolchain

FORMAT = 1  # raise it when finished builds of the code before cannot be used any more
OURS = ("bridge", "ggml-cpu", "llama", "testing")  # folders of vendor/, see vendor/CMakeLists.txt


@dataclass(frozen=True)
class Recipe:
    """All that decides what a build makes; `key` names it in the cache."""

    root: Path
    pin: Pin
    source: Source
    toolchain: Toolchain
    cmake_args: tuple[str, ...]

    @cached_property
    def work_id(self) -> str:
        """Same for all builds that can share objects: patches and our own C++ may differ."""
        return _digest(
            FORMAT, self.source.identity, self.pin.unpack, asdict(self.toolchain), self.cmake_args
        )

    @cached_property
    def key(self) -> str:
        declarations = [path for m in (NATIVE, TESTING) for path in m.sources(self.root)]
        ours = [self.root / "vendor/CMakeLists.txt", *self.patches, *self.ours, *declarations]
        contents = [(path.relative_to(self.root).as_posix(), sha256_file(path)) for path in ours]
        return _digest(self.work_id, NATIVE.preamble, TESTING.preamble, contents)

    @cached_property
    def patches(self) -> list[Path]:
        return list_patches(self.root / "vendor/patches")

    @cached_property
    def ours(self) -> list[Path]:
        """Our own C++: sources and headers of the folders that are compiled with llama.cpp."""
        folders = (self.root / "vendor" / name for name in OURS)
        files = (path for folder in folders for path in folder.rglob("*"))
        return sorted(path for path in files if path.suffix in (".h", ".cpp"))


def _digest(*parts: object) -> str:
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_recipe(root: Path, cmake_args: str) -> Recipe:
    given = tools_of.split_cmake_args(cmake_args)
    args = [*cuda.cmake_args(tools_of.definitions(given), cache_root() / "toolkits"), *given]
    pin = read_pin(root / "vendor/llama_cpp.toml")
    return Recipe(root, pin, find_source(pin), tools_of.find_toolchain(args), tuple(args))
