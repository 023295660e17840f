"""Options that say which GPUs hold which parts of a model; their names are llama.cpp's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pytreellama.cli.option import option
from pytreellama.errors import RequestError

_PANEL = "GPUs"

GpuLayers = Annotated[
    int,
    option(
        "--n-gpu-layers",
        "-ngl",
        help="Number of layers to put on GPUs; -1 for all, 0 to decode on the CPU alone.",
        panel=_PANEL,
    ),
]


@dataclass(frozen=True)
class PlacementFlags:
    """Fields are named as the arguments of ``Model``, and have the same defaults."""

    n_gpu_layers: GpuLayers = -1
    devices: Annotated[
        str | None,
        option(
            "--device",
            "-dev",
            help="GPUs to use, as `pytreellama doctor` shows them, separated by commas; none for "
            "the CPU alone. Default: all.",
            panel=_PANEL,
            show_default=False,
        ),
    ] = None
    main_gpu: Annotated[
        int,
        option(
            "--main-gpu",
            "-mg",
            help="Index of the only GPU to use with --split-mode none.",
            panel=_PANEL,
            min=0,
        ),
    ] = 0
    split_mode: Annotated[
        str,
        option(
            "--split-mode",
            "-sm",
            help="How several GPUs share the model: layer (whole layers), row (rows of "
            "weights), or none (one GPU).",
            panel=_PANEL,
        ),
    ] = "layer"
    tensor_split: Annotated[
        str | None,
        option(
            "--tensor-split",
            "-ts",
            help="Relative share of each GPU, such as 3,1. Default: by free memory.",
            panel=_PANEL,
            show_default=False,
        ),
    ] = None
    override_tensor: Annotated[
        list[str] | None,
        option(
            "--override-tensor",
            "-ot",
            help="PATTERN=BUFFER: buffer type for the tensors whose names fit the regular "
            "expression, such as ffn_.*_exps=CPU. May be repeated, or separated by commas.",
            panel=_PANEL,
            show_default=False,
        ),
    ] = None
    n_cpu_moe: Annotated[
        int,
        option(
            "--n-cpu-moe",
            "-ncmoe",
            help="Number of layers, from the first, whose experts stay in the host's memory.",
            panel=_PANEL,
            min=0,
        ),
    ] = 0

    def model_options(self) -> dict[str, Any]:
        """These options as arguments of ``Model``.

        Raises:
            RequestError: one that cannot be read.
        """
        return {
            "n_gpu_layers": self.n_gpu_layers,
            "devices": self.devices,
            "main_gpu": self.main_gpu,
            "split_mode": self.split_mode,
            "tensor_split": [_share(text) for text in _parts(self.tensor_split)],
            "tensor_overrides": [
                _override(text) for one in self.override_tensor or () for text in _parts(one)
            ],
            "n_cpu_moe": self.n_cpu_moe,
        }


def _parts(text: str | None) -> list[str]:
    return [] if text is None else text.split(",")


def _share(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise RequestError(
            f"invalid --tensor-split {text}: expected numbers separated by commas, such as 3,1"
        ) from None


def _override(text: str) -> tuple[str, str]:
    pattern, sign, buffer = text.rpartition("=")
    if not sign:
        raise RequestError(
            f"invalid --override-tensor {text}: expected PATTERN=BUFFER, such as ffn_.*_exps=CPU"
        )
    return pattern, buffer
