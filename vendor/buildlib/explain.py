"""Why CMake or a compiler failed, read from what they printed."""

from __future__ import annotations

import re
from collections.abc import Iterable

N_ERROR_LINES = 16


def machine_trouble(lines: Iterable[str]) -> tuple[str, str] | None:
    """What happened and what to do, where the machine rather than the source is at fault."""
    text = "\n".join(lines)
    if "No space left on device" in text:
        return (
            "no space left on the device while compiling",
            "free some space (a cache on another disk: PYTREELLAMA_CACHE) and run again; "
            "what is compiled already is kept",
        )
    if re.search(r"Killed signal|out of memory|cannot allocate memory", text, re.IGNORECASE):
        return (
            "the compiler ran out of memory",
            "run again with fewer jobs (--jobs 1); what is compiled already is kept",
        )
    return None


# what CMake says of a package that is missing, and the advice
_MISSING = {
    r"CUDA::cublas": "install cuBLAS: pip install nvidia-cublas, or libcublas-dev of the toolkit",
    r"CUDA::cuda_driver": "install the driver's stub (cuda-driver-dev), or set "
    "CMAKE_ARGS=-DGGML_CUDA_NO_VMM=ON",
    r"Could NOT find Vulkan|\bglslc\b|SPIRV-Headers": "install Vulkan's headers and compiler "
    "(Debian, Ubuntu: sudo apt install glslc libvulkan-dev spirv-headers)",
}


def missing_package(lines: Iterable[str]) -> str | None:
    """What to install, where that is why CMake cannot configure."""
    text = "\n".join(lines)
    return next((what for sign, what in _MISSING.items() if re.search(sign, text)), None)


def telling_lines(lines: list[str]) -> list[str]:
    """The lines that say what is wrong: the first error and what follows it."""
    begin = next((i for i, line in enumerate(lines) if line.startswith("FAILED:")), 0)
    wrong = re.compile(r"\berror\b|CMake Error|undefined reference", re.IGNORECASE)
    first = next((i for i in range(begin, len(lines)) if wrong.search(lines[i])), None)
    if first is None or lines[first].startswith("FAILED:"):
        return lines[-N_ERROR_LINES:]
    return [line[:300] for line in lines[first : first + N_ERROR_LINES] if line]
