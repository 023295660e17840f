"""What llama.cpp says of this build and this machine's devices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pytreellama.native.library import ffi, lib

DeviceKind = Literal["cpu", "gpu", "igpu", "accelerator", "other"]

_KINDS: dict[int, DeviceKind] = {
    lib.GGML_BACKEND_DEVICE_TYPE_CPU: "cpu",
    lib.GGML_BACKEND_DEVICE_TYPE_GPU: "gpu",
    lib.GGML_BACKEND_DEVICE_TYPE_IGPU: "igpu",
    lib.GGML_BACKEND_DEVICE_TYPE_ACCEL: "accelerator",
}


@dataclass(frozen=True, slots=True)
class Device:
    """A device that this build can compute on. Sizes in bytes; 0 where it does not tell."""

    name: str
    description: str
    kind: DeviceKind
    free: int
    total: int


def devices() -> tuple[Device, ...]:
    """The devices that this build sees on this machine."""
    return tuple(map(_device, range(lib.ggml_backend_dev_count())))


def _device(index: int) -> Device:
    device = lib.ggml_backend_dev_get(index)
    free, total = ffi.new("size_t *"), ffi.new("size_t *")
    lib.ggml_backend_dev_memory(device, free, total)
    return Device(
        _text(lib.ggml_backend_dev_name(device)),
        _text(lib.ggml_backend_dev_description(device)),
        _KINDS.get(lib.ggml_backend_dev_type(device), "other"),
        int(free[0]),
        int(total[0]),
    )


def has_gpu() -> bool:
    """True if this build sees a GPU with memory of its own."""
    gpu = lib.GGML_BACKEND_DEVICE_TYPE_GPU
    devices = map(lib.ggml_backend_dev_get, range(lib.ggml_backend_dev_count()))
    return any(lib.ggml_backend_dev_type(device) == gpu for device in devices)


def llama_version() -> str:
    """The version that llama.cpp gives itself."""
    return _text(lib.llama_version())


def system_info() -> str:
    """What the kernels of this build use of this CPU, as llama.cpp prints it."""
    return _text(lib.llama_print_system_info())


def _text(pointer: Any) -> str:
    raw: bytes = ffi.string(pointer)
    return raw.decode("utf-8", "replace")
