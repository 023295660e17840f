"""LevelCost: what a level of drafting costs, and whether the next one pays."""

from __future__ import annotations

_RATE = 0.2
_FADE = 0.98  # of a cost that forbids a level: so it is measured again some time


class LevelCost:
    """Seconds of a pass of the draft, by its number of rows.

    Sizes from one power of two to the next are one.
    """

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}

    def learn(self, n_rows: int, seconds: float) -> None:
        """Learn what a pass took."""
        size = n_rows.bit_length()
        known = self._seconds.get(size, seconds)
        self._seconds[size] = known + _RATE * (seconds - known)

    def seconds(self, n_rows: int) -> float:
        """Of a pass of so many rows; 0 while none of its size is known."""
        return self._seconds.get(n_rows.bit_length(), 0.0)

    def pays(self, n_rows: int, n_expected: float, token_s: float) -> bool:
        """True if a level is worth its pass.

        Args:
            n_expected: upper bound on the accepted tokens that it adds.
            token_s: what an accepted token saves.
        """
        if n_expected * token_s >= self.seconds(n_rows):
            return True
        self._seconds[n_rows.bit_length()] *= _FADE
        return False
