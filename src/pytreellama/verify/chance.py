"""Chance: where a verification rule gets its random decisions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from pytreellama.verify.distribution import Distribution


class Chance(Protocol):
    """Decides what is random in a rule.

    A rule says what may happen and with which probability, never how. So the same rule runs on
    random numbers, and in the tests through every possible outcome, each weighed exactly.
    """

    def accept(self, p: float) -> bool:
        """True with probability `p`, which is in [0, 1]."""
        ...

    def draw(self, p: Distribution) -> int:
        """An index i with probability `p[i]`; float64, shape (n,), sums to 1."""
        ...


class UniformChance:
    """Chance from uniform random numbers, one for each decision.

    `uniform()` returns a float in [0, 1): `UniformChance(random.Random(seed).random)` decides the
    same way again for the same seed, on every version of Python.
    """

    __slots__ = ("_uniform",)

    def __init__(self, uniform: Callable[[], float]) -> None:
        self._uniform = uniform

    def accept(self, p: float) -> bool:
        """True with probability `p`: always for 1, never for 0."""
        return self._uniform() < p

    def draw(self, p: Distribution) -> int:
        """An index i with probability `p[i]`, never one whose `p[i]` is 0."""
        # Scaled by what the sum came to: no rounding puts the number beyond the last entry.
        cumulative = np.cumsum(p)
        return int(np.searchsorted(cumulative, self._uniform() * cumulative[-1], side="right"))
