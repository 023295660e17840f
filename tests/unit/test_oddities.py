"""Oddities: what is odd once is an outlier; what is odd every time was never right."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytreellama.plan.oddities import ODD, Oddities

calm = st.floats(-ODD, ODD)


@given(st.lists(st.tuples(st.integers(0, 3), calm)))
def test_what_is_not_odd_moves_nothing(passes: list[tuple[int, float]]) -> None:
    oddities = Oddities()
    assert [oddities.learn(knot, surprise) for knot, surprise in passes] == [0.0] * len(passes)
    assert not oddities.has_some


@pytest.mark.parametrize("surprise", [-2.0, 0.5])
def test_a_size_that_is_always_odd_beside_others_is_put_right(surprise: float) -> None:
    oddities, left = Oddities(), surprise
    for _ in range(60):
        assert oddities.learn(0, 0.01) == 0.0
        left -= oddities.learn(4, left)
    assert abs(left) <= ODD
    assert not oddities.has_some


@given(st.floats(ODD + 0.1, 9.0), st.lists(calm, min_size=3, max_size=3), st.booleans())
def test_three_that_are_alike_are_believed(odd: float, noise: list[float], is_less: bool) -> None:
    sign = -1.0 if is_less else 1.0
    found = [sign * (odd + 0.3 * one) for one in noise]
    oddities, moved = Oddities(), []
    for surprise in found:
        oddities.learn(0, 0.0)
        moved.append(oddities.learn(4, surprise))
    assert moved == [0.0, 0.0, min(found, key=abs)]


def test_outliers_differ_and_are_not_believed() -> None:
    oddities = Oddities()
    for i in range(100):
        oddities.learn(0, 0.0)
        assert oddities.learn(4, 0.5 * (i % 3 + 1)) == 0.0


def test_outliers_of_both_signs_are_outliers() -> None:
    oddities = Oddities()
    for i in range(100):
        oddities.learn(0, 0.0)
        assert oddities.learn(4, (-1.0) ** i) == 0.0


def test_a_machine_that_is_slower_as_a_whole_is_not_put_down_to_a_size() -> None:
    oddities = Oddities()
    assert [oddities.learn(i % 2, 0.7) for i in range(100)] == [0.0] * 100
    assert not oddities.has_some


def test_what_was_odd_long_ago_is_forgotten() -> None:
    oddities = Oddities()
    oddities.learn(0, 0.0)
    oddities.learn(4, 1.0)
    assert oddities.has_some
    for _ in range(600):
        oddities.learn(0, 0.0)
    assert not oddities.has_some
