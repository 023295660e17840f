"""Which drafters are asked: those that pay, and the others out of a small share of the time."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from pytreellama.plan import DrafterBudget

PASS_S = 0.01
N_TRIALS = 3
SHARE = 0.02

Seconds = Callable[[int], float]


@dataclass
class AnswerOptions:
    """At which steps a drafter was asked, and what of all time that took."""

    steps: list[int]
    seconds: float
    all_s: float

    @property
    def share(self) -> float:
        return self.seconds / self.all_s

    def between(self, begin: int, end: int) -> int:
        return sum(begin <= step < end for step in self.steps)


def simulate(
    budget: DrafterBudget, n_steps: int, cost: Seconds, gain: Seconds, drafter: int = 0
) -> AnswerOptions:
    """Steps of an engine whose other drafters are silent."""
    asked = AnswerOptions([], 0.0, 0.0)
    for step in range(n_steps):
        step_s = PASS_S
        if budget.allows(drafter):
            ask_s = cost(step)
            budget.learn_cost(drafter, ask_s)
            if budget.is_judged(drafter):
                budget.learn_gain(drafter, gain(step))
            asked.steps.append(step)
            asked.seconds += ask_s
            step_s += ask_s
        budget.earn(PASS_S)
        asked.all_s += step_s
    return asked


def always(seconds: float) -> Seconds:
    return lambda _: seconds


@pytest.mark.parametrize("share", [0.01, 0.5, 20.0])
def test_one_that_pays_is_asked_at_every_step(share: float) -> None:
    cost_s = share * PASS_S
    asked = simulate(DrafterBudget(1), 500, always(cost_s), always(1.5 * cost_s))
    assert asked.steps == list(range(500))


@pytest.mark.parametrize("share", [0.001, 0.01, 0.1, 1.0, 20.0])
@pytest.mark.parametrize("gained", [-1.0, 0.0, 0.9])
def test_one_that_does_not_pay_takes_a_small_share_of_the_time(share: float, gained: float) -> None:
    cost_s, n_steps = share * PASS_S, 10_000
    asked = simulate(DrafterBudget(1), n_steps, always(cost_s), always(gained * cost_s))
    assert asked.between(0, N_TRIALS) == N_TRIALS
    n_allowed = N_TRIALS + 1 + SHARE * n_steps * PASS_S / cost_s
    assert len(asked.steps) <= n_allowed, "it is asked too often"
    assert len(asked.steps) > min(0.4 * n_allowed, 0.4 * n_steps), "it is given up"


def test_costly_ones_are_asked_seldom() -> None:
    budget = DrafterBudget(3)
    asked = [
        simulate(budget, 5000, always(cost_s), always(0.0), drafter)
        for drafter, cost_s in enumerate((0.001, 0.01, 0.1))
    ]
    n_asked = [len(one.steps) for one in asked]
    assert n_asked[0] > 5 * n_asked[1] > 25 * n_asked[2] > 0


def test_one_whose_text_has_changed_comes_back() -> None:
    cost_s, changes = 0.1 * PASS_S, 4000
    asked = simulate(
        DrafterBudget(1), 8000, always(cost_s), lambda step: 3 * cost_s if step >= changes else 0.0
    )
    assert asked.between(changes - 1000, changes) < 300
    assert asked.between(changes + 1000, 8000) == 3000


def test_one_that_brings_nothing_any_more_is_let_go() -> None:
    cost_s = 0.1 * PASS_S
    asked = simulate(DrafterBudget(1), 4000, always(cost_s), lambda step: 3 * cost_s * (step < 500))
    assert asked.between(0, 500) == 500
    assert asked.between(2000, 4000) < 600


def test_a_hiccup_does_not_discredit_one_that_pays() -> None:
    cost_s = 0.1 * PASS_S
    asked = simulate(
        DrafterBudget(1),
        1000,
        lambda step: cost_s * (1000 if step == 400 else 1),
        always(1.5 * cost_s),
    )
    assert len(asked.steps) == 1000


def test_outliers_of_cost_are_not_what_an_ask_costs() -> None:
    rng, cost_s = random.Random(1), 0.1 * PASS_S
    budget = DrafterBudget(1)
    asked = simulate(
        budget, 20_000, lambda _: cost_s * (20 if rng.random() < 0.1 else 1), always(0.0)
    )
    assert budget.to_dicts()[0]["cost_s"] == pytest.approx(cost_s, rel=0.6)
    assert asked.share < 3 * SHARE


def test_drafters_are_known_each_for_itself() -> None:
    budget, other = DrafterBudget(2), DrafterBudget(1)
    simulate(budget, 100, always(PASS_S), always(0.0), drafter=0)
    simulate(budget, 100, always(PASS_S), always(2 * PASS_S), drafter=1)
    simulate(other, 100, always(PASS_S), always(2 * PASS_S))
    assert [told["pays"] for told in budget.to_dicts()] == [False, True]
    assert budget.to_dicts()[1] == other.to_dicts()[0]


def test_what_is_known_is_told_in_seconds() -> None:
    budget = DrafterBudget(1)
    simulate(budget, 50, always(0.002), always(0.005))
    (told,) = json.loads(json.dumps(budget.to_dicts()))
    assert told == {
        "cost_s": pytest.approx(0.002),
        "gain_s": pytest.approx(0.005),
        "n_asked": 50,
        "pays": True,
    }


@pytest.mark.parametrize("n_asks", [1, 4, 16])
def test_asks_that_share_a_pass_take_no_more_of_the_time(n_asks: int) -> None:
    """They are allowed together, and pay for it later."""
    budget, pass_s, n_steps = DrafterBudget(1), 0.2 * PASS_S, 20_000
    n_passes = 0
    for _step in range(n_steps):
        if budget.allows(0):
            n_passes += 1
            budget.learn_cost(0, pass_s / n_asks, n_asks)
            if budget.is_judged(0):
                for _ in range(n_asks):
                    budget.learn_gain(0, 0.0)
        budget.earn(PASS_S)
    n_allowed = N_TRIALS + 1 + SHARE * n_steps * PASS_S / pass_s
    assert 0.4 * n_allowed < n_passes <= n_allowed
