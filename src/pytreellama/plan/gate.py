"""DraftGate: whether a request drafts at a step, with backoff while drafting does not pay."""

from __future__ import annotations

_N_TRIALS = 6  # steps that every request may draft at
_RATE = 1 / 32  # of learning while the gate is open
_BACKOFF_RATE = 1 / 8  # a text that has changed is to be noticed in some trials
_FIRST_BACKOFF, _LONGEST_BACKOFF = 3, 12  # plain steps between trials; doubled after each trial
_COST = 1.25  # drafters that observe rows make the pass itself more expensive, too


class DraftGate:
    """Closes for a request whose drafting takes more time than its accepted tokens save.

    Drafters take time at every step, whatever is then verified; so where a draft seldom pays, a
    planner that chooses well is still slower than plain decoding. While the gate backs off, the
    request is decoded plainly for some steps, and for more after each trial that does not pay.
    What is weighed is what a step was expected to save: estimates are calibrated, and vary less
    from step to step than what was accepted.
    """

    __slots__ = ("_backoff", "_n_learned", "_n_plain", "_saved_s")

    def __init__(self) -> None:
        self._saved_s = 0.0  # of a step, less what drafting took
        self._n_learned = 0
        self._n_plain = 0
        self._backoff = _FIRST_BACKOFF

    @property
    def is_backing_off(self) -> bool:
        """True while drafting takes more than it saves."""
        return self._n_learned >= _N_TRIALS and self._saved_s < 0.0

    @property
    def opens_next(self) -> bool:
        """What the next call of ``opens`` will return."""
        return not self.is_backing_off or self._n_plain >= self._backoff

    def opens(self) -> bool:
        """True if the request is to be drafted for at this step; call it once a step."""
        if not self.is_backing_off:
            self._backoff = _FIRST_BACKOFF
            return True
        if not self.opens_next:
            self._n_plain += 1
            return False
        self._n_plain = 0
        self._backoff = min(2 * self._backoff, _LONGEST_BACKOFF)
        return True

    def learn(self, saved_s: float, drafting_s: float) -> None:
        """Learn from a step that was drafted for.

        Args:
            saved_s: seconds that its pass is expected to save.
            drafting_s: seconds that drafting and planning took.
        """
        rate = _BACKOFF_RATE if self.is_backing_off else _RATE
        rate = max(rate, 1.0 / (self._n_learned + 1))
        self._saved_s += rate * (saved_s - _COST * drafting_s - self._saved_s)
        self._n_learned += 1
