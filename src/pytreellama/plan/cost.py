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

from pytreellama.plan.oddities import ODD, Oddities
from pytreellama.plan.text_cost import (
    ATTEND_DEVIATION,
    READ_DEVIATION,
    AttentionShare,
    TextCost,
    slopes_of,
)
from pytreellama.plan.tracked import Tracked

KNOTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
"""Sizes of passes whose cost is kept; between two of them it is a straight line."""

N_SIZES_KNOWN = 3
"""Sizes that must have been measured; with fewer, a curve is a guess at what a node costs."""

_LEAST_S, _MOST_S = 1e-6, 1e4  # what a pass can take, as far as files are believed
_MOST_CELL = 1 / 8  # of a pass of one node, so much for a cell of text is damage
_N_FEW = 3.0  # passes by which a size is known by itself
_NOISE = 0.01  # variance of the logarithm of what one pass takes
_DRIFT_RATE = 0.2
_TEXT_WALK = 5e-6  # what text costs hardly changes
_LEAST_DEVIATION = 0.15
_LEAST_UNIT = 1 / 2  # of theory's
_BARE_DEVIATION = 0.3
_MOST_TEXT, _MOST_MEASURED_TEXT = 0.25, 0.9  # of a pass behind the least text
_RATE = 0.03
_UNSURE = 0.15**2  # of the logarithm of a tree's cost in plain passes: a dear tree, or a cheap one
_N_TREE = 8
_MOST_NODES = 2**20
_ANY = AttentionShare()
_TEXT_PARTS = ("read_s", "attend_s", "read_deviation", "attend_deviation")
_REFRESH = 16  # learned passes after which the table of costs is made anew


@dataclass(frozen=True, slots=True)
class PassCost:
    """What a pass took.

    Attributes:
        n_nodes: in all, every sequence's last token included.
        n_read: cells of text before the nodes, each sequence's once; trees read a text once.
        seconds: of the whole step without drafting.
        n_attended: cells of text that each node attends to, summed over the nodes; where there is
            one sequence, each attends to all.
        n_sequences: how many of the nodes are sequences' last tokens.
    """

    n_nodes: int
    n_read: int
    seconds: float
    n_attended: int | None = None
    n_sequences: int = 1


class CostCurve:
    """Seconds of a pass over n nodes behind so much text.

    A pass costs what its nodes cost without text, by size; and so much for each cell of text that
    it reads, and for each node that attends to it. All come from a short calibration, and are
    corrected by every pass that is made: by a robust step in the logarithm, so that an outlier
    teaches no more than a small surprise. A machine that is slower or faster for a while is one
    factor of its own, which moves sooner than the curve's shape: the shape is what choices depend
    on. What a surprise behind text is put down to depends on how well each of these is known.

    Args:
        knot_s: seconds of a pass at each of ``KNOTS``, without text.
        text: what text costs.
        sizes: numbers of nodes whose passes were measured.
    """

    def __init__(
        self, knot_s: Sequence[float], text: TextCost, sizes: Iterable[int] = KNOTS
    ) -> None:
        parts = (text.read_s, text.attend_s, text.read_deviation, text.attend_deviation)
        are_costs = all(0.0 < s < math.inf for s in knot_s)
        if len(knot_s) != len(KNOTS) or not are_costs or not all(0 <= s < math.inf for s in parts):
            raise ValueError(
                f"a cost curve has {len(KNOTS)} positive costs, and none below zero for text"
            )
        self._log_s = [math.log(s) for s in knot_s]
        self._n_seen = [1.0] * len(KNOTS)
        # parts of text are tracked in units that make all numbers about 1
        node_s = _node_s(dict(zip(KNOTS, knot_s, strict=True)))
        theory = TextCost.of_theory(knot_s[0], node_s, _ANY)
        read_unit_s = max(text.read_s, text.read_deviation, _LEAST_UNIT * theory.read_s)
        attend_unit_s = max(text.attend_s, text.attend_deviation, _LEAST_UNIT * theory.attend_s)
        self._units_s = read_unit_s, attend_unit_s
        self._text = Tracked(
            (text.read_s / read_unit_s, text.attend_s / attend_unit_s),
            (
                _variance(text.read_deviation, read_unit_s),
                _variance(text.attend_deviation, attend_unit_s),
            ),
            (_TEXT_WALK, _TEXT_WALK),
            (READ_DEVIATION**2, ATTEND_DEVIATION**2),
        )
        self._drift = 0.0
        self._oddities = Oddities()
        self._sizes = set(sizes)
        self._n_learned = 0
        self._table = self._made_table()
        self._least_s: dict[int, float] = {}  # of the table, by nodes; see least_price_s

    # -- ways to make one

    @classmethod
    def fit(cls, passes: Iterable[PassCost], share: AttentionShare = _ANY) -> CostCurve:
        """The curve of measured passes of one sequence; at least one, over one node or more.

        Medians by size and text; between sizes that were measured a straight line, beyond them at
        the price of the last. A larger pass never costs less than a smaller one: where it was
        measured so, that is noise or a kernel's whim that the next build may not have. What text
        costs is theory, corrected by sizes that were measured behind more and less of it.

        Args:
            share: what theory says of this model.
        """
        timed: dict[tuple[int, int], list[float]] = defaultdict(list)
        for one in passes:
            timed[one.n_nodes, one.n_read].append(one.seconds)
        if not timed:
            raise ValueError("a cost curve needs at least one measured pass")
        # of each size, those behind the least text
        least = {size: n_read for size, n_read in sorted(timed, reverse=True)}
        bare_s = {size: statistics.median(timed[size, least[size]]) for size in sorted(least)}
        text = TextCost.of_theory(min(bare_s.values()), _node_s(bare_s), share)
        slopes = slopes_of(timed)
        text = text.measured(slopes)
        text_s = {n: n_read * (text.read_s + n * text.attend_s) for n, n_read in least.items()}
        # theory may be too high for some sizes
        allowed = _MOST_MEASURED_TEXT if slopes else _MOST_TEXT
        excess = max(text_s[n] / bare_s[n] for n in least) / allowed
        if excess > 1.0:
            text = text.times(1.0 / excess)
            text_s = {n: s / excess for n, s in text_s.items()}
        bare_s = {n: s - text_s[n] for n, s in bare_s.items()}
        return cls(_through_knots(bare_s), text, bare_s)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CostCurve:
        """What ``to_dict`` gave. Raises ValueError, TypeError, KeyError for anything else."""
        if list(data["knots"]) != list(KNOTS):
            raise ValueError("the costs were kept for other sizes of passes")
        try:
            knot_s, sizes = [float(s) for s in data["knot_s"]], [int(n) for n in data["sizes"]]
            parts = [float(data[name]) for name in _TEXT_PARTS]
        except OverflowError as error:
            raise ValueError("a cost is larger than any number of seconds") from error
        if not all(_LEAST_S <= s <= _MOST_S for s in knot_s):
            raise ValueError(f"a pass takes from {_LEAST_S} to {_MOST_S} seconds")
        if not all(0.0 <= s <= _MOST_CELL * knot_s[0] for s in parts):
            raise ValueError("a cell of text takes a small part of a pass")
        if not all(0 < n <= _MOST_NODES for n in sizes):
            raise ValueError(f"a pass has from 1 to {_MOST_NODES} nodes")
        return cls(knot_s, TextCost(*parts), sizes)

    def to_dict(self) -> dict[str, Any]:
        """The curve as it stands, for JSON; without the machine's mood of the moment."""
        text = self.text
        return {
            "knots": list(KNOTS),
            "knot_s": np.exp(self._log_s).tolist(),
            **{name: getattr(text, name) for name in _TEXT_PARTS},
            "sizes": sorted(self._sizes),
        }

    @property
    def is_known(self) -> bool:
        """True if enough sizes were measured or learned for a node's cost to be known."""
        return len(self._sizes) >= N_SIZES_KNOWN

    @property
    def text(self) -> TextCost:
        """What text costs, as far as is known; without the machine's mood of the moment."""
        read_unit_s, attend_unit_s = self._units_s
        read, attend = (math.sqrt(max(variance, 0.0)) for variance in self._text.variances)
        return TextCost(self._read_s, self._attend_s, read * read_unit_s, attend * attend_unit_s)

    # -- what passes cost

    def pass_s(self, n_nodes: int, n_read: int = 0, n_attended: int | None = None) -> list[float]:
        """Seconds of passes over 0 to ``n_nodes`` nodes that read so many cells of text.

        At most ``KNOTS[-1]`` nodes are told of.

        Args:
            n_attended: cells that all nodes together attend to; by default, each to all.
        """
        factor = math.exp(self._drift)
        read_s, attend_s = self._read_s * n_read, self._attend_s
        table = self._table[: n_nodes + 1]
        if n_attended is not None:
            text_s = read_s + attend_s * n_attended
            return [factor * (s + text_s) for s in table]
        each_s = attend_s * n_read
        return [factor * (s + read_s + n * each_s) for n, s in enumerate(table)]

    def least_price_s(self, n_nodes: int, n_read: int = 0) -> float:
        """The fewest seconds that a node more may cost, taken in any number beside ``n_nodes``.

        Args:
            n_read: cells that the node attends to.
        """
        n_nodes = min(n_nodes, KNOTS[-1] - 1)
        least = self._least_s.get(n_nodes)
        if least is None:
            beyond = np.array(self._table[n_nodes + 1 :]) - self._table[n_nodes]
            least = float((beyond / np.arange(1, len(beyond) + 1)).min())
            self._least_s[n_nodes] = least
        return math.exp(self._drift) * least + self.attend_s(n_read)

    def attend_s(self, n_read: int) -> float:
        """Seconds of one node more, for the cells of text that it attends to."""
        return math.exp(self._drift) * self._attend_s * n_read

    def seconds(self, n_nodes: int, n_read: int = 0, n_attended: int | None = None) -> float:
        """Seconds of one pass; at most ``KNOTS[-1]`` nodes are told apart. See ``pass_s``."""
        n_nodes = min(n_nodes, KNOTS[-1])
        if n_attended is None:
            n_attended = n_nodes * n_read
        text_s = self._read_s * n_read + self._attend_s * n_attended
        return math.exp(self._drift) * (self._table[n_nodes] + text_s)

    def is_unsure(self, n_read: int) -> bool:
        """True if trees behind so much text may be much dearer or cheaper than is believed."""
        if self._oddities.has_some:
            return True
        _, one = self._weights(1, n_read, n_read)
        _, tree = self._weights(_N_TREE, n_read, _N_TREE * n_read)
        apart = [b - a for a, b in zip(one, tree, strict=True)]
        return self._text.variance(apart) > _UNSURE

    @property
    def _read_s(self) -> float:
        return self._text.values[0] * self._units_s[0]

    @property
    def _attend_s(self) -> float:
        return self._text.values[1] * self._units_s[1]

    # -- what is learned

    def learn(self, done: PassCost) -> None:
        """Correct the curve by a pass that was made."""
        n_nodes = min(max(done.n_nodes, 1), KNOTS[-1])
        if not 0.0 < done.seconds < math.inf:
            return
        n_attended = n_nodes * done.n_read if done.n_attended is None else done.n_attended
        pass_s, weights = self._weights(n_nodes, done.n_read, n_attended)
        surprise = math.log(done.seconds) - math.log(pass_s) - self._drift
        bare_share = self._as_learned_s(n_nodes) / pass_s
        self._put_right(n_nodes, surprise, bare_share)
        is_odd = abs(surprise) > ODD
        surprise = min(max(surprise, -ODD), ODD)
        # what a size costs by itself is not known so well that text could be held to account
        noise = _NOISE + (_BARE_DEVIATION * bare_share) ** 2
        self._text.age()
        by_text = self._text.move(weights, surprise, noise, is_odd)
        self._text.values = [max(value, 0.0) for value in self._text.values]
        self._drift += _DRIFT_RATE * (surprise - by_text)
        self._learn_size(n_nodes, _RATE * surprise * bare_share)
        self._sizes.add(n_nodes)
        self._n_learned += 1
        if self._n_learned % _REFRESH == 0:
            self._table = self._made_table()
            self._least_s.clear()

    def _weights(
        self, n_nodes: int, n_read: int, n_attended: int
    ) -> tuple[float, tuple[float, float]]:
        """A pass's seconds, and how their logarithm moves with the parts that text has in them."""
        pass_s = self._as_learned_s(n_nodes)
        pass_s += self._read_s * n_read + self._attend_s * n_attended
        read_unit_s, attend_unit_s = self._units_s
        return pass_s, (read_unit_s * n_read / pass_s, attend_unit_s * n_attended / pass_s)

    def _put_right(self, n_nodes: int, surprise: float, bare_share: float) -> None:
        """Move a size that was never right at once, and larger ones that were hardly seen."""
        knot = bisect_left(KNOTS, n_nodes)
        step = bare_share * self._oddities.learn(knot, surprise)
        if step == 0.0:
            return
        self._log_s[knot] += step
        for larger in range(knot + 1, len(KNOTS) if knot > 0 else 0):
            self._log_s[larger] += step * min(1.0, _N_FEW / self._n_seen[larger])
        self._table = self._made_table()
        self._least_s.clear()

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


def _variance(deviation: float, unit: float) -> float:
    """Of what was measured earlier or at another depth: never so certain that it stays for ever."""
    return max(deviation / unit, _LEAST_DEVIATION) ** 2


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


def _node_s(bare_s: Mapping[int, float]) -> float:
    """Seconds of a node more, in passes of some nodes; the largest of them is much like prefill."""
    at = sorted(bare_s)
    size = min(at, key=lambda n: abs(n - _N_TREE))
    if size == at[0]:
        return bare_s[size] / size
    return max(bare_s[size] - bare_s[at[0]], 0.0) / (size - at[0])


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
