"""Vigilance: whether a text is drafted for at all at a step."""

from __future__ import annotations

_N_TRIALS = 6  # steps that every text is granted
_RATE = 1 / 32  # of learning while awake
_RESTING_RATE = 1 / 8  # a text that has changed is to be noticed in some looks
_FIRST_REST, _LONGEST_REST = 3, 12  # steps from look to look; each rest is twice the last
_COST = 1.25  # drafters that want to know a pass's rows make it dearer by something, too


class Vigilance:
    """Lets a text rest whose guesses save less than it costs to look for them.

    Drafters take time at every step, whatever is then chosen; so where guesses are seldom worth a
    pass, a planner that chooses well still loses. A resting text is written plainly for some steps,
    and for longer each time that a look finds no more. What is weighed is what was foreseen to be
    saved: estimates are calibrated, and vary less from step to step than what came true.
    """

    __slots__ = ("_drafting_s", "_n_learned", "_n_rested", "_rest", "_saved_s")

    def __init__(self) -> None:
        self._saved_s = 0.0
        self._drafting_s = 0.0
        self._n_learned = 0
        self._n_rested = 0
        self._rest = _FIRST_REST

    @property
    def is_resting(self) -> bool:
        """True while guesses save less than they cost."""
        return self._n_learned >= _N_TRIALS and self._saved_s < 0.0

    @property
    def looks_next(self) -> bool:
        """What the next call of ``looks`` will say."""
        return not self.is_resting or self._n_rested >= self._rest

    def looks(self) -> bool:
        """True if this step is to be drafted for; to be asked once a step."""
        if not self.is_resting:
            self._rest = _FIRST_REST
            return True
        if not self.looks_next:
            self._n_rested += 1
            return False
        self._n_rested = 0
        self._rest = min(2 * self._rest, _LONGEST_REST)
        return True

    def rest(self, drafting_s: float) -> None:
        """Hear what drafting took so far, before a step that is drafted for."""
        self._drafting_s = drafting_s

    def learn(self, saved_s: float, drafting_s: float) -> None:
        """Hear what a step that was drafted for is foreseen to save, and what looking cost.

        drafting_s: all that the text's drafting took so far.
        """
        cost_s = _COST * (drafting_s - self._drafting_s)
        self._drafting_s = drafting_s
        rate = _RESTING_RATE if self.is_resting else _RATE
        rate = max(rate, 1.0 / (self._n_learned + 1))
        self._saved_s += rate * (saved_s - cost_s - self._saved_s)
        self._n_learned += 1
