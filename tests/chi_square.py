"""Are tokens drawn from a distribution?"""

from __future__ import annotations

import math

import numpy as np


def assert_drawn_from(counts: np.ndarray, p: np.ndarray) -> None:
    """Chi-square over the classes expected at least 5 times, the rest as one; p-value > 1e-4."""
    n = counts.sum()
    assert counts[p == 0].sum() == 0
    common = p * n >= 5
    observed = np.append(counts[common], counts[~common].sum())
    expected = np.append(p[common] * n, p[~common].sum() * n)
    keep = expected > 0
    statistic = float(((observed[keep] - expected[keep]) ** 2 / expected[keep]).sum())
    freedom = int(keep.sum()) - 1
    # Wilson and Hilferty: the cube root of chi-square over its freedom is nearly normal
    z = ((statistic / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))
    assert z < 3.72
