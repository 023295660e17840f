"""What this build can do and what this machine has, as facts."""

from __future__ import annotations

import logging
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pytreellama.native import build_info
from pytreellama.native.system import Device, devices, llama_version, system_info

__all__ = [
    "Device",
    "batched_types",
    "build_info",
    "cpu_features",
    "cpu_quota",
    "devices",
    "gpu_traces",
    "has_invariant_products",
    "llama_version",
    "machine_facts",
    "native_log",
    "weight_buffers",
]

_BUFFER_LINE = re.compile(r"load_tensors:\s+(\S+) model buffer size =\s+([0-9.]+) MiB")

# GGUF's names of the types that are unpacked once for all columns: ggml-cpu/invariant/panel.h
_INVARIANT = (
    *("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL", "IQ4_XS", "MXFP4"),
    *("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "F16", "BF16", "F32"),
)

# those whose weights stock ggml-cpu rearranges where the CPU has the feature:
# ggml/src/ggml-cpu/repack.cpp and amx/common.h at the pinned commit
_REPACKED_WITH = {
    "AMX_INT8": ("Q4_0", "Q4_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS"),
    "AVX2": ("Q4_0", "Q4_K", "IQ4_NL"),
    "AVX512": ("Q2_K",),
    "MATMUL_INT8": ("Q4_0", "Q4_K", "Q5_K", "Q6_K"),
    "DOTPROD": ("Q4_0", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "Q8_0"),
}


def cpu_features() -> tuple[str, ...]:
    """What the kernels of this build use of this CPU, in ggml's names, such as ``AVX512``."""
    return _enabled(system_info())


def _enabled(system_info: str) -> tuple[str, ...]:
    parts = (part.partition("=") for part in re.split(r"[|:]", system_info))
    return tuple(name.strip() for name, _, value in parts if value.strip() not in ("", "0"))


def has_invariant_products(features: Iterable[str]) -> bool:
    """Are the CPU's matrix products the same bits at any width? See docs/exactness.md."""
    return "INVARIANT" in features


def batched_types(features: Iterable[str]) -> tuple[str, ...]:
    """Types of weights that a CPU with these features multiplies with a few columns at once."""
    features = tuple(features)
    if has_invariant_products(features):
        return tuple(sorted(_INVARIANT))
    return tuple(sorted({t for name in features for t in _REPACKED_WITH.get(name, ())}))


@contextmanager
def native_log() -> Iterator[list[str]]:
    """Collect llama.cpp's log lines while the block runs."""
    logger = logging.getLogger("pytreellama.native")
    handler = _Collector()
    level, propagates = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False  # the lines were not asked for by whoever configured logging
    try:
        yield handler.lines
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagates


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def weight_buffers(log: Iterable[str]) -> dict[str, float]:
    """Where the weights were put: MiB in each kind of buffer, from the log of loading a model.

    ``CPU_REPACK`` and ``AMX`` hold weights that were rearranged; ``CUDA0`` and the like are GPUs.
    """
    found = (_BUFFER_LINE.search(line) for line in log)
    return {match[1]: float(match[2]) for match in found if match}


def gpu_traces() -> tuple[str, ...]:
    """Signs of GPUs on this machine, whether or not this build can use them."""
    signs = {
        "NVIDIA (its driver is loaded)": Path("/proc/driver/nvidia/version").exists(),
        "NVIDIA (nvidia-smi is installed)": shutil.which("nvidia-smi") is not None,
        "AMD (its compute driver is loaded)": Path("/dev/kfd").exists(),
        "Apple (Metal)": sys.platform == "darwin" and _is_arm(),
    }
    return tuple(sign for sign, is_there in signs.items() if is_there)


def _is_arm() -> bool:
    import platform

    return platform.machine() == "arm64"


def cpu_quota() -> float | None:
    """Cores' worth of time that a container may use (Linux cgroups); None if it is not limited."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        quota, period = _old_quota()
    try:
        cores = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return None
    return cores if cores > 0 else None


def _old_quota() -> tuple[str, str]:
    folder = Path("/sys/fs/cgroup/cpu")
    try:
        return (
            (folder / "cpu.cfs_quota_us").read_text(encoding="ascii"),
            (folder / "cpu.cfs_period_us").read_text(encoding="ascii"),
        )
    except OSError:
        return "max", "1"


def machine_facts() -> dict[str, Any]:
    """Cores, memory (bytes) and load of this machine."""
    import psutil

    memory = psutil.virtual_memory()
    return {
        "n_cores": psutil.cpu_count(logical=False),
        "n_logical_cores": psutil.cpu_count(),
        "cpu_quota": cpu_quota(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "memory": memory.total,
        "memory_available": memory.available,
    }
