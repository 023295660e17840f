"""Placement: which devices hold which parts of a model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pytreellama.errors import ModelLoadError, did_you_mean, not_one_of, shown
from pytreellama.native.devices import buffer_names, n_devices_max
from pytreellama.native.system import devices as visible_devices

SplitMode = Literal["none", "layer", "row"]
SPLIT_MODES: tuple[str, ...] = SplitMode.__args__  # type: ignore[attr-defined]

_EXPERTS = r"\.ffn_(up|down|gate|gate_up)_(ch|)exps"  # the weights of experts, without shared ones
_N_LAYERS = 512  # of llama.cpp: no model has more
_INT_MAX = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the weights of a model are put; names and meanings are llama.cpp's.

    Attributes:
        n_gpu_layers: layers to put on GPUs, the last ones first; -1 for all. With 0 no GPU takes
            part at all, and passes are those of a build for the CPU, bit for bit.
        devices: names of the GPUs to use, as ``pytreellama doctor`` shows them, in this order;
            None for all.
        main_gpu: index of the only GPU to use with split_mode="none", among ``devices``.
        split_mode: "layer" gives each GPU whole layers with their cache, "row" splits the rows of
            weights, "none" uses one GPU.
        tensor_split: relative share of each GPU, such as (3, 1); empty to go by free memory.
        tensor_overrides: regular expressions of tensors' names, each with the buffer type that
            these tensors go to: the name of a device, or ``CPU``.
        n_cpu_moe: keep the experts of the first so many layers in the host's memory.

    Raises:
        ModelLoadError: a value out of range, or a device that this build does not see.
    """

    n_gpu_layers: int = -1
    devices: tuple[str, ...] | None = None
    main_gpu: int = 0
    split_mode: SplitMode = "layer"
    tensor_split: tuple[float, ...] = ()
    tensor_overrides: tuple[tuple[str, str], ...] = ()
    n_cpu_moe: int = 0

    def __post_init__(self) -> None:
        _require_integer("n_gpu_layers", self.n_gpu_layers, -1, "-1 (all) or more")
        _require_integer("main_gpu", self.main_gpu, 0, "the index of a GPU")
        _require_integer("n_cpu_moe", self.n_cpu_moe, 0, "a number of layers")
        if self.split_mode not in SPLIT_MODES:
            raise ModelLoadError(not_one_of("split_mode", self.split_mode, SPLIT_MODES))
        for name in self.devices or ():
            _require_device(name)
        if len(self.tensor_split) > n_devices_max() or not all(map(_is_share, self.tensor_split)):
            raise ModelLoadError(
                f"invalid tensor_split={shown(self.tensor_split)}: expected at most "
                f"{n_devices_max()} shares of 0 or more, one for each GPU"
            )
        for pattern, buffer in self.tensor_overrides:
            _require_override(pattern, buffer)

    @property
    def used_devices(self) -> tuple[str, ...] | None:
        """``devices``, or none where no layer is on one: passes then depend on no GPU."""
        return () if self.n_gpu_layers == 0 else self.devices

    @property
    def all_overrides(self) -> tuple[tuple[str, str], ...]:
        """``tensor_overrides``, then those of ``n_cpu_moe``; the first that fits a name counts."""
        n_layers = min(self.n_cpu_moe, _N_LAYERS)
        experts = ((rf"blk\.{layer}{_EXPERTS}", "CPU") for layer in range(n_layers))
        return (*self.tensor_overrides, *experts)


def as_names(devices: str | Sequence[str] | None) -> tuple[str, ...] | None:
    """Names of devices: a sequence, or one text with commas; "none" means no device."""
    if isinstance(devices, str):
        devices = [] if devices == "none" else devices.split(",")
    return None if devices is None else tuple(devices)


def as_overrides(
    overrides: Mapping[str, str] | Sequence[tuple[str, str]],
) -> tuple[tuple[str, str], ...]:
    """Pairs of a pattern and a buffer type."""
    pairs = overrides.items() if isinstance(overrides, Mapping) else overrides
    return tuple((pattern, buffer) for pattern, buffer in pairs)


def _require_integer(name: str, value: object, least: int, allowed: str) -> None:
    if type(value) is not int or not least <= value <= _INT_MAX:
        raise ModelLoadError(f"invalid {name}={shown(value)}: expected {allowed}")


def _is_share(value: object) -> bool:
    return isinstance(value, (int, float)) and 0 <= value < float("inf")


def _require_device(name: object) -> None:
    gpus = [device.name for device in visible_devices() if device.kind in ("gpu", "igpu")]
    if name not in gpus:
        seen = ", ".join(gpus) or "none: build with --backend, and check the driver"
        raise ModelLoadError(
            f"invalid devices={shown(name)}: this build sees {seen}{did_you_mean(name, gpus)}"
        )


def _require_override(pattern: str, buffer: str) -> None:
    known = buffer_names()
    if buffer not in known:
        raise ModelLoadError(not_one_of(f"tensor_overrides[{pattern!r}]", buffer, known))
    try:
        re.compile(pattern)
    except re.error as error:
        raise ModelLoadError(
            f"invalid tensor_overrides pattern {shown(pattern)}: {error}; expected a regular "
            "expression of tensors' names"
        ) from None
