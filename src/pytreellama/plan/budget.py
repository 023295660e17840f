"""DrafterBudget: whether a drafter is asked, by what it saved of late and what asking costs."""

from __future__ import annotations

from dataclasses import dataclass

_RATE = 0.05  # of learning, once some asks are known
_OUTLIER = 3.0  # an ask that took so many times the mean, or more, counts for as many
_EXPLORED_SHARE = 0.02  # of all time, for asking each drafter that did not pay of late
_N_TRIALS = 3  # asks that each drafter is granted, whatever they cost
_JUDGED_ONE_IN = 16
_COST = 1.3  # candidates have to be mixed, chosen from and learned from, too


@dataclass(slots=True)
class _Record:
    """What is known of one drafter. Seconds."""

    cost_s: float = 0.0
    gain_s: float = 0.0
    n_asked: int = 0
    n_judged: int = 0
    credit_s: float = 0.0

    @property
    def pays(self) -> bool:
        return self.n_judged < _N_TRIALS or self.gain_s > _COST * self.cost_s


class DrafterBudget:
    """Keeps, for each drafter, what an ask costs and how many seconds it saves.

    A drafter that pays is asked at every step. One that does not is asked out of a small share of
    the time, so that it can show that the text has changed; an expensive one accordingly seldom.
    What an ask saves is judged at every ask then, and at one in some while the drafter pays.

    Args:
        n_drafters: how many there are.
    """

    def __init__(self, n_drafters: int) -> None:
        self._records = [_Record() for _ in range(n_drafters)]

    def allows(self, drafter: int) -> bool:
        """True if asking this drafter is within its budget now."""
        record = self._records[drafter]
        return record.pays or record.credit_s >= record.cost_s

    def is_judged(self, drafter: int) -> bool:
        """True if ``learn_gain`` should be given what the ask just made saves."""
        record = self._records[drafter]
        if record.n_judged < _N_TRIALS or record.n_asked % _JUDGED_ONE_IN == 0:
            return True
        # one that is asked seldom has few chances to show that it pays again
        return not record.pays and record.credit_s < record.cost_s

    def learn_cost(self, drafter: int, seconds: float, n_asks: int = 1) -> None:
        """Learn what an ask took.

        Args:
            seconds: of one; where several share a pass, of each of them.
            n_asks: how many shared it. They were allowed together, so there may be debts, and
                count as one ask.
        """
        record = self._records[drafter]
        if not record.pays:
            debt_s = (n_asks - 1) * record.cost_s
            record.credit_s = max(record.credit_s - n_asks * record.cost_s, -debt_s)
        rate = max(_RATE, 1.0 / (record.n_asked + 1))
        known_s = record.cost_s
        if record.n_asked >= _N_TRIALS:
            seconds = min(seconds, _OUTLIER * known_s)
        record.cost_s += rate * (seconds - known_s)
        record.n_asked += 1

    def learn_gain(self, drafter: int, seconds: float) -> None:
        """Learn how many seconds an ask is expected to save."""
        record = self._records[drafter]
        rate = max(_RATE, 1.0 / (record.n_judged + 1))
        record.gain_s += rate * (seconds - record.gain_s)
        record.n_judged += 1

    def earn(self, pass_s: float) -> None:
        """Grant a share of a pass's seconds to each drafter that does not pay."""
        for record in self._records:
            if not record.pays:
                earned_s = record.credit_s + _EXPLORED_SHARE * pass_s
                record.credit_s = min(earned_s, record.cost_s)

    def to_dicts(self) -> list[dict[str, float | int | bool]]:
        """What is known of each drafter, for JSON; seconds an ask."""
        return [
            {"cost_s": r.cost_s, "gain_s": r.gain_s, "n_asked": r.n_asked, "pays": r.pays}
            for r in self._records
        ]
