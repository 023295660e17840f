"""llama.cpp without what makes it ours: built from the same source, with no patch but bug fixes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

from buildlib import native
from buildlib.cache import Cache, cache_root
from buildlib.progress import Progress
from buildlib.recipe import Recipe, read_recipe
from buildlib.sources import obtain, synchronise
from buildlib.toolchain import find_cmake, find_ninja
from lib.report import ROOT

# the patches before this one are fixes: without that of AMX, quantised models end the process on
# some machines; the others mend what trees touch
FIRST_OF_OURS = "speculative-trees"


def stock_tool(name: str) -> Path:
    """A tool of llama.cpp as it was before our patches to attention and cache."""
    recipe = own_recipe()
    cache = Cache(cache_root())
    with Progress() as progress:
        cache.make()
        with cache.locked(progress):
            pristine = obtain(recipe.source, recipe.pin, cache, progress)
            work = cache.work / f"{recipe.work_id}-stock"
            work.mkdir(exist_ok=True)
            synchronise(pristine, _fixes(recipe), work / "llama.cpp", recipe.pin.unpack)
            progress.phase(f"compiling stock {name}")
            return compile_target(work, name, recipe.cmake_args)


def own_recipe() -> Recipe:
    """How this checkout is built."""
    return read_recipe(ROOT, os.environ.get("CMAKE_ARGS", ""))


def _fixes(recipe: Recipe) -> list[Path]:
    names = [path.name for path in recipe.patches]
    n = next((n for n, name in enumerate(names) if FIRST_OF_OURS in name), None)
    if n is None:
        raise SystemExit(f"no patch of vendor/patches has {FIRST_OF_OURS} in its name")
    return recipe.patches[:n]


def compile_target(work: Path, name: str, cmake_args: tuple[str, ...]) -> Path:
    cmake, folder = find_cmake(), work / "build"
    off = ("OPENSSL", "USE_PREBUILT_UI", "BUILD_UI", "BUILD_APP", "BUILD_TESTS")
    configure: list[Any] = [cmake, "-S", work / "llama.cpp", "-B", folder, "-G", "Ninja"]
    configure += [f"-DCMAKE_MAKE_PROGRAM={find_ninja()}", "-DCMAKE_BUILD_TYPE=Release"]
    configure += [*(f"-DLLAMA_{word}=OFF" for word in off), *cmake_args]
    jobs = str(native.default_jobs())
    make: list[Any] = [cmake, "--build", folder, "--parallel", jobs, "--target", name]
    for command in (configure, make):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"stock {name} could not be built:\n{done.stdout}\n{done.stderr}")
    return folder / "bin" / name
