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
    """A device that this build can compute on. Sizes in bytes; 0 where it does not tell.

    Attributes:
        name: as ``Model(devices=...)`` takes it, such as ``CUDA0`` or ``Vulkan0``.
        description: the maker's name for it.
        kind: "gpu" has memory of its own, "igpu" shares the host's.
        free: bytes that can be allocated on it now.
        total: bytes of its memory.
    """

    name: str
    description: str
    kind: DeviceKind
    free: int
    total: int


def devices() -> tuple[Device, ...]:
    """The devices that this build sees on this machine."""
    return tuple(map(as_device, all_devices()))


def all_devices() -> list[Any]:
    """ggml's pointers to them."""
    return list(map(lib.ggml_backend_dev_get, range(lib.ggml_backend_dev_count())))


def device_name(device: Any) -> str:
    """A device's name, such as ``CUDA0``."""
    return _text(lib.ggml_backend_dev_name(device))


def as_device(device: Any) -> Device:
    """What ggml says of a device."""
    free, total = ffi.new("size_t *"), ffi.new("size_t *")
    lib.ggml_backend_dev_memory(device, free, total)
    return Device(
        device_name(device),
        _text(lib.ggml_backend_dev_description(device)),
        _KINDS.get(lib.ggml_backend_dev_type(device), "other"),
        int(free[0]),
        int(total[0]),
    )


def has_gpu() -> bool:
    """True if this build sees a GPU, with memory of its own or without."""
    return any(device.kind in ("gpu", "igpu") for device in devices())


def llama_version() -> str:
    """The version that llama.cpp gives itself."""
    return _text(lib.llama_version())


def system_info() -> str:
    """What the kernels of this build use of this CPU, as llama.cpp prints it."""
    return _text(lib.llama_print_system_info())


def _text(pointer: Any) -> str:
    raw: bytes = ffi.string(pointer)
    return raw.decode("utf-8", "replace")
