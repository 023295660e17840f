"""What is called 0.6 comes true 6 times in 10, also while the drafter drifts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytreellama.draft.calibration import Calibration, limit_siblings
from pytreellama.errors import DraftError

N_OUTCOMES, WINDOW = 8000, 1000

Truth = Callable[[np.ndarray, np.ndarray], np.ndarray]

# how often a call of p comes true when a share t of the time is over
TRUTHS: dict[str, Truth] = {
    "ever bolder": lambda p, t: p ** (0.4 + 2.6 * t),
    "ever meeker": lambda p, t: p ** (3.0 - 2.6 * t),
    "half as good at the end": lambda p, t: p * (1.0 - 0.5 * t),
    "greedy: all or nothing": lambda p, t: 1 / (1 + np.exp(-12 * (p - 0.3 - 0.4 * t))),
    "waves": lambda p, t: np.clip(p + 0.3 * np.sin(5 * t), 0.0, 1.0),
}


def error_of(called: np.ndarray, truth: np.ndarray) -> float:
    """The expected calibration error, over tenths of what was called."""
    tenth = np.minimum((called * 10).astype(int), 9)
    gaps = (called[tenth == i] - truth[tenth == i] for i in range(10))
    return sum(abs(gap.sum()) for gap in gaps) / len(called)


def error_over_time(called: np.ndarray, truth: np.ndarray) -> float:
    """The mean of the errors in each stretch: erring upwards first and downwards later is no help.

    The first stretch is left out, to learn in.
    """
    starts = range(WINDOW, N_OUTCOMES, WINDOW)
    errors = [error_of(called[i : i + WINDOW], truth[i : i + WINDOW]) for i in starts]
    return sum(errors) / len(errors)


@pytest.mark.parametrize("truth", TRUTHS.values(), ids=list(TRUTHS))
@given(seed=st.integers(0, 2**32 - 1), spread=st.sampled_from([0.5, 1.0, 2.0]))
def test_a_drifting_drafter_is_called_right(truth: Truth, seed: int, spread: float) -> None:
    rng = np.random.default_rng(seed)
    p = rng.beta(spread, spread, N_OUTCOMES)
    p_true = truth(p, np.linspace(0.0, 1.0, N_OUTCOMES))
    came_true = rng.random(N_OUTCOMES) < p_true
    calibration = Calibration()
    called = np.empty(N_OUTCOMES)
    for i, (call, is_right) in enumerate(zip(p.tolist(), came_true.tolist(), strict=True)):
        called[i] = calibration.calibrated(call)
        calibration.learn(call, is_right)
    assert error_over_time(called, p_true) < 0.05
    assert error_over_time(p, p_true) > 0.09, "what was called needed no calibration"


@given(st.floats(0.0, 1.0))
def test_before_any_outcome_a_call_is_believed(p: float) -> None:
    assert Calibration().calibrated(p) == pytest.approx(p, abs=1e-12)


outcomes = st.lists(st.tuples(st.floats(0.0, 1.0), st.booleans(), st.integers(0, 2)), max_size=40)


@given(outcomes, st.floats(0.0, 1.0), st.integers(0, 2))
def test_calls_stay_probabilities(
    heard: list[tuple[float, bool, int]], p: float, kind: int
) -> None:
    calibration = Calibration(3)
    for outcome in heard:
        calibration.learn(*outcome)
    assert 0.0 <= calibration.calibrated(p, kind) <= 1.0


@given(outcomes, st.floats(0.0, 1.0))
def test_kinds_and_copies_learn_each_for_itself(
    heard: list[tuple[float, bool, int]], p: float
) -> None:
    calibration = Calibration(4)
    twin = calibration.copy()
    for outcome in heard:
        twin.learn(*outcome)
    assert calibration.calibrated(p) == pytest.approx(p)
    assert twin.calibrated(p, 3) == pytest.approx(p)
    own = [(call, came_true) for call, came_true, kind in heard if kind == 1]
    alone = Calibration()
    for call, came_true in own:
        alone.learn(call, came_true)
    assert twin.calibrated(p, 1) == alone.calibrated(p)


@given(st.lists(st.floats(0.0, 1.0), max_size=8))
def test_siblings_share_what_there_is(p: list[float]) -> None:
    limited = limit_siblings(p)
    assert sum(limited) <= 1 + 1e-12
    scale = max(sum(p), 1.0)
    assert [p_one * scale for p_one in limited] == pytest.approx(p)


def test_a_calibration_of_nothing_is_refused() -> None:
    with pytest.raises(DraftError, match="n_kinds=0"):
        Calibration(0)
