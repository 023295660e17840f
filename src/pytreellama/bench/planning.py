"""Planning statistics of a benchmark: acceptance by estimated probability, and pass costs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytreellama.engine import Engine

_N_BINS = 10


@dataclass(slots=True)
class Bin:
    """A calibration bin: candidates with similar estimates, and how many were accepted."""

    low: float
    high: float
    n_guesses: int = 0
    n_true: int = 0
    sum_p: float = 0.0

    @property
    def p_called(self) -> float:
        """What they were called, on average."""
        return self.sum_p / self.n_guesses if self.n_guesses else (self.low + self.high) / 2

    @property
    def share_true(self) -> float:
        """How often they came true; 0 if there were none."""
        return self.n_true / self.n_guesses if self.n_guesses else 0.0

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"p_called": self.p_called, "share_true": self.share_true}


class CalibrationBins:
    """Guesses by tenths of the probability they were given, if their parent came true."""

    def __init__(self) -> None:
        self.bins = [Bin(i / _N_BINS, (i + 1) / _N_BINS) for i in range(_N_BINS)]

    def add(self, p: float, came_true: bool) -> None:
        """Count a guess whose turn came."""
        one = self.bins[min(int(p * _N_BINS), _N_BINS - 1)]
        one.n_guesses += 1
        one.n_true += came_true
        one.sum_p += p

    @property
    def filled(self) -> list[Bin]:
        """The bins with guesses."""
        return [one for one in self.bins if one.n_guesses]

    @property
    def n_guesses(self) -> int:
        """Of all bins."""
        return sum(one.n_guesses for one in self.bins)


@dataclass(slots=True)
class Planning:
    """How trees were planned, where they were.

    Attributes:
        calibration: of all guesses whose turn came, taken or not.
        pass_s: what the planner holds that passes over 0, 1, 2... nodes cost, without text before
            them and behind ``n_text`` tokens, in seconds.
        drafters: what it holds of each drafter; see ``DrafterBudget.to_dicts``.
    """

    calibration: CalibrationBins = field(default_factory=CalibrationBins)
    pass_s: list[float] = field(default_factory=list)
    pass_behind_text_s: list[float] = field(default_factory=list)
    n_text: int = 0
    drafters: dict[str, dict[str, float | int | bool]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "calibration": [one.to_dict() for one in self.calibration.bins],
            "pass_s": self.pass_s,
            "pass_behind_text_s": self.pass_behind_text_s,
            "n_text": self.n_text,
            "drafters": self.drafters,
        }


def budgets_of(engine: Engine) -> dict[str, dict[str, Any]]:
    """What asking each drafter of planned trees costs and saves; empty if none are planned."""
    from pytreellama.draft import Auto
    from pytreellama.plan import DrafterBudget

    auto = engine.drafter
    if not isinstance(auto, Auto):
        return {}
    # where nothing can be drafted, nothing was asked
    budget = engine.drafter_budget or DrafterBudget(auto.n_drafters)
    return dict(zip(auto().names, budget.to_dicts(), strict=True))
