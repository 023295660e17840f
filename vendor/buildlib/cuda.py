"""CUDA: a system's toolkit, or that of pip's wheels, and what CMake is told of it."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from .errors import BuildError
from .processes import first_line
from .toolchain import find_nvcc, is_on

EXTRA = "cuda-build"
"""The extra of pyproject.toml whose wheels are a toolkit: compiler, headers, cuBLAS."""

# without a GPU to ask, nvcc would compile for sm_75 alone: all of today's, and code for later ones.
# each with the first release of CUDA that knows it
_ARCHITECTURES = {
    "75-virtual": (0, 0),
    "80-real": (11, 0),
    "86-real": (11, 1),
    "89-real": (11, 8),
    "90-real": (11, 8),
    "120a-real": (12, 8),
}

_CHOSEN_BY = ("CUDACXX", "CUDA_PATH")  # in the environment: the toolkit to take
_WHEELS = "nvidia/cu13"  # in site-packages, as the wheels of CUDA 13 have it
_ADVICE = (
    f"let build.py install NVIDIA's wheels (pip install '.[{EXTRA}]' does the same), install the "
    "whole CUDA toolkit (Debian, Ubuntu: cuda-toolkit of NVIDIA's repository), or name one in "
    "CUDACXX"
)


def needs_wheels(defined: Mapping[str, str]) -> bool:
    """True if a build for CUDA was asked for, and neither a choice nor a toolkit is there."""
    if not is_on(defined.get("GGML_CUDA")) or not sys.platform.startswith("linux"):
        return False
    is_chosen = "CMAKE_CUDA_COMPILER" in defined or any(map(os.environ.get, _CHOSEN_BY))
    return not is_chosen and _system_root(defined) is None and _wheels() is None


def cmake_args(defined: Mapping[str, str], folder: Path) -> list[str]:
    """What CMake is told before the user's own arguments, which come later and win.

    Args:
        defined: the definitions among the user's arguments.
        folder: where the view of the wheels is kept.

    Raises:
        BuildError: there is a compiler, but no cuBLAS beside it.
    """
    if not is_on(defined.get("GGML_CUDA")):
        return []
    if {"CUDAToolkit_ROOT", "CUDA_cublas_LIBRARY"} & {*defined}:
        return _architecture_args(defined, find_nvcc(defined))
    root, wheels = _system_root(defined), _wheels()
    if root is not None:
        args = _toolkit_args(_libraries(root))
        return [*args, *_architecture_args(defined, find_nvcc(defined))]
    if wheels is not None and "CMAKE_CUDA_COMPILER" not in defined:
        view = make_view(wheels, folder)
        nvcc = view / "bin/nvcc"
        args = [f"-DCMAKE_CUDA_COMPILER={nvcc}", f"-DCUDAToolkit_ROOT={view}"]
        args += _toolkit_args(wheels / "lib")
        return [*args, *_architecture_args(defined, str(nvcc))]
    nvcc_found = find_nvcc(defined)
    if nvcc_found is not None and _root_of(nvcc_found) is not None:
        raise BuildError(f"{nvcc_found} was found, but no cuBLAS beside it", _ADVICE)
    return _architecture_args(defined, nvcc_found)


def _toolkit_args(libraries: Path) -> list[str]:
    """Where libraries are found when they run; no virtual memory without a driver to link to."""
    args = [f"-DTREELLAMA_TOOLKIT_LIB={libraries}"]
    has_driver = any(libraries.glob("libcuda.so*")) or (libraries / "stubs/libcuda.so").exists()
    return args if has_driver else [*args, "-DGGML_CUDA_NO_VMM=ON"]


def _architecture_args(defined: Mapping[str, str], nvcc: str | None) -> list[str]:
    if nvcc is None or "CMAKE_CUDA_ARCHITECTURES" in defined or os.environ.get("CUDAARCHS"):
        return []
    if first_line(["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]):
        return ["-DCMAKE_CUDA_ARCHITECTURES=native"]
    release = release_of(nvcc)
    known = [name for name, since in _ARCHITECTURES.items() if release >= since]
    return [f"-DCMAKE_CUDA_ARCHITECTURES={';'.join(known)}"]


def release_of(nvcc: str) -> tuple[int, int]:
    """CUDA's release; a late one where the compiler does not say."""
    result = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=False)
    match = re.search(r"release (\d+)\.(\d+)", result.stdout)
    return (int(match[1]), int(match[2])) if match else (99, 0)


#
# a system's toolkit
#


def _system_root(defined: Mapping[str, str]) -> Path | None:
    """The folder of a toolkit that is whole: nvcc, with cuBLAS beside it."""
    nvcc = find_nvcc(defined)
    root = None if nvcc is None else _root_of(nvcc)
    if root is None:
        return None
    headers = [root / "include", *root.glob("targets/*/include")]
    has_cublas = any((folder / "cublas_v2.h").is_file() for folder in headers)
    return root if has_cublas else None


def _root_of(nvcc: str) -> Path | None:
    """The folder above that of the compiler itself, which a script may call; None for Clang."""
    command = [nvcc, "--dryrun", "-x", "cu", "-c", os.devnull, "-o", os.devnull]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    match = re.search(r"^#\$ _HERE_=(.*)$", result.stdout + result.stderr, re.MULTILINE)
    return Path(match[1]).parent if match else None


def _libraries(root: Path) -> Path:
    folders = [root / "lib64", *root.glob("targets/*/lib"), root / "lib"]
    return next((folder for folder in folders if folder.is_dir()), root / "lib64")


#
# pip's wheels
#


def _wheels() -> Path | None:
    """The folder of NVIDIA's wheels, if compiler and cuBLAS are in it."""
    for place in filter(None, sys.path):
        root = Path(place) / _WHEELS
        if (root / "bin/nvcc").is_file() and (root / "include/cublas_v2.h").is_file():
            return root
    return None


def make_view(wheels: Path, folder: Path) -> Path:
    """A folder that looks like a toolkit, of links into the wheels; made once.

    nvcc looks for ``lib64``, which the wheels call ``lib``, and linkers for ``libX.so``, of which
    they have ``libX.so.13`` alone. ``bin`` is a folder of links, since nvcc takes the folder above
    its own for the toolkit.
    """
    names = sorted(path.name for part in ("bin", "lib") for path in (wheels / part).iterdir())
    digest = hashlib.sha256("\n".join([str(wheels), *names]).encode()).hexdigest()[:16]
    view = folder / f"cuda-{digest}"
    if view.is_dir():
        return view
    folder.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=folder))
    for part in ("include", "nvvm"):
        (made / part).symlink_to(wheels / part)
    _link_all(wheels / "bin", made / "bin")
    _link_all(wheels / "lib", made / "lib64")
    for library in (made / "lib64").glob("lib*.so.*"):
        plain = library.with_name(library.name.partition(".so.")[0] + ".so")
        if not plain.is_symlink():
            plain.symlink_to(library.name)
    try:
        made.rename(view)
    except OSError:  # another process was faster
        shutil.rmtree(made)
    return view


def _link_all(source: Path, target: Path) -> None:
    target.mkdir()
    for path in source.iterdir():
        (target / path.name).symlink_to(path)
