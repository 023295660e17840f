"""Where the promise of equal bits holds, and what it is compared with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

import backends
from pytreellama import Context
from pytreellama.system import cpu_features, has_invariant_products

EXACT = not backends.ON_DEVICE and has_invariant_products(cpu_features())
"""Are products, and so all logits with flash attention, the same bits at any width?"""

needs_exact = pytest.mark.exact_only
"""For tests of equal bits: skipped where ``EXACT`` is False."""


def logits_of_plain_steps(context: Context, seq: int, text: Sequence[int]) -> np.ndarray:
    """Logits behind each token, decoded one by one, float32, shape (n_tokens, n_vocab)."""
    rows = []
    for token in text:
        context.decode(token, seq=seq)
        rows.append(context.outputs.logits[0])
    return np.array(rows)


def assert_same_logits(found: np.ndarray, expected: np.ndarray) -> None:
    """Logits of one text by passes alike: equal bits on a CPU, close on a device."""
    np.testing.assert_allclose(found, expected, rtol=0.0, atol=backends.tolerance(0.0, 3e-2))
