"""Typical acceptance on small trees, step by step."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pytreellama.errors import SamplerError, TreeError
from pytreellama.tree import TokenTree
from pytreellama.verify import Verdict, typical

# Node 0 holds 9; below it 0 -> 2 and 1 -> (2, 3).
TREE = TokenTree([9, 0, 1, 2, 2, 3], [-1, 0, 0, 1, 2, 2])

SURE = [0.97, 0.01, 0.01, 0.01]
UNSURE = [0.25, 0.25, 0.25, 0.25]


def rows(*rows: list[float]) -> np.ndarray:
    return np.array(rows)


def test_an_improbable_token_passes_only_where_the_target_is_undecided() -> None:
    # 0.08 is below epsilon in both rows; exp(-entropy) is 0.77 in one and 0.09 in the other.
    tree = TokenTree([9, 1], [-1, 0])
    decided = [0.92, 0.08, *[0.0] * 10]
    undecided = [0.12, 0.08, *[0.08] * 10]
    after = [0.0, 0.0, 1.0, *[0.0] * 9]
    assert typical(tree, rows(decided, after).__getitem__) == Verdict((0,), (0,))
    assert typical(tree, rows(undecided, after).__getitem__) == Verdict((0, 1), (1, 2))


def test_the_threshold_itself_is_refused_and_the_next_number_above_it_accepted() -> None:
    tree = TokenTree([9, 1], [-1, 0])
    target = rows([0.75, 0.25], [1.0, 0.0]).__getitem__
    assert typical(tree, target, epsilon=0.25, delta=9.0).n_accepted == 0
    assert typical(tree, target, epsilon=math.nextafter(0.25, 0), delta=9.0).n_accepted == 1


def test_the_longest_accepted_path_wins_over_a_likelier_one() -> None:
    target = rows([0.8, 0.2, 0, 0], SURE, UNSURE, SURE, SURE, SURE)
    assert typical(TREE, target.__getitem__) == Verdict((0, 2, 4), (1, 2, 0))


def test_of_paths_that_are_as_long_the_likelier_wins() -> None:
    target = rows([0.5, 0.5, 0, 0], UNSURE, [0, 0, 0.2, 0.8], SURE, SURE, SURE)
    assert typical(TREE, target.__getitem__).path == (0, 2, 5)


def test_likelier_is_the_whole_path_not_its_last_step() -> None:
    target = rows([0.6, 0.4, 0, 0], UNSURE, [0, 0.7, 0.3, 0], SURE, SURE, SURE)
    assert typical(TREE, target.__getitem__).path == (0, 1, 3)  # 0.6 * 0.25 > 0.4 * 0.3


def test_of_paths_that_are_as_long_and_as_likely_the_first_wins() -> None:
    target = rows([0.5, 0.5, 0, 0], UNSURE, UNSURE, SURE, SURE, SURE)
    assert typical(TREE, target.__getitem__).path == (0, 1, 3)


def test_the_last_token_is_drawn_as_asked_from_the_row_at_the_end_of_the_path() -> None:
    target = rows([0.5, 0.5, 0, 0], UNSURE, UNSURE, [0, 0.3, 0.7, 0], SURE, SURE)
    drawn_from: list[list[float]] = []

    def draw(p: np.ndarray) -> int:
        drawn_from.append(p.tolist())
        return 1

    assert typical(TREE, target.__getitem__, draw=draw).tokens == (0, 2, 1)
    assert drawn_from == [[0, 0.3, 0.7, 0]]


def test_a_stop_on_the_path_emits_its_token_and_draws_nothing() -> None:
    target = rows([0.5, 0.5, 0, 0], UNSURE, UNSURE, SURE, SURE, SURE)

    def draw(p: np.ndarray) -> int:
        raise AssertionError("the text had ended")

    verdict = typical(TREE, target.__getitem__, draw=draw, stop=lambda token: token == 2)
    assert verdict == Verdict(path=(0, 1), tokens=(0, 2))


def test_a_root_alone_is_plain_decoding() -> None:
    assert typical(TokenTree.chain([9]), rows(SURE).__getitem__) == Verdict((0,), (0,))


@pytest.mark.parametrize(
    ("epsilon", "delta", "complaint"),
    [
        (-0.1, 0.3, "epsilon is -0.1"),
        (1.1, 0.3, "epsilon is 1.1"),
        (math.nan, 0.3, "epsilon is nan"),
        (0.09, -1.0, "delta is -1.0"),
        (0.09, math.inf, "delta is inf"),
        (0.09, math.nan, "delta is nan"),
    ],
)
def test_thresholds_out_of_range_are_refused(epsilon: float, delta: float, complaint: str) -> None:
    with pytest.raises(SamplerError, match=complaint):
        typical(TREE, rows(UNSURE).__getitem__, epsilon, delta)


@pytest.mark.parametrize(
    ("tree", "row", "complaint"),
    [
        (TokenTree.empty(), UNSURE, "empty"),
        (TokenTree([1, 2], [-1, -1]), UNSURE, "with_root"),
        (TokenTree([9, 4], [-1, 0]), UNSURE, "token 4, but the target's row ends at 3"),
        (TREE, [0.5, 0.4, 0, 0], r"target\(0\) sums to 0.9"),
        (TREE, [math.nan, 1, 0, 0], r"target\(0\)\[0\] is nan"),
    ],
)
def test_trees_and_rows_that_do_not_fit_are_refused(
    tree: TokenTree, row: list[float], complaint: str
) -> None:
    with pytest.raises(TreeError, match=complaint):
        typical(tree, rows(row).__getitem__)
