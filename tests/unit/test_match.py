"""Verification by matching on small trees, step by step."""

from __future__ import annotations

import numpy as np
import pytest

from pytreellama.errors import TreeError
from pytreellama.tree import TokenTree
from pytreellama.verify import Verdict, match, match_greedy

# Node 0 holds 10; below it 11 -> (13 -> 15, 14) and 12.
TREE = TokenTree(
    np.array([10, 11, 12, 13, 14, 15], np.int32), np.array([-1, 0, 0, 1, 1, 3], np.int32)
)


def argmax(*tokens: int) -> np.ndarray:
    return np.array(tokens, np.int32)


def test_a_draw_outside_the_tree_ends_the_walk_and_is_emitted() -> None:
    assert match_greedy(TREE, argmax(99, 0, 0, 0, 0, 0)) == Verdict(path=(0,), tokens=(99,))


def test_the_walk_follows_the_branch_that_the_target_draws() -> None:
    assert match_greedy(TREE, argmax(11, 14, 0, 0, 77, 0)) == Verdict((0, 1, 4), (11, 14, 77))


def test_a_walk_to_a_leaf_earns_a_bonus_token() -> None:
    verdict = match_greedy(TREE, argmax(11, 13, 0, 15, 0, 16))
    assert verdict == Verdict((0, 1, 3, 5), (11, 13, 15, 16))
    assert verdict.n_accepted == 3
    assert verdict.next_token == 16


def test_a_root_alone_is_plain_decoding() -> None:
    assert match(TokenTree.chain([10]), lambda node: 42) == Verdict((0,), (42,))


def test_only_nodes_on_the_path_are_drawn_from_and_each_once_in_order() -> None:
    drawn_at = []

    def draw(node: int) -> int:
        drawn_at.append(node)
        return {0: 11, 1: 14, 4: 5}[node]

    verdict = match(TREE, draw)
    assert drawn_at == [0, 1, 4] == list(verdict.path)


def test_stop_emits_its_token_and_leaves_that_token_s_node_uncommitted() -> None:
    verdict = match_greedy(TREE, argmax(11, 13, 0, 15, 0, 16), stop=lambda token: token == 13)
    assert verdict == Verdict(path=(0, 1), tokens=(11, 13))


def test_stop_is_asked_once_for_every_emitted_token_in_order() -> None:
    asked: list[int] = []

    def at_limit(token: int) -> bool:
        asked.append(token)
        return len(asked) == 3

    verdict = match_greedy(TREE, argmax(11, 13, 0, 15, 0, 16), stop=at_limit)
    assert asked == [11, 13, 15] == list(verdict.tokens)


def test_an_empty_tree_is_refused() -> None:
    with pytest.raises(TreeError, match="empty"):
        match(TokenTree(argmax(), argmax()), lambda node: 0)


def test_several_roots_are_refused_with_the_remedy() -> None:
    with pytest.raises(TreeError, match="with_root"):
        match(TokenTree(argmax(1, 2), argmax(-1, -1)), lambda node: 0)


@pytest.mark.parametrize(
    "wrong", [argmax(1, 2), np.zeros(6, np.float32), np.zeros((6, 1), np.int32)]
)
def test_an_argmax_that_does_not_fit_the_tree_is_refused(wrong: np.ndarray) -> None:
    with pytest.raises(TreeError, match="argmax has shape"):
        match_greedy(TREE, wrong)
