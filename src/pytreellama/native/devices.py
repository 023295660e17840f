"""The devices that a model computes on besides the CPU, and what they can hold and do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pytreellama.errors import ContextError
from pytreellama.native.checks import check
from pytreellama.native.handle import Handle
from pytreellama.native.library import ffi, lib
from pytreellama.native.system import Device, all_devices, as_device, device_name
from pytreellama.native.tensors import ggml_type


def model_devices(model: Handle) -> tuple[Device, ...]:
    """The devices of a model, without the CPU, with their memory as it is now."""
    n_devices = lib.treellama_model_devices(model.pointer, ffi.NULL, 0)
    found = ffi.new("ggml_backend_dev_t[]", n_devices)
    lib.treellama_model_devices(model.pointer, found, n_devices)
    return tuple(map(as_device, found))


def kv_bytes(
    model: Handle,
    n_ctx: int,
    type_k: str,
    type_v: str,
    *,
    offload: bool = True,
    device: str | None = None,
) -> int:
    """Bytes of the KV cache of a context: an upper bound, as if no layer had a sliding window.

    Args:
        offload: each layer's part is where the layer is, and not in the host's memory.
        device: name of the device whose part is asked for; None for the whole cache.
    """
    where = ffi.NULL if device is None else _device_by_name(device)
    types = ggml_type(type_k), ggml_type(type_v)
    return int(lib.treellama_kv_bytes(model.pointer, where, offload, n_ctx, *types))


def check_cache_types(
    model: Handle, type_k: str, type_v: str, *, offload: bool, flash: bool
) -> None:
    """Check that each device can write its part of a cache, and attend to it.

    Args:
        flash: flash attention is asked for; quantised values always need it.

    Raises:
        ContextError: one cannot.
    """
    types = ggml_type(type_k), ggml_type(type_v)
    status = lib.treellama_check_cache_types(model.pointer, offload, *types, flash)
    what = f"type_k = {type_k}, type_v = {type_v} cannot be used here"
    hint = "use f16 or q8_0 for both, or offload_kv=False (in the host's memory: slower)"
    check(status, ContextError, what, hint=hint)


def device_list(names: Sequence[str]) -> Any:
    """The devices of these names, which exist, as llama.h takes them: NULL comes last."""
    return ffi.new("ggml_backend_dev_t[]", [*map(_device_by_name, names), ffi.NULL])


def buffer_type(name: str) -> Any:
    """A device's buffer type by its name, such as ``CPU`` or ``CUDA0``; None if there is none."""
    types = map(lib.ggml_backend_dev_buffer_type, all_devices())
    return next((one for one in types if _buffer_name(one) == name), None)


def buffer_names() -> tuple[str, ...]:
    """The names that ``buffer_type`` knows."""
    types = map(lib.ggml_backend_dev_buffer_type, all_devices())
    return tuple(dict.fromkeys(map(_buffer_name, types)))


def n_devices_max() -> int:
    """Most devices that a model can be split over."""
    return int(lib.llama_max_devices())


def _buffer_name(buffer: Any) -> str:
    raw: bytes = ffi.string(lib.ggml_backend_buft_name(buffer))
    return raw.decode()


def _device_by_name(name: str) -> Any:
    return next(device for device in all_devices() if device_name(device) == name)
