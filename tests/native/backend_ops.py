"""llama.cpp's own test-backend-ops, run on the CPU backend as this checkout builds it.

    .venv/bin/python tests/native/backend_ops.py                      matrix products, some minutes
    .venv/bin/python tests/native/backend_ops.py -o FLASH_ATTN_EXT    what you like instead

It compares the backend with itself under `ggml_backend_cpu_set_use_ref`; weights are not packed.
Builds do without its source, so the first run fetches llama.cpp again. Status 0 if all passed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "vendor"))

from buildlib import native
from buildlib.cache import Cache, cache_root
from buildlib.errors import BuildError
from buildlib.progress import Progress
from buildlib.recipe import Recipe, read_recipe
from buildlib.sources import obtain, synchronise

ROOT = Path(__file__).resolve().parents[2]
SOURCE = "tests/test-backend-ops.cpp"

# all but the cases whose experts take gigabytes
PRODUCTS = ("-o", "MUL_MAT,MUL_MAT_ID", "-p", "^(?!.*n_mats=128,.*m=4096)")


def main(arguments: Sequence[str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        with Progress() as progress:
            program = _build(Path(folder), progress)
        command: list[Any] = [program, "-b", "CPU", *(arguments or PRODUCTS)]
        return subprocess.run(command, check=False).returncode


def _build(folder: Path, progress: Progress) -> Path:
    """The program, linked to the libraries that Python loads."""
    recipe = read_recipe(ROOT, os.environ.get("CMAKE_ARGS", ""))
    cache = Cache(cache_root())
    libraries = native.ensure(recipe, cache, progress) / "native/lib"
    source, program = folder / "llama.cpp", folder / "test-backend-ops"
    _unpack(recipe, cache, progress, source)
    progress.phase("compiling test-backend-ops")
    command: list[Any] = [
        os.environ.get("CXX", "c++"),
        "-std=c++17",
        "-O1",
        "-pthread",
        source / SOURCE,
    ]
    command += ["-I", source / "ggml/include", "-L", libraries, "-lggml", "-lggml-base"]
    command += [f"-Wl,-rpath,{libraries}", "-o", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BuildError(f"test-backend-ops does not compile:\n{done.stderr}")
    return program


def _unpack(recipe: Recipe, cache: Cache, progress: Progress, target: Path) -> None:
    """The patched source, with tests."""
    pin = replace(recipe.pin, unpack=(*recipe.pin.unpack, "tests"))
    with cache.locked(progress):
        pristine = obtain(recipe.source, pin, cache, progress)
    if not (pristine / SOURCE).is_file():
        raise BuildError(f"{recipe.source.description} has no {SOURCE}")
    target.mkdir()
    synchronise(pristine, recipe.patches, target, pin.unpack)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except BuildError as error:
        sys.exit(f"backend_ops.py: {error}")
