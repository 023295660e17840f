"""Distributions over the next token: rows of probabilities, checked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pytreellama.errors import TreeError

Distribution: TypeAlias = NDArray[np.float64]
"""Probability of each token, float64, shape (n_vocab,)."""

Rows: TypeAlias = Callable[[int], NDArray[np.floating[Any]]]
"""The distribution at a node of a tree, any float dtype, shape (n_vocab,).

A rule asks only for rows that it needs, so they can be computed when asked for, penalties and
grammar included. Of an array of shape (n_nodes, n_vocab), `rows.__getitem__` is such a function.
"""

SUM_TOLERANCE = 1e-4
"""How far from 1 rounding may carry the sum of a row; a softmax in float32 stays well within."""


def as_distribution(row: NDArray[np.floating[Any]], name: str) -> Distribution:
    """A fresh float64 copy of `row` that sums to 1 as exactly as float64 can.

    Raises TreeError unless `row` has shape (n_vocab,) with n_vocab > 0, holds no negative number
    and no NaN, and sums to 1 within SUM_TOLERANCE.
    """
    try:
        p = np.asarray(row, np.float64)
    except (TypeError, ValueError) as error:
        raise TreeError(f"{name} cannot be read as a row of probabilities: {error}") from error
    if p.ndim != 1 or not p.size:
        raise TreeError(f"{name} has shape {p.shape}; give one probability a token, (n_vocab,)")
    if not p.min() >= 0:  # the minimum of a row that holds NaN is NaN
        token = int(np.argmin(p >= 0))
        raise TreeError(f"{name}[{token}] is {p[token]}; a probability is in [0, 1]")
    total = float(p.sum())
    if abs(total - 1) > SUM_TOLERANCE:
        raise TreeError(
            f"{name} sums to {total:.9g}; probabilities sum to 1, after truncation too: "
            "divide what is left by its sum"
        )
    normalised: Distribution = p / total
    return normalised


def require_tokens_within(p: Distribution, tokens: NDArray[np.int32]) -> None:
    """TreeError unless every one of `tokens` has an entry in `p`."""
    highest = int(tokens.max(initial=0))
    if highest >= len(p):
        raise TreeError(
            f"the tree holds token {highest}, but the target's row ends at {len(p) - 1}; "
            "draft tokens of the target's own vocabulary"
        )
