"""Rows of probabilities: what passes, and what is refused with a remedy."""

from __future__ import annotations

import numpy as np
import pytest

from pytreellama.errors import TreeError
from pytreellama.verify.distribution import as_distribution, require_tokens_within


def test_a_row_becomes_float64_with_a_sum_of_one_and_is_left_alone() -> None:
    row = np.full(3, 1 / 3, np.float32)
    p = as_distribution(row, "target(0)")
    assert p.dtype == np.float64
    assert p.sum() == pytest.approx(1, abs=1e-15)
    p[0] = 0
    assert row[0] == np.float32(1 / 3)


def test_a_softmax_in_float32_over_a_large_vocabulary_passes() -> None:
    logits = np.random.default_rng(0).normal(0, 4, 256_000).astype(np.float32)
    exponentials = np.exp(logits - logits.max())
    as_distribution(exponentials / exponentials.sum(), "target(0)")


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ([[0.5, 0.5]], r"draft\(3\) has shape \(1, 2\)"),
        (1.0, r"draft\(3\) has shape \(\)"),
        ([], r"draft\(3\) has shape \(0,\)"),
        ([[1.0], [0.5, 0.5]], r"draft\(3\) cannot be read"),
        (["one"], r"draft\(3\) cannot be read"),
        ([1.5, -0.5], r"draft\(3\)\[1\] is -0.5"),
        ([0.5, np.nan, 0.5], r"draft\(3\)\[1\] is nan"),
        ([0.5, np.inf], r"draft\(3\) sums to inf"),
        ([0.5, 0.4], r"draft\(3\) sums to 0.9"),
        ([0.0, 0.0], r"draft\(3\) sums to 0"),
        ([2.0, 3.0], r"draft\(3\) sums to 5"),
    ],
)
def test_what_is_no_distribution_is_refused(row: object, complaint: str) -> None:
    with pytest.raises(TreeError, match=complaint):
        as_distribution(row, "draft(3)")  # type: ignore[arg-type]


def test_a_token_beyond_the_row_is_refused() -> None:
    require_tokens_within(np.array([0.5, 0.5]), np.array([0, 1], np.int32))
    with pytest.raises(TreeError, match="token 2, but the target's row ends at 1"):
        require_tokens_within(np.array([0.5, 0.5]), np.array([0, 2], np.int32))
