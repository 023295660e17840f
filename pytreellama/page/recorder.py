"""What a page is told of a text that is being written by an engine of one's own."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from pytreellama.page.steps import step_dict

if TYPE_CHECKING:
    from pytreellama.engine import Engine, Step


class Recorder:
    """Collects every step of one text, with what it took and what a plain one would have.

    Args:
        engine: writes the text, and nothing else meanwhile.
        n_prompt: tokens of the prompt.
    """

    def __init__(self, engine: Engine, n_prompt: int) -> None:
        self.steps: list[dict[str, Any]] = []
        self._engine = engine
        self._n_read = n_prompt - 1  # the last one is the first tree's root
        self._resumed_s: float | None = None

    def add(self, step: Step) -> None:
        """Take in the next step; to be called as soon as it is known."""
        # the prompt was read before the first one, so what that took is not known
        seconds = None if self._resumed_s is None else time.perf_counter() - self._resumed_s
        number, vocab = len(self.steps) + 1, self._engine.vocab
        told = step_dict(number, step, vocab, seconds=seconds, plain_s=self._plain_s())
        self.steps.append(told)
        self._n_read += len(step.tokens)

    def resume(self) -> None:
        """Say that the engine goes on; what was done since ``add`` is no part of a step."""
        self._resumed_s = time.perf_counter()

    def _plain_s(self) -> float | None:
        planner = self._engine.planner
        return None if planner is None else planner.curve.seconds(1, self._n_read)
