"""The union of several trees in lists is what merging them in arrays gives."""

from __future__ import annotations

from functools import reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planning import drafted_trees
from pytreellama.errors import TreeError
from pytreellama.tree import TokenTree
from pytreellama.tree.union import Union
from strategies import node_paths, token_trees


def largest_p(union: Union, trees: list[TokenTree]) -> list[float]:
    """Of each node, the largest path probability that a tree gives it, as merging keeps it."""
    p = [0.0] * len(union)
    for tree, places in zip(trees, union.places, strict=True):
        assert tree.p is not None
        for place, p_path in zip(places, tree.p.tolist(), strict=True):
            p[place] = max(p[place], p_path)
    return p


@given(drafted_trees(max_nodes=20, max_drafters=4))
def test_the_union_holds_the_nodes_of_the_merged_tree(trees: list[TokenTree]) -> None:
    union = Union.of(trees)
    merged = reduce(TokenTree.merge, trees)
    all_nodes = range(len(union))
    assert node_paths(union.tree(all_nodes, largest_p(union, trees))) == node_paths(merged)
    assert sorted(union.depths) == merged.depths.tolist()
    assert all(parent < node for node, parent in enumerate(union.parents))


@given(drafted_trees(max_nodes=20))
def test_every_tree_finds_its_nodes_in_it(trees: list[TokenTree]) -> None:
    union = Union.of(trees)
    for tree, places in zip(trees, union.places, strict=True):
        assert [union.tokens[place] for place in places] == tree.tokens.tolist()
        above = [-1, *places]
        expected = [above[parent + 1] for parent in tree.parents]
        assert [union.parents[place] for place in places] == expected
    assert union.places[0] == list(range(len(trees[0])))
    families = zip(union.parents, union.tokens, strict=True)
    assert union.node_of == {family: node for node, family in enumerate(families)}


@given(token_trees(min_nodes=1, n_vocab=4, with_p=True), st.integers(0, 9), st.data())
def test_some_of_its_nodes_are_the_pruned_tree(
    tree: TokenTree, root: int, data: st.DataObject
) -> None:
    union = Union.of([tree])
    assert tree.p is not None
    p = tree.p.tolist()
    order = union.by_p(p)
    n_kept = data.draw(st.integers(0, len(tree)))
    kept = order[:n_kept]
    expected = tree.prune(sorted(kept))
    assert union.tree(kept, p) == expected
    assert node_paths(union.tree(kept, p, root)) == node_paths(expected.with_root(root))


@given(token_trees(min_nodes=1, n_vocab=4, with_p=True))
def test_the_likeliest_come_first_and_none_before_its_parent(tree: TokenTree) -> None:
    assert tree.p is not None
    p = tree.p.tolist()
    order = Union.of([tree]).by_p(p)
    assert sorted(order) == list(range(len(tree)))
    assert [p[node] for node in order] == sorted(p, reverse=True)
    turn = {node: i for i, node in enumerate(order)}
    assert all(
        turn[parent] < turn[n] for n, parent in enumerate(tree.parents.tolist()) if parent >= 0
    )


def test_of_equally_likely_ones_the_shallower_comes_first() -> None:
    union = Union.of([TokenTree.chain([1, 2]), TokenTree.chain([3])])
    assert union.by_p([0.5, 0.5, 0.5]) == [0, 2, 1]


@pytest.mark.parametrize("root", [None, 7])
def test_a_node_without_its_parent_is_no_tree(root: int | None) -> None:
    union = Union.of([TokenTree.chain([1, 2, 3])])
    with pytest.raises(TreeError, match="parent"):
        union.tree([0, 2], [0.5] * 3, root)


def test_the_union_of_nothing_is_empty() -> None:
    assert len(Union.of([])) == 0
    assert len(Union.of([]).tree([], [])) == 0
