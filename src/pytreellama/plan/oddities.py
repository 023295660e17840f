"""Oddities: sizes of passes that keep costing far from what is believed, and others do not."""

from __future__ import annotations

ODD = 0.25
"""A pass that took e^this times what was foreseen, or 1 / e^this, is an outlier or a finding."""

_N_FOUND = 3  # so many in a row that are alike are a finding: outliers differ
_N_REMEMBERED = 512  # passes


class Oddities:
    """Tells outliers from costs that were never right.

    What a pass took beyond what was foreseen is most often noise, and teaches little. But a size
    whose passes are odd time after time, while those of other sizes right before them are not, was
    measured wrong, such as by a calibration that was held up. A planner that avoids a size sees few
    passes of it, and would be a long time in learning by little.
    """

    __slots__ = ("_found", "_n_since", "_was_calm", "_was_knot")

    def __init__(self) -> None:
        self._found: dict[int, list[float]] = {}
        self._n_since = 0
        self._was_knot = -1
        self._was_calm = False

    @property
    def has_some(self) -> bool:
        """True if a size was odd of late: passes of it would tell more than others."""
        return bool(self._found)

    def learn(self, knot: int, surprise: float) -> float:
        """Hear of a pass; returns by how much the logarithm of that size's cost is to move.

        Args:
            knot: the size, as far as sizes are told apart.
            surprise: the logarithm of what it took, over what was foreseen as things stand.
        """
        is_calm = abs(surprise) <= ODD
        can_tell = self._was_calm and self._was_knot != knot
        self._was_knot, self._was_calm = knot, is_calm
        self._forget()
        if is_calm:
            self._found.pop(knot, None)
            return 0.0
        return self._learn_odd(knot, surprise) if can_tell else 0.0

    def _learn_odd(self, knot: int, surprise: float) -> float:
        self._n_since = 0
        found = self._found[knot] = [*self._found.get(knot, []), surprise][-_N_FOUND:]
        if len(found) < _N_FOUND or max(found) - min(found) > ODD:
            return 0.0
        del self._found[knot]
        return min(found, key=abs)

    def _forget(self) -> None:
        self._n_since += 1
        if self._n_since > _N_REMEMBERED:
            self._found.clear()
