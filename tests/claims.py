"""Is what a drafter calls likely as likely as it says? Its claims along a text, and what came."""

from __future__ import annotations

import numpy as np
import pytest

from pytreellama.draft import Drafter
from pytreellama.tree import TokenTree

N_AHEAD = 8

Claims = list[tuple[float, bool]]
"""Of each proposed node, its path probability and whether the text went on along its path."""


def claims_along(drafter: Drafter, text: list[int], begin: int = 0) -> Claims:
    """Walk a text, which the drafter knows up to `begin`, by the token."""
    claims: Claims = []
    for end in range(begin, len(text) - N_AHEAD):
        for path, p in token_paths(drafter.propose(N_AHEAD)).items():
            claims.append((p, text[end : end + len(path)] == list(path)))
        drafter.observe([text[end]])
    return claims


def n_calibrated(claims: Claims, lowest: float, n_least: int, tolerance: float) -> int:
    """Check every tenth above `lowest` that has `n_least` claims; how many such there are."""
    said, came = (np.array(part) for part in zip(*claims, strict=True))
    n_tested = 0
    for low in np.arange(lowest, 1.0, 0.1):
        within = (said >= low) & (said < low + 0.1)
        if within.sum() >= n_least:
            n_tested += 1
            assert came[within].mean() == pytest.approx(said[within].mean(), abs=tolerance)
    return n_tested


def token_paths(tree: TokenTree) -> dict[tuple[int, ...], float]:
    """Every node's token path and the probability claimed for it."""
    assert tree.p is not None
    return {
        tuple(tree.tokens[tree.path(node)].tolist()): float(tree.p[node])
        for node in range(len(tree))
    }
