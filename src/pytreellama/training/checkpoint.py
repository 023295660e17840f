"""Checkpoints of a training on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pytreellama.errors import MedusaError
from pytreellama.files import replaced_file


def write_checkpoint(
    torch: Any, path: Path, parameters: Any, optimiser: Any, step: int, seconds: float
) -> None:
    """Write what an interrupted training resumes from.

    Args:
        parameters: tensors in lists or dicts.
        step, seconds: steps that are done, and what they took.
    """
    state = {
        "step": step,
        "seconds": seconds,
        "parameters": parameters,
        "optimiser": optimiser.state_dict(),
    }
    with replaced_file(path) as file:
        torch.save(state, file)


def read_checkpoint(
    torch: Any, path: Path, device: Any, restore: Callable[[Any], None], optimiser: Any
) -> tuple[int, float]:
    """Restore what ``write_checkpoint`` wrote; returns steps and seconds, 0 without a file.

    Args:
        restore: takes the parameters.

    Raises:
        MedusaError: the file is damaged.
    """
    if not path.exists():
        return 0, 0.0
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        restore(state["parameters"])
        optimiser.load_state_dict(state["optimiser"])
        return int(state["step"]), float(state["seconds"])
    except Exception as error:  # over a damaged file PyTorch raises what it likes
        raise MedusaError(
            f"{path} is damaged ({error}); remove it to train from the beginning"
        ) from error
