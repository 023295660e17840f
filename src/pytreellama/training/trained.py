"""Trained: what a training has made, and where it may be written."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pytreellama.errors import MedusaError
from pytreellama.training.accuracy import Accuracy


@dataclass(frozen=True, slots=True)
class Trained:
    """What a run has made. Times in seconds, of interrupted runs too.

    Attributes:
        n_tokens: of answers, which the model wrote.
        n_steps: training steps.
        peak_bytes: most memory that this process has had; None where that is not told.
    """

    path: Path
    accuracy: Accuracy
    n_tokens: int
    n_steps: int
    writing_s: float
    training_s: float
    peak_bytes: int | None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "path": str(self.path),
            "n_tokens": self.n_tokens,
            "n_steps": self.n_steps,
            "writing_s": self.writing_s,
            "training_s": self.training_s,
            "peak_bytes": self.peak_bytes,
            **asdict(self.accuracy),
        }


def output_path(output: str | os.PathLike[str]) -> Path:
    """The path of a file that can be written; raises MedusaError before hours of training."""
    path = Path(output)
    if not path.parent.is_dir():
        raise MedusaError(f"there is no folder {path.parent} to write {path.name} into")
    if path.is_dir():
        raise MedusaError(f"{path} is a folder; give the name of a file to write into")
    return path
