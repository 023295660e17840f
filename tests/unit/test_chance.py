"""Chance: decisions from uniform numbers, and every decision in turn for the tests."""

from __future__ import annotations

import random
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest

from outcomes import ScriptedChance, outcomes
from pytreellama.verify import Chance, UniformChance

ALMOST_ONE = np.nextafter(1.0, 0.0)


def always(number: float) -> Callable[[], float]:
    return lambda: number


@pytest.mark.parametrize("number", [0.0, 0.5, ALMOST_ONE])
def test_what_is_certain_happens_and_what_is_impossible_does_not(number: float) -> None:
    assert UniformChance(always(number)).accept(1.0)
    assert not UniformChance(always(number)).accept(0.0)


@pytest.mark.parametrize("number", [0.0, 0.5, ALMOST_ONE])
@pytest.mark.parametrize("token", range(3))
def test_an_index_without_probability_is_never_drawn(number: float, token: int) -> None:
    assert UniformChance(always(number)).draw(np.eye(3)[token]) == token


def test_the_largest_number_stays_within_a_row_whose_sum_is_rounded() -> None:
    for n in range(1, 200):
        row = np.append(np.full(n, 1 / n), 0.0)
        assert UniformChance(always(ALMOST_ONE)).draw(row) == n - 1


def test_each_index_takes_its_share_of_the_numbers() -> None:
    row = np.array([0.125, 0.0, 0.5, 0.375])
    drawn = [UniformChance(always(number / 64)).draw(row) for number in range(64)]
    assert [drawn.count(index) for index in range(4)] == [8, 0, 32, 24]
    accepted = [UniformChance(always(number / 64)).accept(0.375) for number in range(64)]
    assert accepted.count(True) == 24


def test_the_same_seed_decides_the_same_with_one_number_a_decision() -> None:
    chances = [UniformChance(random.Random(7).random) for _ in range(2)]
    row = np.full(50, 1 / 50)
    assert [chances[0].draw(row) for _ in range(20)] == [chances[1].draw(row) for _ in range(20)]
    chances[0].accept(1.0)
    chances[1].draw(row)
    assert chances[0].draw(row) == chances[1].draw(row)


def test_outcomes_are_all_that_can_happen_with_their_probabilities() -> None:
    def run(chance: Chance) -> tuple[bool, int]:
        second_die = chance.accept(0.25)
        return second_die, chance.draw(np.array([0.5, 0.0, 0.5]) if second_die else np.eye(3)[1])

    found = {outcome: Fraction(p) for outcome, p in outcomes(run)}
    assert found == {
        (True, 0): Fraction(1, 8),
        (True, 2): Fraction(1, 8),
        (False, 1): Fraction(3, 4),
    }


@pytest.mark.parametrize("p", [-0.1, 1.1, np.nan])
def test_a_script_refuses_what_is_no_probability(p: float) -> None:
    with pytest.raises(AssertionError):
        ScriptedChance().accept(p)
    with pytest.raises(AssertionError):
        ScriptedChance().draw(np.array([p, 0.0]))
