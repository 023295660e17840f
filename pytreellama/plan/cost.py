"""The cost curve: seconds of a pass by its nodes and the text before it, measured, corrected."""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

KNOTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
"""Sizes of passes whose cost is kept; between two of them it is a straight line."""

N_SIZES_KNOWN = 3
"""Sizes that must have been measured; with fewer, a curve is a guess at what a node costs."""

_LEAST_S, _MOST_S = 1e-9, 1e6  # what a pass can take, as far as files are believed
_TEXT_SHARE_S = 1 / 4096  # until it is measured, a token of text costs this much of a plain pass
_MAX_SURPRISE = 0.25  # a pass that took e^this times what was foreseen, or more, teaches no more
_DRIFT_RATE = 0.2
_RATE = 0.03
_REFRESH = 16  # learned passes after which the table of costs is made anew


@dataclass(frozen=True, slots=True)
class PassCost:
    """What a pass took.

    Attributes:
        n_nodes: in all, every sequence's last token included.
        n_read: tokens of text before the nodes, each sequence's once; trees read a text once.
        seconds: of the whole step without drafting.
    """

    n_nodes: int
    n_read: int
    seconds: float


class CostCurve:
    """Seconds of a pass over n nodes behind so much text.

    A pass costs what its nodes cost without text, by size, and so much for each token of text that
    it reads. Both come from a short calibration, and are corrected by every pass that is made:
    by a robust step in the logarithm, so that an outlier teaches no more than a small surprise. A
    machine that is slower or faster for a while is one factor of its own, which moves sooner than
    the curve's shape: the shape is what choices depend on.

    Args:
        knot_s: seconds of a pass at each of ``KNOTS``, without text.
        read_s: seconds for each token of text that is read.
        sizes: numbers of nodes whose passes were measured.
    """

    def __init__(
        self, knot_s: Sequence[float], read_s: float, sizes: Iterable[int] = KNOTS
    ) -> None:
        are_costs = all(0.0 < s < math.inf for s in knot_s) and 0.0 <= read_s < math.inf
        if len(knot_s) != len(KNOTS) or not are_costs:
            raise ValueError(
                f"a cost curve has {len(KNOTS)} positive costs, and none below zero for text"
            )
        self._log_s = [math.log(s) for s in knot_s]
        self._n_seen = [1.0] * len(KNOTS)
        self._read_s = read_s
        self._sizes = set(sizes)
        self._drift = 0.0
        self._n_learned = 0
        self._table = self._made_table()

    # -- ways to make one

    @classmethod
    def fit(cls, passes: Iterable[PassCost]) -> CostCurve:
        """The curve of measured passes; at least one, over one node or more.

        Medians by size and text; between sizes that were measured a straight line, beyond them at
        the price of the last. A larger pass never costs less than a smaller one: where it was
        measured so, that is noise or a kernel's whim that the next build may not have.
        """
        by_kind: dict[tuple[int, int], list[float]] = defaultdict(list)
        for one in passes:
            by_kind[one.n_nodes, one.n_read].append(one.seconds)
        medians = {kind: statistics.median(seconds) for kind, seconds in by_kind.items()}
        if not medians:
            raise ValueError("a cost curve needs at least one measured pass")
        read_s = _fitted_read_s(medians)
        bare: dict[int, list[float]] = defaultdict(list)
        for (n_nodes, n_read), seconds in medians.items():
            bare[n_nodes].append(max(seconds - read_s * n_read, 0.1 * seconds))
        knot_s = _through_knots({n: statistics.median(s) for n, s in bare.items()})
        return cls(knot_s, read_s, bare)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CostCurve:
        """What ``to_dict`` gave. Raises ValueError, TypeError, KeyError for anything else."""
        if list(data["knots"]) != list(KNOTS):
            raise ValueError("the costs were kept for other sizes of passes")
        try:
            knot_s, read_s = [float(s) for s in data["knot_s"]], float(data["read_s"])
            sizes = [int(n) for n in data.get("sizes", ())]  # older files do not know them
        except OverflowError as error:
            raise ValueError("a cost is larger than any number of seconds") from error
        if not all(_LEAST_S <= s <= _MOST_S for s in knot_s) or not 0.0 <= read_s <= _MOST_S:
            raise ValueError(f"a pass takes from {_LEAST_S} to {_MOST_S} seconds")
        return cls(knot_s, read_s, sizes)

    def to_dict(self) -> dict[str, Any]:
        """The curve as it stands, for JSON; without the machine's mood of the moment."""
        return {
            "knots": list(KNOTS),
            "knot_s": np.exp(self._log_s).tolist(),
            "read_s": self._read_s,
            "sizes": sorted(self._sizes),
        }

    @property
    def is_known(self) -> bool:
        """True if enough sizes were measured or learned for a node's cost to be known."""
        return len(self._sizes) >= N_SIZES_KNOWN

    # -- what passes cost

    def pass_s(self, n_nodes: int, n_read: int = 0) -> list[float]:
        """Seconds of passes over 0 to ``n_nodes`` nodes that read so many tokens of text.

        At most ``KNOTS[-1]`` nodes are told of.
        """
        factor = math.exp(self._drift)
        text_s = self._read_s * n_read
        return [factor * (s + text_s) for s in self._table[: n_nodes + 1]]

    def least_price_s(self, n_nodes: int) -> float:
        """The fewest seconds that a node more may cost, taken in any number beside ``n_nodes``."""
        n_nodes = min(n_nodes, KNOTS[-1] - 1)
        beyond = np.array(self._table[n_nodes + 1 :]) - self._table[n_nodes]
        least = float((beyond / np.arange(1, len(beyond) + 1)).min())
        return math.exp(self._drift) * least

    def seconds(self, n_nodes: int, n_read: int = 0) -> float:
        """Seconds of one pass; at most ``KNOTS[-1]`` nodes are told apart."""
        n_nodes = min(n_nodes, KNOTS[-1])
        return math.exp(self._drift) * (self._table[n_nodes] + self._read_s * n_read)

    # -- what is learned

    def learn(self, done: PassCost) -> None:
        """Correct the curve by a pass that was made."""
        n_nodes = min(max(done.n_nodes, 1), KNOTS[-1])
        if not done.seconds > 0.0:
            return
        text_s = self._read_s * done.n_read
        pass_s = self._as_learned_s(n_nodes) + text_s
        surprise = math.log(done.seconds) - math.log(pass_s) - self._drift
        surprise = min(max(surprise, -_MAX_SURPRISE), _MAX_SURPRISE)
        self._drift += _DRIFT_RATE * surprise
        shape = _RATE * surprise
        text_share = text_s / pass_s
        self._learn_size(n_nodes, shape * (1.0 - text_share))
        self._read_s *= math.exp(shape * text_share)
        self._sizes.add(n_nodes)
        self._n_learned += 1
        if self._n_learned % _REFRESH == 0:
            self._table = self._made_table()

    def _learn_size(self, n_nodes: int, step: float) -> None:
        above = bisect_left(KNOTS, n_nodes)
        share = _share_of_upper(above, n_nodes)
        for knot, part in ((above - 1, 1.0 - share), (above, share)):
            self._log_s[knot] += part * step
            self._n_seen[knot] += part

    def _as_learned_s(self, n_nodes: int) -> float:
        """What a size was learned to cost, also where that is less than a smaller one.

        Costs that choices are made by never fall. Were surprises reckoned by those, a size that is
        cheaper than a smaller one would be a surprise for ever, and carry away all others.
        """
        above = bisect_left(KNOTS, n_nodes)
        share = _share_of_upper(above, n_nodes)
        lower, upper = self._log_s[above - 1], self._log_s[above]
        return (1.0 - share) * math.exp(lower) + share * math.exp(upper)

    def _made_table(self) -> list[float]:
        knot_s = np.exp(_rising(self._log_s, self._n_seen))
        table: list[float] = np.interp(np.arange(KNOTS[-1] + 1), KNOTS, knot_s).tolist()
        table[0] = 0.0
        return table


def _share_of_upper(above: int, n_nodes: int) -> float:
    """How far a size lies on the way from the knot below to one above; a knot is all its own."""
    left, right = KNOTS[above - 1], KNOTS[above]
    return (n_nodes - left) / (right - left) if n_nodes != right else 1.0


def _rising(values: Sequence[float], weights: Sequence[float]) -> list[float]:
    """The list nearest to some values that never falls: where they do, their weighted mean."""
    pools: list[tuple[float, float, int]] = []
    for value, weight in zip(values, weights, strict=True):
        n = 1
        while pools and pools[-1][0] > value:
            other, other_weight, n_others = pools.pop()
            value = (value * weight + other * other_weight) / (weight + other_weight)
            weight += other_weight
            n += n_others
        pools.append((value, weight, n))
    return [value for value, _, n in pools for _ in range(n)]


def _fitted_read_s(medians: Mapping[tuple[int, int], float]) -> float:
    """Seconds a token of text, from passes of one size behind more and less of it."""
    slopes = []
    for n_nodes in {n for n, _ in medians}:
        at = sorted((n_read, s) for (n, n_read), s in medians.items() if n == n_nodes)
        (n_least, least_s), (n_most, most_s) = at[0], at[-1]
        if n_most > n_least:
            slopes.append(max(most_s - least_s, 0.0) / (n_most - n_least))
    if slopes:
        return statistics.median(slopes)
    return _TEXT_SHARE_S * min(medians.values())


def _through_knots(measured: Mapping[int, float]) -> list[float]:
    """Costs at all knots, from those of some sizes."""
    sizes = sorted(measured)
    seconds = np.maximum.accumulate([measured[n] for n in sizes])
    knot_s = np.interp(KNOTS, sizes, seconds)
    last, last_s = sizes[-1], seconds[-1]
    price = last_s / last if len(sizes) == 1 else _last_price(sizes, seconds.tolist())
    beyond = np.array([max(knot - last, 0) for knot in KNOTS])
    return [float(s) for s in knot_s + price * beyond]


def _last_price(sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """Seconds a node more beyond the largest size: no less than a whole node's share there."""
    slope = (seconds[-1] - seconds[-2]) / (sizes[-1] - sizes[-2])
    return max(slope, seconds[-1] / sizes[-1])
