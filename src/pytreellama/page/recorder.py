"""What a page is told of a text that is being written."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any

from pytreellama.page.steps import step_dict

if TYPE_CHECKING:
    from pytreellama.engine import Engine, Step


class StepRecorder:
    """Collects every step of one text, with what it took and what a plain one would have.

    Steps are added on the engine's thread, and may be taken on any other.

    Args:
        engine: writes the text; a step's time is that of all texts in it.
        n_prompt: tokens of the prompt.
    """

    def __init__(self, engine: Engine, n_prompt: int) -> None:
        self._steps: deque[dict[str, Any]] = deque()
        self._n_steps = 0
        self._engine = engine
        self._n_read = n_prompt - 1  # the last one is the first tree's root
        self._resumed_s: float | None = None

    def add(self, step: Step) -> None:
        """Take in the next step; to be called as soon as it is known."""
        # the prompt was read before the first one, so what that took is not known
        seconds = None if self._resumed_s is None else time.perf_counter() - self._resumed_s
        self._n_steps += 1
        number, vocab = self._n_steps, self._engine.vocab
        told = step_dict(number, step, vocab, seconds=seconds, plain_s=self._plain_s())
        self._steps.append(told)
        self._n_read += len(step.tokens)

    def resume(self) -> None:
        """Say that the engine goes on; what was done since ``add`` is no part of a step."""
        self._resumed_s = time.perf_counter()

    def watch(self, step: Step) -> None:
        """Take in the next step, where nothing else is done with it."""
        self.add(step)
        self.resume()

    def take(self) -> list[dict[str, Any]]:
        """The steps since the last call."""
        return [self._steps.popleft() for _ in range(len(self._steps))]

    def _plain_s(self) -> float | None:
        planner = self._engine.planner
        return None if planner is None else planner.curve.seconds(1, self._n_read)
