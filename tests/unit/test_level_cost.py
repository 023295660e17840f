"""What a level of drafting costs, and whether it pays."""

from __future__ import annotations

from pytreellama.draft.growth import Level
from pytreellama.draft.level_cost import LevelCost


def level(n_nodes: int, n_expected: float) -> Level:
    return Level([7] * n_nodes, [-1] * n_nodes, n_expected)


def test_an_unknown_cost_forbids_nothing() -> None:
    assert LevelCost().pays([level(4, 0.001)], [0.01])


def test_a_level_pays_if_the_tokens_that_it_may_add_are_worth_more() -> None:
    cost = LevelCost()
    for _ in range(50):
        cost.learn(4, 0.002)
    assert cost.pays([level(4, 0.3)], [0.01])
    assert not cost.pays([level(4, 0.1)], [0.01])


def test_levels_of_several_trees_pay_together() -> None:
    cost = LevelCost()
    cost.learn(4, 0.002)
    assert not cost.pays([level(4, 0.15)], [0.01])
    assert cost.pays([level(2, 0.15), level(2, 0.1)], [0.01, 0.01])
    assert not cost.pays([level(2, 0.15), level(2, 0.1)], [0.01, 0.001])


def test_what_nobody_knows_the_worth_of_is_drafted() -> None:
    cost = LevelCost()
    cost.learn(4, 2.0)
    assert cost.pays([level(2, 0.1), level(2, 0.1)], [0.01, None])


def test_a_level_is_expected_to_add_what_levels_added() -> None:
    cost = LevelCost()
    cost.learn(2, 0.002)
    halves = Level([7, 7], [-1, -1], 0.3, share=0.5)
    assert cost.pays([halves], [0.01])
    for _ in range(100):
        assert cost.pays([halves], [1.0])
    assert not cost.pays([halves], [0.01])
    assert cost.pays([halves], [0.02])


def test_sizes_are_told_apart() -> None:
    cost = LevelCost()
    cost.learn(4, 0.002)
    cost.learn(64, 0.02)
    assert (cost.seconds(5), cost.seconds(64)) == (0.002, 0.02)
    assert cost.seconds(16) == 0.0


def test_a_cost_that_forbids_levels_fades() -> None:
    """It may come from a disturbance, and nothing would correct it."""
    cost = LevelCost()
    cost.learn(4, 1.0)
    n_forbidden = 0
    while not cost.pays([level(4, 0.5)], [0.01]):
        n_forbidden += 1
    assert 100 < n_forbidden < 1000
