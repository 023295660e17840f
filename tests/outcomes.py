"""Every outcome of a random procedure, each with its exact probability."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias, TypeVar

import numpy as np

from pytreellama.verify import Chance

Outcome = TypeVar("Outcome")
Choices: TypeAlias = tuple[int, ...]


class ScriptedChance:
    """Chance that repeats a script of choices, then takes the first that is possible each time.

    `p` is the probability of all choices made so far. `untaken` holds a script for each choice
    that was possible behind the given script and not taken. What a rule asks is checked too: a
    probability in [0, 1], or a row of them that sums to 1.
    """

    def __init__(self, script: Choices = ()) -> None:
        self.p = 1.0
        self.untaken: list[Choices] = []
        self._script = script
        self._made: Choices = ()

    def accept(self, p: float) -> bool:
        assert 0 <= p <= 1
        return self._choose([p, 1 - p]) == 0

    def draw(self, p: np.ndarray) -> int:
        assert p.ndim == 1 and p.min() >= 0
        assert abs(p.sum() - 1) < 1e-12
        return self._choose(p.tolist())

    def _choose(self, p: list[float]) -> int:
        if len(self._made) < len(self._script):
            choice = self._script[len(self._made)]
        else:
            choice, *others = (index for index, p_index in enumerate(p) if p_index > 0)
            self.untaken += [(*self._made, other) for other in others]
        self._made += (choice,)
        self.p *= p[choice]
        return choice


def outcomes(run: Callable[[Chance], Outcome]) -> Iterator[tuple[Outcome, float]]:
    """What `run` returns for each possible sequence of its choices, with its probability.

    `run` must do the same again when its chance does.
    """
    scripts: list[Choices] = [()]
    while scripts:
        chance = ScriptedChance(scripts.pop())
        outcome = run(chance)
        scripts += chance.untaken
        yield outcome, chance.p
