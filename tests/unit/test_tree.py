"""TokenTree: what it accepts, what it refuses, and what it answers."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest

from pytreellama.errors import PyTreeLlamaError, TreeError
from pytreellama.tree import TokenTree

#  11 -- 12 -- 13
#    \-- 14
#  20 -- 12
BUSH = TokenTree([11, 20, 12, 14, 12, 13], [-1, -1, 0, 0, 1, 2], [0.6, 0.3, 0.5, 0.1, 0.2, 0.4])


def test_a_tree_holds_int32_arrays_and_depths() -> None:
    assert BUSH.tokens.dtype == BUSH.parents.dtype == BUSH.depths.dtype == np.int32
    assert BUSH.p is not None and BUSH.p.dtype == np.float32
    assert BUSH.depths.tolist() == [0, 0, 1, 1, 1, 2]
    assert len(BUSH) == BUSH.n_nodes == 6
    assert BUSH.n_leaves == 3
    assert BUSH.n_levels == 3


def test_a_tree_cannot_be_changed() -> None:
    for array in (BUSH.tokens, BUSH.parents, BUSH.p, BUSH.depths, BUSH.leaves, BUSH.roots):
        assert array is not None
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    with pytest.raises(FrozenInstanceError):
        BUSH.tokens = BUSH.parents  # type: ignore[misc]


def test_a_tree_does_not_share_memory_with_what_it_was_made_from() -> None:
    tokens, parents = np.array([1, 2], np.int32), np.array([-1, 0], np.int32)
    trees = [TokenTree(tokens, parents), TokenTree.from_parents(tokens, parents)]
    tokens[0] = 9
    assert [tree.tokens.tolist() for tree in trees] == [[1, 2], [1, 2]]
    assert tokens.flags.writeable


def test_equal_trees_are_equal_and_hash_alike() -> None:
    same = TokenTree(BUSH.tokens.tolist(), BUSH.parents.tolist(), BUSH.p)
    assert same == BUSH and hash(same) == hash(BUSH)
    assert TokenTree([1], [-1], [-0.0]) == TokenTree([1], [-1], [0.0])
    assert hash(TokenTree([1], [-1], [-0.0])) == hash(TokenTree([1], [-1], [0.0]))


@pytest.mark.parametrize(
    "other",
    [
        TokenTree([1, 3], [-1, 0]),
        TokenTree([1, 2], [-1, -1]),
        TokenTree([1], [-1]),
        TokenTree([1, 2], [-1, 0], [0.5, 0.5]),
        "tree",
    ],
)
def test_a_tree_differs_from_any_other_value(other: object) -> None:
    assert TokenTree([1, 2], [-1, 0]) != other


def test_trees_with_other_probabilities_differ() -> None:
    assert TokenTree([1], [-1], [0.5]) != TokenTree([1], [-1], [0.25])


@pytest.mark.parametrize(
    "remake", [copy.copy, copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))]
)
def test_copies_are_equal_and_still_read_only(remake: Callable[[TokenTree], TokenTree]) -> None:
    again = remake(BUSH)
    assert again == BUSH
    assert not again.tokens.flags.writeable
    assert again.child(0, 14) == 3


def test_the_repr_of_a_small_tree_makes_it_again() -> None:
    assert eval(repr(BUSH)) == BUSH
    assert repr(TokenTree([1, 2], [-1, 0])) == "TokenTree([1, 2], [-1, 0])"


def test_the_repr_of_a_large_tree_is_short() -> None:
    assert (
        repr(TokenTree.chain(range(300))) == "<TokenTree: 300 nodes, 1 leaves, 1 roots, 300 levels>"
    )


def test_the_empty_tree_answers_everything() -> None:
    empty = TokenTree.empty()
    assert (len(empty), empty.n_leaves, empty.n_levels, empty.paths()) == (0, 0, 0, [])
    assert empty == TokenTree([], []) == TokenTree.from_paths([]) == TokenTree.from_paths([[], []])
    assert empty == TokenTree.from_choices([], [[1]]) == TokenTree.from_parents([], [])
    assert empty.child(-1, 3) is None and empty.children(-1).tolist() == []
    assert empty.path(-1).tolist() == [] and empty.ancestor_mask().shape == (0, 0)
    assert empty.prune([]) == empty.truncate(4) == empty.merge(empty) == empty
    assert empty.with_root(7) == TokenTree([7], [-1])
    assert empty.nodes_by_p().tolist() == []
    assert TokenTree([], [], []).p is not None


# --- looking around -------------------------------------------------------------------------


def test_child_finds_a_child_by_its_token() -> None:
    assert BUSH.child(-1, 20) == 1
    assert BUSH.child(0, 12) == 2 and BUSH.child(1, 12) == 4
    assert BUSH.child(0, 13) is None and BUSH.child(5, 12) is None


def test_child_takes_numpy_integers() -> None:
    assert BUSH.child(np.int32(0), np.int64(14)) == 3


def test_children_are_listed_by_index() -> None:
    assert BUSH.roots.tolist() == BUSH.children(-1).tolist() == [0, 1]
    assert [BUSH.children(node).tolist() for node in range(6)] == [[2, 3], [4], [5], [], [], []]


def test_path_lists_nodes_from_the_root_down() -> None:
    assert BUSH.path(5).tolist() == [0, 2, 5]
    assert BUSH.path(1).tolist() == [1]
    assert BUSH.path(-1).tolist() == []
    assert BUSH.path(5).dtype == np.int32


def test_leaves_and_paths_run_from_left_to_right() -> None:
    assert BUSH.leaves.tolist() == [5, 3, 4]
    assert BUSH.paths() == [[11, 12, 13], [11, 14], [20, 12]]


@pytest.mark.parametrize("node", [-2, 6, 100])
def test_a_node_that_is_not_there_is_an_error(node: int) -> None:
    for ask in (BUSH.path, BUSH.children, lambda n: BUSH.child(n, 11)):
        with pytest.raises(TreeError, match=rf"node {node} is not in this tree; nodes are 0..5"):
            ask(node)


def test_the_ancestor_mask_shows_a_node_itself_and_those_above() -> None:
    seen = [np.flatnonzero(row).tolist() for row in BUSH.ancestor_mask()]
    assert seen == [[0], [1], [0, 2], [0, 3], [1, 4], [0, 2, 5]]


# --- ways to make one -----------------------------------------------------------------------


def test_chain_is_one_path() -> None:
    chain = TokenTree.chain([5, 5, 6], [0.5, 0.25, 0.25])
    assert chain.parents.tolist() == [-1, 0, 1]
    assert chain.paths() == [[5, 5, 6]]


def test_from_parents_sorts_by_depth_and_carries_p() -> None:
    tree = TokenTree.from_parents([13, 12, 11, 14], [1, 2, -1, 2], [0.1, 0.2, 0.9, 0.3])
    assert tree == TokenTree([11, 12, 14, 13], [-1, 0, 0, 1], [0.9, 0.2, 0.3, 0.1])


def test_from_parents_leaves_bfs_order_as_it_is() -> None:
    crossed = TokenTree([1, 2, 3, 4], [-1, -1, 1, 0])
    assert TokenTree.from_parents(crossed.tokens, crossed.parents) == crossed


def test_from_parents_merges_equal_siblings_and_their_children() -> None:
    tree = TokenTree.from_parents(
        [7, 7, 8, 8, 9], [-1, -1, 0, 1, 3], [0.5, 0.75, 0.25, 0.125, 0.125]
    )
    assert tree == TokenTree([7, 8, 9], [-1, 0, 1], [0.75, 0.25, 0.125])


def test_from_paths_merges_equal_prefixes() -> None:
    tree = TokenTree.from_paths([[11, 12, 13], (11, 14), np.array([11, 12]), [20, 12]])
    assert tree == TokenTree(BUSH.tokens, BUSH.parents)


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ([1, 2, 3], r"1 is not a path of token ids.*TokenTree\.chain"),
        ([[1, 2.5]], "not a path of token ids"),
        (["ab"], "'ab' is not a path"),
        ([[1, -2]], r"the paths' tokens\[1\] is -2; allowed is 0\.\.2147483647"),
        ([np.array([0.5])], "path has dtype float64"),
    ],
)
def test_from_paths_says_what_is_no_path(paths: Any, message: str) -> None:
    with pytest.raises(TreeError, match=message):
        TokenTree.from_paths(paths)


TOP_K = np.array([[11, 20, 30], [12, 14, 15]])


def test_from_choices_fills_a_shape_with_the_heads_tokens() -> None:
    tree = TokenTree.from_choices([(0,), (0, 0), (1,), (0, 1)], TOP_K)
    assert tree == TokenTree([11, 20, 12, 14], [-1, -1, 0, 0])


def test_from_choices_multiplies_probabilities_down_a_path() -> None:
    p = [[0.5, 0.25, 0.125], [0.5, 0.25, 0.125]]
    tree = TokenTree.from_choices([(0, 1), (1,), (0,)], TOP_K, p)
    assert tree == TokenTree([20, 11, 14], [-1, -1, 1], [0.25, 0.5, 0.125])


def test_from_choices_counts_a_repeated_choice_once() -> None:
    assert len(TokenTree.from_choices([(0,), [0], (0,)], TOP_K)) == 1


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ([(0,), (1, 2)], r"choice \(1, 2\) needs its prefix \(1,\)"),
        ([(3,)], r"choice \(3,\) has rank 3; allowed is 0\.\.2"),
        ([(-1,)], "has rank -1"),
        ([(0,), (0, 0), (0, 0, 0)], "is 3 deep, but there are 2 heads"),
        ([()], "is the trunk itself"),
        ([0], "not a tuple of ranks"),
        ([(0.5,)], "not a tuple of ranks"),
    ],
)
def test_from_choices_names_the_choice_that_does_not_fit(choices: Any, message: str) -> None:
    with pytest.raises(TreeError, match=message):
        TokenTree.from_choices(choices, TOP_K)


@pytest.mark.parametrize(
    ("tokens", "p", "message"),
    [
        ([1, 2], None, r"top_k_tokens has shape \(2,\); give \(n_heads, k\)"),
        ([[1], [2, 3]], None, "cannot be read as a table"),
        ([[1, -1]], None, r"top_k_tokens\[1\] is -1"),
        ([[0.5]], None, "dtype float64"),
        ([[1, 2]], [[0.5]], r"top_k_p has shape \(1, 1\)"),
        ([[1, 2]], [[0.5, 1.5]], "no probability"),
        ([[1, 2]], [[0.5, float("nan")]], "no probability"),
    ],
)
def test_from_choices_checks_its_tables(tokens: Any, p: Any, message: str) -> None:
    with pytest.raises(TreeError, match=message):
        TokenTree.from_choices([(0,)], tokens, p)


# --- what is refused ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokens", "parents", "message"),
    [
        ([1, 2], [-1], "2 tokens but 1 parents"),
        ([1, 2], [-1, 2], r"parents\[1\] is 2; allowed is -1\.\.1"),
        ([1, 2], [-2, 0], r"parents\[0\] is -2; allowed is -1\.\.1"),
        ([1, -2], [-1, 0], r"tokens\[1\] is -2; allowed is 0\.\.2147483647"),
        ([1, 2**31], [-1, 0], r"tokens\[1\] is 2147483648"),
        ([1, 2**70], [-1, 0], "tokens has dtype object"),
        ([1.0, 2.0], [-1, 0], "tokens has dtype float64; give integers"),
        ([True, False], [-1, 0], "tokens has dtype bool"),
        ("ab", [-1, 0], "tokens has shape"),
        ([[1, 2]], [-1, 0], r"tokens has shape \(1, 2\); give one dimension"),
        ([1, [2]], [-1, 0], "tokens cannot be read as one flat array"),
        ([1, 2], [-1.0, 0.0], "parents has dtype float64"),
    ],
)
def test_wrong_arrays_are_refused_everywhere(tokens: Any, parents: Any, message: str) -> None:
    for make in (TokenTree, TokenTree.from_parents):
        with pytest.raises(TreeError, match=message):
            make(tokens, parents)


@pytest.mark.parametrize(
    ("tokens", "parents", "message"),
    [
        ([1, 2], [1, -1], r"node 0 has parent 1, which does not come before it.*from_parents"),
        ([1], [0], "node 0 has parent 0"),
        ([1, 2, 3], [-1, 0, -1], "node 2 has depth 0 after one of depth 1.*from_parents"),
        ([7, 7], [-1, -1], "node 1 repeats token 7 among the children of node -1"),
        ([1, 7, 8, 7], [-1, 0, 0, 0], "node 3 repeats token 7 among the children of node 0"),
    ],
)
def test_the_strict_constructor_refuses_other_orders(
    tokens: list[int], parents: list[int], message: str
) -> None:
    with pytest.raises(TreeError, match=message):
        TokenTree(tokens, parents)


@pytest.mark.parametrize("parents", [[0], [1, 0], [-1, 2, 3, 1], [-1, 0, 1, 3], [2, 0, 1, 0]])
def test_a_cycle_is_refused_and_a_node_on_it_named(parents: list[int]) -> None:
    with pytest.raises(TreeError, match="lead back to it") as caught:
        TokenTree.from_parents(range(len(parents)), parents)
    start = node = int(str(caught.value).split("node ")[1].split()[0])
    for _ in parents:
        node = parents[node]
        if node == start:
            break
    assert node == start


@pytest.mark.parametrize(
    ("p", "message"),
    [
        ([0.5], "2 nodes but 1 probabilities"),
        ([0.5, float("nan")], r"p\[1\] is nan"),
        ([float("inf"), 0.5], r"p\[0\] is inf"),
        ([1.5, 0.5], r"p\[0\] is 1.5"),
        ([0.5, -0.5], r"p\[1\] is -0.5"),
        ([0.25, 0.5], r"p\[1\] is 0.5, higher than 0.25 above it; .* multiply"),
        (["a", "b"], "p has dtype"),
        ([True, True], "p has dtype bool"),
    ],
)
def test_p_must_be_path_probabilities(p: Any, message: str) -> None:
    for make in (TokenTree, TokenTree.from_parents):
        with pytest.raises(TreeError, match=message):
            make([1, 2], [-1, 0], p)
    with pytest.raises(TreeError, match=message):
        TokenTree([1, 2], [-1, 0]).with_p(p)


def test_p_that_rises_by_rounding_alone_is_lowered() -> None:
    tree = TokenTree.chain([1, 2, 3], [0.5, 0.5 + 5e-7, 0.5 + 5e-7])
    assert tree.p is not None and tree.p.tolist() == [0.5, 0.5, 0.5]
    assert TokenTree([1], [-1], [1 + 5e-7]).p == np.float32(1)


def test_tree_errors_are_value_errors_of_this_package() -> None:
    assert issubclass(TreeError, PyTreeLlamaError) and issubclass(TreeError, ValueError)


# --- new trees from old ---------------------------------------------------------------------


def test_merge_is_the_union_and_keeps_the_larger_p() -> None:
    left = TokenTree.chain([1, 2], [0.5, 0.25])
    right = TokenTree([1, 3, 2], [-1, -1, 0], [0.75, 0.125, 0.125])
    assert left.merge(right) == TokenTree([1, 3, 2], [-1, -1, 0], [0.75, 0.125, 0.25])


def test_merge_with_an_empty_tree_changes_nothing() -> None:
    assert BUSH.merge(TokenTree.empty()) == TokenTree.empty().merge(BUSH) == BUSH


def test_merge_refuses_to_guess_missing_probabilities() -> None:
    with pytest.raises(TreeError, match=r"with_p\(None\)"):
        BUSH.merge(TokenTree.chain([1]))
    assert len(BUSH.with_p(None).merge(TokenTree.chain([1]))) == 7


def test_merge_takes_trees_only() -> None:
    with pytest.raises(TreeError, match="not list"):
        BUSH.merge([[1, 2]])  # type: ignore[arg-type]


def test_prune_takes_the_whole_subtree_along() -> None:
    without_12 = BUSH.prune([0, 1, 3, 4, 5])
    assert without_12 == TokenTree([11, 20, 14, 12], [-1, -1, 0, 1], [0.6, 0.3, 0.1, 0.2])
    assert BUSH.prune(BUSH.tokens != 11) == TokenTree([20, 12], [-1, 0], [0.3, 0.2])


def test_prune_reads_a_mask_and_indices_alike() -> None:
    keep = [True, False, True, False, False, True]
    assert (
        BUSH.prune(keep)
        == BUSH.prune([5, 0, 2, 2])
        == TokenTree.chain([11, 12, 13], [0.6, 0.5, 0.4])
    )
    assert len(BUSH.prune([])) == len(BUSH.prune([False] * 6)) == 0


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ([True, False], "keep masks 2 nodes, but the tree has 6"),
        ([0, 6], r"keep\[1\] is 6; allowed is 0\.\.5"),
        ([-1], r"keep\[0\] is -1"),
        ([0.5], "keep has dtype float64"),
    ],
)
def test_prune_refuses_nodes_that_are_not_there(keep: Any, message: str) -> None:
    with pytest.raises(TreeError, match=message):
        BUSH.prune(keep)


def test_truncate_keeps_the_likeliest_paths() -> None:
    assert BUSH.nodes_by_p().tolist() == [0, 2, 5, 1, 4, 3]
    assert BUSH.truncate(3) == TokenTree.chain([11, 12, 13], [0.6, 0.5, 0.4])
    assert BUSH.truncate(0) == TokenTree([], [], [])
    assert BUSH.truncate(6) is BUSH and BUSH.truncate(99) is BUSH


def test_truncate_without_p_or_among_equals_takes_the_first_nodes() -> None:
    assert BUSH.with_p(None).truncate(3) == TokenTree([11, 20, 12], [-1, -1, 0])
    assert BUSH.with_p([0.5] * 6).truncate(3).tokens.tolist() == [11, 20, 12]


def test_truncate_keeps_bfs_order_among_many_equals() -> None:
    star = TokenTree(np.arange(1200), np.full(1200, -1), np.tile([0.5, 0.9, 0.25], 400))
    in_turn = [*range(1, 1200, 3), *range(0, 1200, 3), *range(2, 1200, 3)]
    assert star.nodes_by_p().tolist() == in_turn
    assert star.truncate(500).tokens.tolist() == sorted(in_turn[:500])


def test_truncate_refuses_a_negative_size() -> None:
    with pytest.raises(TreeError, match="cannot truncate to -1 nodes"):
        BUSH.truncate(-1)


def test_with_root_puts_one_certain_token_above_all_roots() -> None:
    rooted = TokenTree([11, 20], [-1, -1], [0.5, 0.25]).with_root(7)
    assert rooted == TokenTree([7, 11, 20], [-1, 0, 0], [1, 0.5, 0.25])
    assert rooted.depths.tolist() == [0, 1, 1]
    with pytest.raises(TreeError, match="the root's token"):
        BUSH.with_root(-1)


# --- to and from plain data -----------------------------------------------------------------


def test_a_tree_survives_json() -> None:
    written = json.dumps(BUSH.to_dict())
    assert TokenTree.from_dict(json.loads(written)) == BUSH
    assert '"p": [0.6, 0.3, 0.5, 0.1, 0.2, 0.4]' in written
    assert TokenTree.chain([3]).to_dict() == {"tokens": [3], "parents": [-1]}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([1], "not from list"),
        ({"tokens": [1]}, r"missing: \['parents'\]"),
        ({"tokens": [1], "parents": [-1], "q": []}, r"unknown: \['q'\]"),
        ({"tokens": [1], "parents": [0]}, "node 0 has parent 0"),
        ({"tokens": [1], "parents": None}, "parents has shape"),
    ],
)
def test_from_dict_says_what_is_wrong(data: Any, message: str) -> None:
    with pytest.raises(TreeError, match=message):
        TokenTree.from_dict(data)


# --- size -----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["chain", "star", "binary"])
def test_large_trees_of_any_shape_are_built_and_searched(shape: str) -> None:
    n = 100_000
    index = np.arange(n)
    parents = {"chain": index - 1, "star": np.full(n, -1), "binary": (index - 1) // 2}[shape]
    tree = TokenTree.from_parents(index[::-1], np.where(parents < 0, -1, n - 1 - parents)[::-1])
    assert tree == TokenTree(np.sort(index), tree.parents) if shape == "chain" else len(tree) == n
    assert tree.n_levels == {"chain": n, "star": 1, "binary": 17}[shape]
    assert tree.n_leaves == {"chain": 1, "star": n, "binary": n // 2}[shape]
    assert tree.merge(tree) == tree
