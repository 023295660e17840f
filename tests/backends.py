"""Which backend the suite runs on: the CPU, or a device that ``PYTREELLAMA_TEST_BACKEND`` names.

On a device every model has all its layers there. Tests of equal bits (``exact_only``) are skipped
then, and others allow for its arithmetic. Imported before the native library, which looks for
devices when it is loaded.
"""

from __future__ import annotations

import os

BACKENDS = ("cpu", "cuda", "metal", "vulkan")

BACKEND = os.environ.get("PYTREELLAMA_TEST_BACKEND", "cpu")
ON_DEVICE = BACKEND != "cpu"

# what hides a backend's devices from a build that has it
_HIDDEN = {
    "cuda": {"CUDA_VISIBLE_DEVICES": ""},
    "metal": {"GGML_METAL_DEVICES": "0"},
    "vulkan": {"GGML_DISABLE_VULKAN": "1"},
}
# what lets the tests see it: Vulkan in software counts as a CPU, and is left out otherwise
_SEEN = {"vulkan": {"GGML_VK_VISIBLE_DEVICES": "0"}}


def choose() -> None:
    """Set the environment, which commands and workers that tests start inherit.

    Raises:
        ValueError: no such backend.
    """
    if BACKEND not in BACKENDS:
        raise ValueError(
            f"invalid PYTREELLAMA_TEST_BACKEND={BACKEND}: expected one of {', '.join(BACKENDS)}"
        )
    for name, variables in _HIDDEN.items():
        if name != BACKEND:
            os.environ.update(variables)
    for variable, value in _SEEN.get(BACKEND, {}).items():
        os.environ.setdefault(variable, value)


def missing_device() -> str | None:
    """Why the tests cannot run on the device that was asked for; None if they can."""
    if not ON_DEVICE:
        return None
    from pytreellama.system import build_info, devices

    if BACKEND not in build_info().get("backends", []):
        return f"this build has no {BACKEND}: python3 build.py build --backend {BACKEND}"
    if not any(device.kind in ("gpu", "igpu") for device in devices()):
        return f"this build sees no {BACKEND} device: check the driver"
    return None


def tolerance(on_cpu: float, on_device: float) -> float:
    """The difference that a test allows, by the backend that it runs on."""
    return on_device if ON_DEVICE else on_cpu
