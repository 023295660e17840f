"""Accuracy: how often heads are right on held-out texts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How often heads are right on held-out texts, where all before was right.

    Attributes:
        top1, top5: of each Medusa head, or of each unrolled step of an EAGLE-3 head.
        tokens_per_step: of a chain of each one's likeliest draft, the target's own token included.
        n_positions: on how many positions it was measured.
    """

    top1: tuple[float, ...]
    top5: tuple[float, ...]
    tokens_per_step: float
    n_positions: int
