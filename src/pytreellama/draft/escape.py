"""How often text leaves the paths it took before: escape probabilities, learned as it goes."""

from __future__ import annotations

_LENGTH_CLASSES = 7  # match lengths 0, 1, 2-3, 4-7, 8-15, 16-31, 32 and more
_COUNT_CLASSES = 6  # occurrences 0, 1, 2-3, 4-7, 8-15, 16 and more
_NOVELTY_CLASSES = 4  # distinct new continuations 1, 2, 3, 4 and more
_PRIOR_WEIGHT = 4  # a cell's first guess counts as much as this many observations
_MEMORY = 128  # observations after which older ones fade, so that a change of text shows


class EscapeTable:
    """Estimates the probability that the next token is none of those a context has shown.

    One adaptive frequency for each kind of context: how long the match is, how often it occurred,
    how many distinct tokens it offers, and whether a longer context was already escaped from.
    Every committed token teaches it, so that repetitive and free text each find their own level.

    Source: PPM's escape (Cleary and Witten 1984), learned by context kind as in PPMZ's secondary
    escape estimation (Bloom 1998). The first guess is method C's d / (n + d) (Moffat 1990), where
    an occurrence counts for more the longer the match is.
    """

    __slots__ = ("_p_escape", "_weights")

    def __init__(self) -> None:
        self._p_escape = [
            _initial_estimate(length_class, count_class, n_new)
            for length_class in range(_LENGTH_CLASSES)
            for count_class in range(_COUNT_CLASSES)
            for n_new in range(1, _NOVELTY_CLASSES + 1)
            for _escaped in (False, True)
        ]
        self._weights = [_PRIOR_WEIGHT] * len(self._p_escape)

    def p_escape(self, length: int, n_seen: int, n_new: int, escaped: bool) -> float:
        """Probability, in (0, 1), that none of the context's `n_new` >= 1 tokens comes next.

        `length`: the match in tokens; `n_seen`: times that the context was continued before;
        `escaped`: a longer context offered other tokens, and none of those is the next one.
        """
        return self._p_escape[_cell(length, n_seen, n_new, escaped)]

    def learn(self, length: int, n_seen: int, n_new: int, escaped: bool, was_escape: bool) -> None:
        """Note what came of such a context once."""
        cell = _cell(length, n_seen, n_new, escaped)
        weight = self._weights[cell]
        self._p_escape[cell] += (was_escape - self._p_escape[cell]) / (weight + 1)
        if weight < _MEMORY:
            self._weights[cell] = weight + 1


def _cell(length: int, n_seen: int, n_new: int, escaped: bool) -> int:
    length_class = min(length.bit_length(), _LENGTH_CLASSES - 1)
    count_class = min(n_seen.bit_length(), _COUNT_CLASSES - 1)
    novelty_class = min(n_new, _NOVELTY_CLASSES) - 1
    kind = (length_class * _COUNT_CLASSES + count_class) * _NOVELTY_CLASSES + novelty_class
    return 2 * kind + escaped


def _initial_estimate(length_class: int, count_class: int, n_new: int) -> float:
    length = max(1, 1 << length_class >> 1)
    n_seen = max(n_new, 1 << count_class >> 1)
    return n_new / (n_new + n_seen * (1 + length) / 2)
