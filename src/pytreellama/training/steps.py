"""StepCounts: what trees of some size save while a model continues prompts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pytreellama.engine import Completion, Engine
from pytreellama.model.model import Model


@dataclass(slots=True)
class StepCounts:
    """What trees of some size saved. n_tokens: accepted ones included; n_steps: passes."""

    n_tokens: int = 0
    n_steps: int = 0
    draft_s: float = 0.0
    decode_s: float = 0.0

    @property
    def tokens_per_step(self) -> float:
        return self.n_tokens / max(self.n_steps, 1)

    def add(self, completion: Completion) -> None:
        stats = completion.stats
        self.n_tokens += stats.n_tokens
        self.n_steps += stats.n_steps
        self.draft_s += stats.draft_s
        self.decode_s += stats.total_s - stats.prefill_s


def count_steps(
    model: Model,
    drafter: Any,
    prompts: Iterable[Sequence[int]],
    n_nodes: int,
    n_tokens: int,
    **options: Any,
) -> StepCounts:
    """Let the model continue prompts greedily with trees of one drafter.

    Args:
        drafter: of the engine.
        n_nodes: draft nodes of a tree.
        n_tokens: maximum number of tokens of an answer.
        options: of the engine.
    """
    steps = StepCounts()
    with Engine(model, drafter, n_draft=n_nodes, **options) as engine:
        for prompt in prompts:
            steps.add(engine.submit(list(prompt), max_tokens=n_tokens).result())
    return steps
