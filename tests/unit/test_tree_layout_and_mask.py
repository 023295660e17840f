"""Layouts and masks as pure functions of parents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pytreellama.errors import TreeError
from pytreellama.tree import (
    ancestor_mask,
    bfs_order,
    depths,
    dfs_order,
    leaves,
    mask_of_sequence_sets,
    positions,
    sequence_sets,
    subtree_sizes,
)

# Two roots, 0 and 1; 0 has children 2 and 3, 1 has 4, 2 has 5.
BUSH = [-1, -1, 0, 0, 1, 2]
BUSH_MIXED = [3, 3, 4, -1, -1, 0]  # the same shape, nodes in no order of depth


def test_depths_positions_and_sizes_follow_the_parents() -> None:
    assert depths(BUSH).tolist() == [0, 0, 1, 1, 1, 2]
    assert positions(BUSH, 40).tolist() == [40, 40, 41, 41, 41, 42]
    assert subtree_sizes(BUSH).tolist() == [4, 2, 2, 1, 1, 1]


def test_layouts_do_not_need_parents_first() -> None:
    assert depths(BUSH_MIXED).tolist() == [1, 1, 1, 0, 0, 2]
    assert bfs_order(BUSH_MIXED).tolist() == [3, 4, 0, 1, 2, 5]
    assert dfs_order(BUSH_MIXED).tolist() == [3, 0, 5, 1, 4, 2]


def test_orders_go_by_level_or_by_subtree() -> None:
    assert bfs_order(BUSH).tolist() == [0, 1, 2, 3, 4, 5]
    assert dfs_order(BUSH).tolist() == [0, 2, 5, 3, 1, 4]
    assert leaves(BUSH).tolist() == [5, 3, 4]


@pytest.mark.parametrize("n_past", [-1, 2**31 - 2])
def test_positions_must_fit_the_context(n_past: int) -> None:
    with pytest.raises(TreeError, match=rf"n_past is {n_past}; .* 0\.\.2147483645"):
        positions(BUSH, n_past)


def test_the_last_position_there_is_can_be_used() -> None:
    assert positions(BUSH, 2**31 - 3)[5] == 2**31 - 1


def test_sequence_sets_number_the_leaves_from_left_to_right() -> None:
    flat, offsets = sequence_sets(BUSH)
    assert flat.dtype == offsets.dtype == np.int32
    sets = [flat[offsets[node] : offsets[node + 1]].tolist() for node in range(6)]
    assert sets == [[0, 1], [2], [0], [1], [2], [0]]


def test_the_stock_mask_sees_by_first_id_and_position() -> None:
    # Token 1 carries ids 1 and 0, in this order: stock llama.cpp asks for 1 alone.
    mask = mask_of_sequence_sets([0, 1, 0, 0], [0, 1, 3, 4], [0, 1, 2])
    assert mask.tolist() == [[True, False, False], [False, True, False], [True, True, True]]


@pytest.mark.parametrize(
    ("flat", "offsets", "places", "message"),
    [
        ([0], [0, 1], [0, 1], "offsets must run from 0 to 1 in 3 entries"),
        ([0, 0], [0, 1], [0], "offsets must run from 0 to 2"),
        ([0], [0, 0, 1], [0, 1], "token 0 carries no sequence id"),
        ([0, 0], [0, 2, 1, 2], [0, 1, 2], "token 1 carries no sequence id"),
        ([-1], [0, 1], [0], r"flat\[0\] is -1"),
    ],
)
def test_sequence_sets_that_llama_cpp_could_not_hold_are_refused(
    flat: list[int], offsets: list[int], places: list[int], message: str
) -> None:
    with pytest.raises(TreeError, match=message):
        mask_of_sequence_sets(flat, offsets, places)


FUNCTIONS: list[Callable[[Any], Any]] = [
    ancestor_mask,
    bfs_order,
    depths,
    dfs_order,
    leaves,
    sequence_sets,
    subtree_sizes,
]


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    ("parents", "message"),
    [
        ([1, 0], "lead back to it"),
        ([0], "node 0 lead back to it"),
        ([-1, 5], r"parents\[1\] is 5; allowed is -1\.\.1"),
        ([-1, 0.5], "parents has dtype float64"),
    ],
)
def test_every_function_refuses_what_is_no_tree(
    function: Callable[[Any], Any], parents: list[int], message: str
) -> None:
    with pytest.raises(TreeError, match=message):
        function(parents)


@pytest.mark.parametrize("function", FUNCTIONS[:5])
def test_every_function_takes_the_empty_tree(function: Callable[[Any], Any]) -> None:
    assert function([]).size == 0


def test_the_empty_tree_has_empty_sequence_sets() -> None:
    flat, offsets = sequence_sets([])
    assert (flat.tolist(), offsets.tolist()) == ([], [0])
    assert mask_of_sequence_sets(flat, offsets, []).shape == (0, 0)
