"""Tracked: a few numbers that are seen only together, and how well each of them is known."""

from __future__ import annotations

from collections.abc import Sequence


class Tracked:
    """A Kalman filter over a few numbers, each of which may change slowly.

    What is measured is a weighted sum of them. The filter gives each number its share of what the
    sum was off by, by weight and by how uncertain it is: a number that is well known stays.

    Source: Kalman 1960, "A new approach to linear filtering and prediction problems".

    Args:
        values: the numbers.
        variances: how uncertain they are.
        walks: by how much each variance grows between two measurements.
        most: variances beyond which none grows.
    """

    __slots__ = ("_most", "_walks", "covariance", "values")

    def __init__(
        self,
        values: Sequence[float],
        variances: Sequence[float],
        walks: Sequence[float],
        most: Sequence[float],
    ) -> None:
        self.values = list(values)
        self.covariance = [
            [variance if i == j else 0.0 for j in range(len(values))]
            for i, variance in enumerate(variances)
        ]
        self._walks = tuple(walks)
        self._most = tuple(most)

    @property
    def variances(self) -> list[float]:
        """Of each number by itself."""
        return [row[i] for i, row in enumerate(self.covariance)]

    def variance(self, weights: Sequence[float]) -> float:
        """Of a weighted sum."""
        return sum(w * c for w, c in zip(weights, self._times(weights), strict=True))

    def move(self, weights: Sequence[float], error: float, noise: float, is_odd: bool) -> float:
        """Correct all numbers by a measured sum; returns by how much that moves the sum.

        Args:
            weights: of the numbers in the sum.
            error: what was measured, less the sum as it was believed.
            noise: the variance of what is measured.
            is_odd: this may be an outlier: believe it as far as it goes, but know nothing better.
        """
        shared = self._times(weights)
        whole = noise + sum(w * c for w, c in zip(weights, shared, strict=True))
        gains = [c / whole for c in shared]
        for i, gain in enumerate(gains):
            self.values[i] += gain * error
        if not is_odd:
            for row, gain in zip(self.covariance, gains, strict=True):
                for j, c in enumerate(shared):
                    row[j] -= gain * c
        return error * (1.0 - noise / whole)

    def age(self) -> None:
        """Let time pass: what is not measured becomes less certain."""
        for i, (row, walk, most) in enumerate(
            zip(self.covariance, self._walks, self._most, strict=True)
        ):
            row[i] = max(row[i], min(row[i] + walk, most))

    def _times(self, weights: Sequence[float]) -> list[float]:
        return [sum(c * w for c, w in zip(row, weights, strict=True)) for row in self.covariance]
