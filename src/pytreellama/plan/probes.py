"""Probes: passes that are made so that the planner learns, and not because they are the best."""

from __future__ import annotations

from collections.abc import Sequence

# Passes without a tree, or with nothing but trees, until one is made the other way.
_EVERY = 512
_EVERY_UNSURE = 64
_N_FEW = 4


class Probes:
    """Now and then refuses the best choice, where choices have been of one kind for long.

    What a pass costs is only seen where passes are made. A planner that holds trees to be too dear
    would never verify one, and one that holds them to be cheap would never see a plain step; either
    could be wrong for ever. So after many passes of one kind, one of the other is made; and now
    and then a tree that is larger than the best. All of it is seldom, and less so while the curve
    itself is unsure.
    """

    __slots__ = ("_n_no_larger", "_n_plain", "_n_trees")

    def __init__(self) -> None:
        self._n_plain = self._n_trees = self._n_no_larger = 0

    def count(self, has_tree: bool) -> None:
        """Hear of a pass, with a tree or without one."""
        self._n_no_larger += 1
        self._n_plain = 0 if has_tree else self._n_plain + 1
        self._n_trees = self._n_trees + 1 if has_tree else 0

    def wants_tree(self, is_unsure: bool) -> bool:
        """True if passes have been plain for so long that any tree would tell something."""
        return self._n_plain >= _period(is_unsure)

    def sizes(
        self, best: Sequence[int], n_candidates: Sequence[int], is_unsure: bool
    ) -> tuple[int, ...] | None:
        """Draft nodes of each sequence to verify instead of the best choice; None to keep it.

        Args:
            best: how many the best choice verifies.
            n_candidates: number of candidates of each sequence.
            is_unsure: whether little is known of what trees cost beside plain steps.
        """
        if not any(best):
            return _few(n_candidates) if self.wants_tree(is_unsure) and any(n_candidates) else None
        if self._n_trees >= _period(is_unsure):
            return (0,) * len(best)
        larger = tuple(min(2 * size, n) for size, n in zip(best, n_candidates, strict=True))
        if self._n_no_larger < _period(is_unsure) or larger == tuple(best):
            return None
        self._n_no_larger = 0
        return larger


def _period(is_unsure: bool) -> int:
    return _EVERY_UNSURE if is_unsure else _EVERY


def _few(n_candidates: Sequence[int]) -> tuple[int, ...]:
    """A few draft nodes in all, of the first sequences that have some."""
    n_left, sizes = _N_FEW, []
    for n in n_candidates:
        sizes.append(min(n, n_left))
        n_left -= sizes[-1]
    return tuple(sizes)
