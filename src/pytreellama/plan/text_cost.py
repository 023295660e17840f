"""What the text before a pass costs: each cell once to be read, and once for each node."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass

from pytreellama.plan.tracked import Tracked

# a reading kernel that waits for memory may take several times what the bytes take
_PRIOR_READ, _PRIOR_ATTEND = 1.5, 1.7
_LEAST_ATTEND = 1 / 16  # of what reading a cell costs: where nodes are free, they are so at first
READ_DEVIATION, ATTEND_DEVIATION = 1.5, 1.0  # of what theory says
_LONE_DEVIATION = 0.1  # of a size that was timed once
_LEAST_DEVIATION = 1e-5


@dataclass(frozen=True, slots=True)
class AttentionShare:
    """How much work a cell of text is, beside the model's weights; theory, until it is measured.

    Attributes:
        read: bytes of keys and values of a cell, in those of all weights.
        attend: multiplications of a node with a cell, in those of a node with all weights.
    """

    read: float = 1 / 6144
    attend: float = 1 / 8192


@dataclass(frozen=True, slots=True)
class TextCost:
    """Seconds that attention takes: ``read_s * cells + attend_s * (cells that each node sees)``.

    Attributes:
        read_s: for each cell that is read, however many nodes see it.
        attend_s: for each cell and each node that sees it.
        read_deviation, attend_deviation: how uncertain they are, in seconds.
    """

    read_s: float
    attend_s: float
    read_deviation: float
    attend_deviation: float

    @classmethod
    def of_theory(cls, plain_s: float, node_s: float, share: AttentionShare) -> TextCost:
        """What it should be on a machine that reads weights, and multiplies by them, so fast."""
        read_s = _PRIOR_READ * share.read * plain_s
        attend_s = max(_PRIOR_ATTEND * share.attend * node_s, _LEAST_ATTEND * read_s)
        return cls(read_s, attend_s, READ_DEVIATION * read_s, ATTEND_DEVIATION * attend_s)

    def measured(self, slopes: Mapping[int, Slope]) -> TextCost:
        """The same after passes of some sizes were timed behind more and less text.

        The more certain prevails, size by size: where what was timed varied much, this is still
        the theory, and where it was exact, nothing of it is.
        """
        found = Tracked(
            (self.read_s, self.attend_s),
            (self.read_deviation**2, self.attend_deviation**2),
            (0.0, 0.0),
            (0.0, 0.0),
        )
        for n_nodes, slope in slopes.items():
            weights = (1.0, float(n_nodes))
            error = slope.seconds - found.values[0] - n_nodes * found.values[1]
            found.move(weights, error, slope.deviation**2, is_odd=False)
        read_s, attend_s = (max(value, 0.0) for value in found.values)
        deviations = (math.sqrt(max(variance, 0.0)) for variance in found.variances)
        return TextCost(read_s, attend_s, *deviations)

    def times(self, factor: float) -> TextCost:
        """Of text that costs so many times as much."""
        return TextCost(*(factor * part for part in astuple(self)))


@dataclass(frozen=True, slots=True)
class Slope:
    """Seconds that passes of one size take more for each cell before them.

    Attributes:
        deviation: of the seconds, as far as passes of one size differed.
    """

    seconds: float
    deviation: float


def slopes_of(timed: Mapping[tuple[int, int], Sequence[float]]) -> dict[int, Slope]:
    """The slope of each size that was timed at two depths, from the seconds by size and depth."""
    found = {}
    for size in sorted({size for size, _ in timed}):
        depths = sorted(depth for n_nodes, depth in timed if n_nodes == size)
        least, most = timed[size, depths[0]], timed[size, depths[-1]]
        n_cells = depths[-1] - depths[0]
        if n_cells > 0:
            more_s = statistics.median(most) - statistics.median(least)
            deviation = math.hypot(_deviation(most), _deviation(least))
            found[size] = Slope(more_s / n_cells, deviation / n_cells)
    return found


def _deviation(seconds: Sequence[float]) -> float:
    """Of the median of these, itself robust."""
    median = statistics.median(seconds)
    if len(seconds) == 1:
        return _LONE_DEVIATION * median
    spread = 1.5 * statistics.median(abs(s - median) for s in seconds)
    return max(spread, _LEAST_DEVIATION * median) / math.sqrt(len(seconds))
