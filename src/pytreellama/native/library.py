"""Loads the compiled module, or says why it cannot be loaded and what to do."""

from __future__ import annotations

import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

from pytreellama.errors import NativeLibraryError

_HERE = Path(__file__).parent


def build_info() -> dict[str, Any]:
    """What ``build.py`` wrote about the build: pin, patches, backend, flags, compiler, CPU.

    Raises:
        NativeLibraryError: if the native part was never built.
    """
    path = _HERE / "build_info.json"
    try:
        info: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NativeLibraryError(
            f"the native part of pytreellama is not built ({path.name} is missing in {_HERE}); "
            "run `python3 build.py build` in the checkout, or `pip install .`"
        ) from None
    return info


def _cpu_features() -> frozenset[str] | None:
    """CPU feature names of this machine where the system tells them cheaply, else None."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return None


# features whose absence kills a native build with SIGILL; the others do not change the code
_CODE_FEATURES = {
    *("avx", "avx2", "fma", "f16c", "bmi2", "avx_vnni", "amx_tile", "amx_int8", "amx_bf16"),
    *("avx512f", "avx512bw", "avx512vl", "avx512vbmi", "avx512_vnni", "avx512_bf16"),
    *("sve", "sve2", "i8mm", "asimddp"),
}


def _check_built_for_this_cpu(info: dict[str, Any]) -> None:
    built, here = info.get("cpu_features"), _cpu_features()
    if built is None or here is None or info.get("machine") != platform.machine():
        return
    missing = sorted(_CODE_FEATURES & set(built) - here)
    if missing:
        raise NativeLibraryError(
            "the native part of pytreellama was built for a CPU with "
            f"{', '.join(missing)}, which this one lacks; build it again on this machine "
            "(`python3 build.py build`), or with CMAKE_ARGS=-DGGML_NATIVE=OFF for any with AVX2"
        )


def _load() -> tuple[Any, Any]:
    _check_built_for_this_cpu(build_info())
    if sys.platform == "win32":
        os.add_dll_directory(str(_HERE / "lib"))
    try:
        from pytreellama.native import _native  # type: ignore[attr-defined]
    except ImportError as error:
        raise NativeLibraryError(
            f"the native part of pytreellama cannot be loaded: {error}; "
            "run `python3 build.py build` in the checkout, or reinstall the package"
        ) from error
    return _native.ffi, _native.lib


ffi, lib = _load()
