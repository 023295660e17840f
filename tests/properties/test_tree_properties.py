"""What holds for every tree."""

from __future__ import annotations

import json
from itertools import combinations
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytreellama.errors import TreeError
from pytreellama.tree import (
    TokenTree,
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
from strategies import node_paths, parent_lists, shuffled_trees, token_trees

SVG = "{http://www.w3.org/2000/svg}"


def ancestors_and_self(parents: list[int], node: int) -> list[int]:
    """By definition: walk up until the trunk."""
    walk = []
    while node >= 0:
        walk.append(node)
        node = parents[node]
    return walk


def assert_valid(tree: TokenTree) -> None:
    """The strict constructor, which trusts nothing, makes the same tree of its arrays."""
    again = TokenTree(tree.tokens, tree.parents, tree.p)
    assert again == tree
    assert np.array_equal(again.depths, tree.depths)
    for array in (tree.tokens, tree.parents, tree.depths):
        assert array.dtype == np.int32 and not array.flags.writeable
    assert tree.p is None or (tree.p.dtype == np.float32 and not tree.p.flags.writeable)


@st.composite
def shuffled_parents(draw: st.DrawFn) -> list[int]:
    parents = draw(parent_lists())
    order = draw(st.permutations(range(len(parents))))
    place = {node: index for index, node in enumerate(order)}
    return [place.get(parents[node], -1) for node in order]


# --- layout and masks -----------------------------------------------------------------------


@given(shuffled_parents())
def test_the_mask_is_what_walking_up_the_parents_gives(parents: list[int]) -> None:
    expected = np.zeros((len(parents), len(parents)), np.bool_)
    for node in range(len(parents)):
        expected[node, ancestors_and_self(parents, node)] = True
    mask = ancestor_mask(parents)
    assert mask.dtype == np.bool_ and np.array_equal(mask, expected)


@given(shuffled_parents())
def test_depths_and_sizes_count_the_mask(parents: list[int]) -> None:
    mask = ancestor_mask(parents)
    assert np.array_equal(depths(parents), mask.sum(axis=1) - 1)
    assert np.array_equal(subtree_sizes(parents), mask.sum(axis=0))


@given(shuffled_parents(), st.integers(0, 1000))
def test_siblings_share_a_position_and_children_stand_one_further(
    parents: list[int], n_past: int
) -> None:
    places = positions(parents, n_past)
    for node, parent in enumerate(parents):
        assert places[node] == (places[parent] + 1 if parent >= 0 else n_past)


@given(shuffled_parents())
def test_both_decode_orders_keep_parents_before_children(parents: list[int]) -> None:
    for order in (bfs_order(parents), dfs_order(parents)):
        assert sorted(order.tolist()) == list(range(len(parents)))
        place = np.argsort(order)
        assert all(
            place[parent] < place[node] for node, parent in enumerate(parents) if parent >= 0
        )
    assert (np.diff(depths(parents)[bfs_order(parents)]) >= 0).all()


@given(shuffled_parents())
def test_depth_first_each_subtree_stands_in_one_piece(parents: list[int]) -> None:
    order, mask, sizes = dfs_order(parents), ancestor_mask(parents), subtree_sizes(parents)
    for rank, node in enumerate(order.tolist()):
        assert mask[order[rank : rank + sizes[node]], node].all()


@given(shuffled_parents())
def test_a_nodes_sequence_set_is_the_leaves_under_it(parents: list[int]) -> None:
    flat, offsets = sequence_sets(parents)
    mask, ends = ancestor_mask(parents), leaves(parents)
    for node in range(len(parents)):
        under = flat[offsets[node] : offsets[node + 1]].tolist()
        assert under == [k for k, leaf in enumerate(ends.tolist()) if mask[leaf, node]]


@given(parent_lists(max_nodes=120), st.integers(0, 50))
def test_the_stock_encoding_implies_the_trees_own_mask(parents: list[int], n_past: int) -> None:
    implied = mask_of_sequence_sets(*sequence_sets(parents), positions(parents, n_past))
    assert np.array_equal(implied, ancestor_mask(parents))


@given(token_trees(min_nodes=1), st.data())
def test_dropping_a_leafs_id_breaks_the_stock_mask(tree: TokenTree, data: st.DataObject) -> None:
    """The test above can fail: an encoding that forgets the sharing of a prefix is noticed."""
    flat, offsets = sequence_sets(tree.parents)
    shared = np.flatnonzero(np.diff(offsets) > 1)
    if not shared.size:
        return
    node = data.draw(st.sampled_from(shared.tolist()))
    cut = np.delete(flat, offsets[node + 1] - 1)
    bounds = offsets - (np.arange(len(offsets)) > node)
    implied = mask_of_sequence_sets(cut, bounds, positions(tree.parents, 0))
    assert not np.array_equal(implied, tree.ancestor_mask())


# --- making trees ---------------------------------------------------------------------------


@given(token_trees(with_p=None))
def test_every_random_tree_is_valid(tree: TokenTree) -> None:
    assert_valid(tree)


@given(shuffled_trees())
def test_from_parents_accepts_nodes_in_any_order(
    case: tuple[TokenTree, list[int], list[int], list[float]],
) -> None:
    tree, tokens, parents, p = case
    again = TokenTree.from_parents(tokens, parents, p)
    assert_valid(again)
    assert node_paths(again) == node_paths(tree)


@given(shuffled_parents(), st.data())
def test_from_parents_keeps_the_best_p_of_merged_siblings(
    parents: list[int], data: st.DataObject
) -> None:
    tokens = data.draw(st.lists(st.integers(0, 2), min_size=len(parents), max_size=len(parents)))
    p = 0.5 ** depths(parents) * np.array(
        data.draw(
            st.lists(st.sampled_from([1.0, 0.75]), min_size=len(parents), max_size=len(parents))
        )
    )
    best: dict[tuple[int, ...], float | None] = {}
    for node in range(len(parents)):
        path = tuple(tokens[above] for above in ancestors_and_self(parents, node)[::-1])
        best[path] = max(best.get(path) or 0.0, float(p[node]))
    tree = TokenTree.from_parents(tokens, parents, p)
    assert_valid(tree)
    assert node_paths(tree) == best


@given(st.lists(st.lists(st.integers(0, 3), max_size=6), max_size=12))
def test_from_paths_holds_all_prefixes_of_the_paths_and_nothing_else(
    paths: list[list[int]],
) -> None:
    tree = TokenTree.from_paths(paths)
    assert_valid(tree)
    assert set(node_paths(tree)) == {tuple(p[:k]) for p in paths for k in range(1, len(p) + 1)}
    assert TokenTree.from_paths(tree.paths()) == tree


@given(token_trees(n_vocab=5))
def test_from_paths_undoes_paths(tree: TokenTree) -> None:
    assert node_paths(TokenTree.from_paths(tree.paths())) == node_paths(tree)


@given(token_trees(with_p=None))
def test_to_dict_undoes_from_dict_through_json(tree: TokenTree) -> None:
    assert TokenTree.from_dict(json.loads(json.dumps(tree.to_dict()))) == tree


@given(st.sets(st.lists(st.integers(0, 2), min_size=1, max_size=4).map(tuple), max_size=12))
def test_from_choices_is_from_paths_of_the_chosen_tokens(some: set[tuple[int, ...]]) -> None:
    choices = sorted({choice[:k] for choice in some for k in range(1, len(choice) + 1)})
    table = np.arange(12).reshape(4, 3)
    by_choice = TokenTree.from_choices(choices, table)
    by_path = TokenTree.from_paths(
        [[int(table[head, rank]) for head, rank in enumerate(choice)] for choice in choices]
    )
    assert by_choice == by_path


@given(token_trees())
def test_child_and_children_agree_with_the_arrays(tree: TokenTree) -> None:
    for node in range(-1, len(tree)):
        below = np.flatnonzero(tree.parents == node).tolist()
        assert tree.children(node).tolist() == below
        for token in range(64):
            expected = [child for child in below if tree.tokens[child] == token]
            assert tree.child(node, token) == (expected[0] if expected else None)


# --- new trees from old ---------------------------------------------------------------------


@given(token_trees(n_vocab=4, with_p=True), token_trees(n_vocab=4, with_p=True))
def test_merge_is_the_union_and_takes_the_larger_p(left: TokenTree, right: TokenTree) -> None:
    merged = left.merge(right)
    assert_valid(merged)
    ours, theirs = node_paths(left), node_paths(right)
    assert node_paths(merged) == {
        path: max(ours.get(path) or 0.0, theirs.get(path) or 0.0) for path in {*ours, *theirs}
    }
    assert node_paths(right.merge(left)) == node_paths(merged)


@given(token_trees(n_vocab=4, with_p=None))
def test_merge_with_itself_changes_nothing(tree: TokenTree) -> None:
    assert tree.merge(tree) == tree


@given(token_trees(n_vocab=4), token_trees(n_vocab=4), token_trees(n_vocab=4))
def test_merge_is_associative(a: TokenTree, b: TokenTree, c: TokenTree) -> None:
    assert node_paths(a.merge(b).merge(c)) == node_paths(a.merge(b.merge(c)))


@given(token_trees(with_p=None), st.data())
def test_prune_keeps_exactly_the_nodes_whose_whole_path_is_kept(
    tree: TokenTree, data: st.DataObject
) -> None:
    kept = data.draw(st.sets(st.integers(0, len(tree) - 1))) if len(tree) else set()
    pruned = tree.prune(sorted(kept))
    assert_valid(pruned)
    whole = node_paths(tree)
    assert node_paths(pruned) == {
        path: p
        for node, (path, p) in enumerate(whole.items())
        if kept.issuperset(tree.path(node).tolist())
    }
    assert pruned == tree.prune(np.isin(np.arange(len(tree)), sorted(kept)))


@given(token_trees(with_p=None), st.integers(0, 45))
def test_truncate_is_a_valid_part_of_the_tree_of_the_size_asked_for(
    tree: TokenTree, n_nodes: int
) -> None:
    cut = tree.truncate(n_nodes)
    assert_valid(cut)
    assert len(cut) == min(n_nodes, len(tree))
    assert node_paths(cut).items() <= node_paths(tree).items()


@given(token_trees(max_nodes=9, with_p=True), st.integers(0, 9))
def test_no_part_of_the_same_size_expects_more_tokens_than_truncate(
    tree: TokenTree, n_nodes: int
) -> None:
    assert tree.p is not None
    best = tree.truncate(n_nodes).p
    assert best is not None
    rivals = combinations(tree.p.astype(np.float64).tolist(), min(n_nodes, len(tree)))
    assert best.astype(np.float64).sum() >= max(map(sum, rivals)) - 1e-9


@given(token_trees(with_p=None), st.integers(0, 63))
def test_with_root_moves_every_path_below_the_root(tree: TokenTree, token: int) -> None:
    rooted = tree.with_root(token)
    assert_valid(rooted)
    expected: dict[tuple[int, ...], float | None] = {
        (token, *path): p for path, p in node_paths(tree).items()
    }
    expected[(token,)] = None if tree.p is None else 1.0
    assert node_paths(rooted) == expected


# --- drawings -------------------------------------------------------------------------------

any_text = st.text(st.characters(codec=None), max_size=8)


@given(token_trees(with_p=None, max_nodes=15), st.data())
def test_drawings_survive_any_labels(tree: TokenTree, data: st.DataObject) -> None:
    labels = data.draw(st.lists(any_text, min_size=len(tree), max_size=len(tree)))
    accepted = tree.path(data.draw(st.integers(-1, len(tree) - 1)))
    text = tree.to_text(labels, accepted)
    assert text.count("\n") == len(tree)
    assert all(character.isprintable() for character in text.replace("\n", ""))
    root = ElementTree.fromstring(tree.to_svg(labels, accepted).encode("utf-8"))
    assert len(list(root.iter(f"{SVG}rect"))) == len(tree)


@given(token_trees(with_p=None, max_nodes=30), st.data())
def test_boxes_never_overlap_and_lie_within_the_sheet(tree: TokenTree, data: st.DataObject) -> None:
    labels = data.draw(st.lists(any_text, min_size=len(tree), max_size=len(tree)))
    root = ElementTree.fromstring(tree.to_svg(labels))
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    placed = [
        tuple(float(rect.attrib[k]) for k in ("x", "y", "width", "height"))
        for rect in root.iter(f"{SVG}rect")
    ]
    for x, y, w, h in placed:
        assert x >= 0 and y >= 0 and x + w <= width and y + h <= height
    for (x0, y0, w0, h0), (x1, y1, w1, h1) in combinations(placed, 2):
        assert x0 + w0 <= x1 or x1 + w1 <= x0 or y0 + h0 <= y1 or y1 + h1 <= y0


@given(shuffled_trees())
def test_nodes_as_they_were_grown_make_the_tree_of_their_parents(
    shuffled: tuple[TokenTree, list[int], list[int], list[float]],
) -> None:
    _, tokens, parents, p = shuffled
    comes_after = all(parent < node for node, parent in enumerate(parents))
    if comes_after:
        assert TokenTree.from_grown(tokens, parents, p) == TokenTree.from_parents(
            tokens, parents, p
        )
    else:
        with pytest.raises(TreeError, match="comes before"):
            TokenTree.from_grown(tokens, parents, p)


@given(token_trees(with_p=True))
def test_a_tree_is_grown_in_its_own_order(tree: TokenTree) -> None:
    assert tree.p is not None
    grown = TokenTree.from_grown(tree.tokens.tolist(), tree.parents.tolist(), tree.p.tolist())
    assert grown == tree


@pytest.mark.parametrize(
    ("tokens", "parents", "p", "what"),
    [
        ([1, 1], [-1, -1], [0.5, 0.5], "same token"),
        ([1, -2], [-1, 0], [0.5, 0.5], "token -2"),
        ([1, 2], [-1, 0], [0.5, 0.6], "its parent's"),
        ([1], [-1], [1.5], "its parent's"),
        ([1], [-1], [float("nan")], "its parent's"),
        ([1], [-2], [0.5], "comes before"),
        ([1], [0], [0.5], "comes before"),
    ],
)
def test_nodes_that_cannot_have_grown(
    tokens: list[int], parents: list[int], p: list[float], what: str
) -> None:
    with pytest.raises(TreeError, match=what):
        TokenTree.from_grown(tokens, parents, p)
