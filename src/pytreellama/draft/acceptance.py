"""Acceptance: estimates the acceptance probability of candidates, learned from outcomes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pytreellama.errors import DraftError
from pytreellama.tree.candidates import Candidates, View

_P_MIN = 0.002  # a drafter that calls something certain is not believed beyond 1 - this
_STRETCH_MAX = 3.0  # an opinion that is surer than this teaches no faster
_RATE = 0.03  # of learning: a changed text shows within some tens of candidates
_FIRST_RATE = 0.2
_ALONE, _ALONE_BIAS = 0.9, -0.3
_TOGETHER, _TOGETHER_BIAS = 1.1, 0.4
_N_FIRST = 4.0  # candidates after which the learning rate has halved


class Acceptance:
    """Mixes drafters' opinions into one probability a node, and learns how.

    Opinions are added in the logistic domain (``ln(p / (1 - p))``), each with a weight, and a bias
    with them. Weights are told apart by who speaks, by depth (next token or later) and rank (first
    child or another), and follow the gradient of the logarithmic loss after every node whose turn
    came, verified or not: a drafter is judged on what it said, so being passed over does not keep
    it from becoming better known. Agreement of two drafters counts for more than either alone.

    At first a lone drafter is believed somewhat less than it says, and several that agree somewhat
    more than the mean of what they say: so it was with all drafters that were measured.

    Source: logistic mixing, as in PAQ (Mahoney 2005, Florida Tech. CS-2005-16) and Mattern 2012
    ("Mixing Strategies in Data Compression").

    Args:
        n_drafters: how many there are; 1 to 16.
    """

    def __init__(self, n_drafters: int) -> None:
        if not 1 <= n_drafters <= 16:
            raise DraftError(f"invalid n_drafters={n_drafters}: expected 1 to 16")
        self._weights: dict[int, list[float]] = {}
        self._n_learned: dict[int, int] = {}

    def estimate(self, candidates: Candidates) -> None:
        """Fill in the probabilities of candidates from the drafters' estimates."""
        depths, parents = candidates.union.depths, candidates.union.parents
        kinds, p_token, p = candidates.kinds, candidates.p_token, candidates.p
        for node, views in enumerate(candidates.views):
            kind = _kind(views, depths[node])
            z = _dot(self._weights_of(kind, len(views)), views)
            p_one = 1.0 / (1.0 + math.exp(-z))
            kinds.append(kind)
            p_token.append(p_one)
            parent = parents[node]
            p.append(p_one * p[parent] if parent >= 0 else p_one)

    def learn(self, candidates: Candidates, went_on: Sequence[int]) -> None:
        """Learn from the text that followed these estimated candidates."""
        for node, came_true in candidates.outcomes(went_on):
            self._learn_one(candidates, node, came_true)

    def _learn_one(self, candidates: Candidates, node: int, came_true: bool) -> None:
        kind = candidates.kinds[node]
        weights = self._weights[kind]
        n_learned = self._n_learned[kind] = self._n_learned[kind] + 1
        rate = max(_RATE, _FIRST_RATE / (1.0 + n_learned / _N_FIRST))
        step = rate * (came_true - candidates.p_token[node])
        for i, (_, _, p) in enumerate(candidates.views[node]):
            weights[i] += step * min(max(_stretch(p), -_STRETCH_MAX), _STRETCH_MAX)
        weights[-1] += step

    def _weights_of(self, kind: int, n_views: int) -> list[float]:
        weights = self._weights.get(kind)
        if weights is None:
            weights = self._weights[kind] = _first_weights(n_views)
            self._n_learned[kind] = 0
        return weights


def _first_weights(n_views: int) -> list[float]:
    if n_views == 1:
        return [_ALONE, _ALONE_BIAS]
    return [_TOGETHER / n_views] * n_views + [_TOGETHER_BIAS]


def _kind(views: list[View], depth: int) -> int:
    """A number for who proposed a node, at which depth and rank."""
    kind, is_first = 0, 0
    for drafter, rank, _ in views:
        kind |= 4 << drafter
        is_first |= rank == 0
    return kind | (2 if depth else 0) | is_first


def _dot(weights: list[float], views: list[View]) -> float:
    z = weights[-1]
    for weight, (_, _, p) in zip(weights, views, strict=False):
        z += weight * _stretch(p)
    return min(max(z, -_Z_MAX), _Z_MAX)


def _stretch(p: float) -> float:
    p = min(max(p, _P_MIN), 1.0 - _P_MIN)
    return math.log(p / (1.0 - p))


_Z_MAX = _stretch(1.0)
