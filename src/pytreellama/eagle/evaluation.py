"""Evaluation: how many tokens a step an EAGLE-3 head brings on what its model writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from pytreellama.draft import Eagle3
from pytreellama.model.model import Model
from pytreellama.training.steps import StepCounts, count_steps


def evaluate(
    model: Model,
    path: Path | None,
    prompts: Sequence[Sequence[int]],
    *,
    sizes: Sequence[int] = (8, 16, 32),
    n_tokens: int = 128,
    report: Callable[[float], None] = lambda _: None,
) -> dict[int, StepCounts]:
    """Let the model continue prompts greedily with trees of a head's likeliest drafts.

    Args:
        path: of the head; None finds it as ``Eagle3`` does.
        prompts: token ids.
        sizes: of trees, in draft nodes.
        n_tokens: maximum number of tokens of an answer.
        report: called with the share that is done, from 0.0 to 1.0.

    Returns:
        By the size of a tree, what it saved.

    Raises:
        DraftError: there is no such head, or it is not one for this model.
    """
    n_ctx = max(map(len, prompts)) + n_tokens + 2 * max(sizes)
    found: dict[int, StepCounts] = {}
    for size in sizes:
        drafter = Eagle3(path, min_p=0.0)
        found[size] = count_steps(model, drafter, prompts, size, n_tokens, n_ctx=n_ctx)
        report(len(found) / len(sizes))
    return found
