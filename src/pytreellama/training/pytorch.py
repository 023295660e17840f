"""PyTorch, which heads are trained with."""

from __future__ import annotations

from typing import Any

from pytreellama.errors import MedusaError
from pytreellama.system import cpu_features

NO_TORCH = "heads are trained with PyTorch: pip install 'pytreellama[train]'"

_FAST_BF16 = {"AMX_INT8", "AVX512_BF16", "AMX_BF16"}


def torch_for_training() -> Any:
    """PyTorch; raises MedusaError if it is missing."""
    try:
        import torch
    except ImportError as error:
        raise MedusaError(NO_TORCH) from error
    return torch


def is_fast_in_bfloat16(torch: Any) -> bool:
    """True where products of bfloat16 are faster than those of float32: elsewhere only worse."""
    return torch.cuda.is_available() or bool(_FAST_BF16 & set(cpu_features()))
