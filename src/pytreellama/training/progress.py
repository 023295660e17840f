"""Progress: how far a training is."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Literal

Phase = Literal["writing", "training"]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is.

    Attributes:
        n_done, n_all: tokens or steps.
        left_s: as the last ones went.
    """

    phase: Phase
    n_done: int
    n_all: int
    left_s: float
    loss: float | None = None


def peak_bytes() -> int | None:
    """Most memory that this process has had; None where that is not told."""
    try:
        import resource
    except ImportError:
        return None  # Windows
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else 1024 * peak)
