"""Evaluation: how often heads are right on what their model writes, and what that saves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytreellama.draft import Medusa
from pytreellama.model.heads import Heads
from pytreellama.model.model import Model
from pytreellama.training.steps import StepCounts, count_steps
from pytreellama.training.text import Text

_N_TOP = 5


@dataclass(slots=True)
class Hits:
    """How often each head's likeliest token was the text's, or among its five likeliest.

    All arrays are int64, shape (n_heads,).
    """

    n: NDArray[np.int64]
    top1: NDArray[np.int64]
    top5: NDArray[np.int64]

    @classmethod
    def none(cls, n_heads: int) -> Hits:
        """Nothing counted yet."""
        return cls(*(np.zeros(n_heads, np.int64) for _ in range(3)))

    def __add__(self, other: Hits) -> Hits:
        return Hits(self.n + other.n, self.top1 + other.top1, self.top5 + other.top5)

    def to_dict(self) -> dict[str, Any]:
        """Shares, for JSON."""
        n = np.maximum(self.n, 1)
        return {
            "n": self.n.tolist(),
            "top1": (self.top1 / n).round(4).tolist(),
            "top5": (self.top5 / n).round(4).tolist(),
        }


@dataclass(slots=True)
class HeadsEvaluation:
    """Heads on some prompts. steps: by the number of guesses in a tree."""

    hits: Hits
    steps: dict[int, StepCounts] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return self.hits.to_dict() | {
            "tokens_per_step": {str(n): s.tokens_per_step for n, s in self.steps.items()},
        }


def count_hits(heads: Heads, text: Text, n_threads: int = 1) -> Hits:
    """What the heads guess at each place of a text, all before it being right."""
    hits = Hits.none(heads.n_heads)
    row_of = {int(token): row for row, token in enumerate(heads.tokens)}
    states = text.states.astype(np.float32)
    tokens = text.tokens.tolist()
    for head in range(heads.n_heads):
        for i in range(len(tokens) - head - 1):
            seen = [tokens[i : i + heads.n_seen(head)]]
            logits = heads.logits(n_threads, head, states[i], seen)[0]
            n_top = min(_N_TOP, len(logits))
            best = np.argpartition(-logits, n_top - 1)[:n_top]
            row = row_of.get(tokens[i + head + 1], -1)
            hits.n[head] += 1
            hits.top1[head] += int(logits.argmax()) == row
            hits.top5[head] += row in best
    return hits


def evaluate(
    model: Model,
    heads: Heads,
    prompts: Sequence[Sequence[int]],
    *,
    sizes: Sequence[int] = (8, 16, 32),
    n_tokens: int = 128,
    report: Callable[[float], None] = lambda _: None,
) -> HeadsEvaluation:
    """Measure heads on what their model writes greedily behind some prompts.

    Args:
        prompts: token ids.
        sizes: of trees, in guesses.
        n_tokens: most tokens of an answer.
        report: called with the share that is done, from 0.0 to 1.0.
    """
    from pytreellama.training.recorder import answers

    n_parts = len(sizes) + 2
    texts = answers(model, prompts, n_tokens)
    report(1 / n_parts)
    evaluation = HeadsEvaluation(Hits.none(heads.n_heads))
    for text in texts:
        evaluation.hits += count_hits(heads, text)
    report(2 / n_parts)
    n_ctx = max(map(len, prompts)) + n_tokens + 2 * max(sizes)
    for i, size in enumerate(sizes):
        steps = count_steps(
            model, Medusa(heads.path, min_p=0.0), prompts, size, n_tokens, n_ctx=n_ctx
        )
        evaluation.steps[size] = steps
        report((i + 3) / n_parts)
    return evaluation
