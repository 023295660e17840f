"""LevelCost: what a level of drafting costs, and whether the next one pays."""

from __future__ import annotations

from collections.abc import Sequence

from pytreellama.draft.growth import Level

_RATE = 0.2
_SHARE_RATE = 0.05
_FADE = 0.98  # of a cost that forbids a level: so it is measured again some time


class LevelCost:
    """Seconds of a pass of the draft, by its number of rows, and what levels add.

    Sizes from one power of two to the next are one. Of what the nodes of a level could add at
    most, their children add a share; the mean of all levels is expected of the next.
    """

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}
        self._share = 1.0

    def learn(self, n_rows: int, seconds: float) -> None:
        """Learn what a pass took."""
        size = n_rows.bit_length()
        known = self._seconds.get(size, seconds)
        self._seconds[size] = known + _RATE * (seconds - known)

    def seconds(self, n_rows: int) -> float:
        """Of a pass of so many rows; 0 while none of its size is known."""
        return self._seconds.get(n_rows.bit_length(), 0.0)

    def pays(self, levels: Sequence[Level], token_s: Sequence[float | None]) -> bool:
        """True if levels of several trees are worth their pass.

        Args:
            levels: of the trees that grow on.
            token_s: what an accepted token of each saves; None where nobody knows.
        """
        for level in levels:
            self._share += _SHARE_RATE * (level.share - self._share)
        known_s = [one for one in token_s if one is not None]
        if len(known_s) < len(token_s):
            return True
        n_rows = sum(len(level.tokens) for level in levels)
        gain_s = sum(level.n_expected * one for level, one in zip(levels, known_s, strict=True))
        if self._share * gain_s >= self.seconds(n_rows):
            return True
        self._seconds[n_rows.bit_length()] *= _FADE
        return False
