"""Calibration: what a drafter's probabilities turn out to be worth, learned as the text comes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pytreellama.draft.growth import Row
from pytreellama.errors import DraftError

_N_STEPS = 5  # a knot at every fifth: more would be finer, and slower to learn
_PRIOR_WEIGHT = 8.0  # weight of the prior, "as estimated", in outcomes
_MEMORY = 32.0  # outcomes near a knot after which older ones fade, so that a change shows


class Calibration:
    """Maps a drafter's estimated probabilities to recent acceptance rates.

    For every kind of node one piecewise linear map from [0, 1] to [0, 1], the identity at first.
    An outcome moves the two knots around the called probability, each by its share: stochastic
    gradient descent on the squared error (Brier score). Steps shrink like 1/n to a floor, so the
    map settles soon, and still follows when the text or the drafter changes.

    What is called may be conditional (this token, if all before it are right) or of a whole path,
    as long as outcomes are told of the same.

    Source: secondary symbol estimation with interpolated buckets, as in PAQ (Mahoney 2005,
    Florida Tech. CS-2005-16).

    Args:
        n_kinds: number of kinds of nodes, such as ranks among siblings; >= 1.

    Raises:
        DraftError: no kind at all.
    """

    __slots__ = ("_values", "_weights")

    def __init__(self, n_kinds: int = 1) -> None:
        if n_kinds < 1:
            raise DraftError(f"invalid n_kinds={n_kinds}: expected at least 1")
        self._values = [[i / _N_STEPS for i in range(_N_STEPS + 1)] for _ in range(n_kinds)]
        self._weights = [[_PRIOR_WEIGHT] * (_N_STEPS + 1) for _ in range(n_kinds)]

    def calibrated(self, p: float, kind: int = 0) -> float:
        """The acceptance rate of nodes of this kind with estimate ``p``; both in [0, 1]."""
        values = self._values[kind]
        left, share = _place(p)
        return values[left] + share * (values[left + 1] - values[left])

    def learn(self, p: float, came_true: bool, kind: int = 0) -> None:
        """Learn the outcome of a node with estimate ``p``.

        Call it for every node whose parent was accepted, right or wrong;
        the outcome of a node with a rejected parent is unknown.
        """
        values, weights = self._values[kind], self._weights[kind]
        error = came_true - self.calibrated(p, kind)
        left, share = _place(p)
        for knot, part in ((left, 1.0 - share), (left + 1, share)):
            values[knot] = min(max(values[knot] + error * part / weights[knot], 0.0), 1.0)
            weights[knot] = min(weights[knot] + part, _MEMORY)

    def copy(self) -> Calibration:
        """What is known so far, to be learned on from without changing this one."""
        twin = Calibration(len(self._values))
        twin._values = [values.copy() for values in self._values]
        twin._weights = [weights.copy() for weights in self._weights]
        return twin


class TextCalibration:
    """The calibration of one text: it begins with what earlier texts taught, and goes its own way.

    A node's kind is its rank among its siblings.

    Args:
        shared: of all texts, which learns from this one too; None to change no probability.
    """

    __slots__ = ("_own", "_shared")

    def __init__(self, shared: Calibration | None) -> None:
        self._shared = shared
        self._own = None if shared is None else shared.copy()

    def learn(self, outcomes: Iterable[tuple[Row, int]]) -> None:
        """Learn which of some expected tokens came."""
        if self._own is None or self._shared is None:
            return
        for (tokens, p), came in outcomes:
            for rank, (token, p_token) in enumerate(zip(tokens, p, strict=True)):
                self._own.learn(p_token, token == came, rank)
                self._shared.learn(p_token, token == came, rank)

    def belief(self, p: list[float]) -> list[float]:
        """See ``growth.Belief``."""
        if self._own is not None:
            p = [self._own.calibrated(p_one, rank) for rank, p_one in enumerate(p)]
        return limit_siblings(p)


def limit_siblings(p: Sequence[float]) -> list[float]:
    """Siblings' conditional probabilities, scaled down where they sum to more than 1.

    At most one child of a node comes true, but calibrated estimates do not know of each other.
    """
    scale = max(sum(p), 1.0)
    return [p_one / scale for p_one in p]


def _place(p: float) -> tuple[int, float]:
    """The knot left of a probability, and how far it lies towards the right one."""
    place = min(max(p, 0.0), 1.0) * _N_STEPS
    left = min(int(place), _N_STEPS - 1)
    return left, place - left
