"""The recycling drafter: it proposes what the target foresaw, and knows how often that is right."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytreellama.context.successors import MAX_ORDER, SuccessorTable
from pytreellama.draft import Merge, Recycling, Suffix
from pytreellama.draft.recycling import RecyclingDrafter
from pytreellama.errors import DraftError
from pytreellama.tree import TokenTree
from strategies import token_trees

N_VOCAB = 12
K = 4

tokens = st.integers(0, N_VOCAB - 1)
texts = st.lists(tokens, min_size=1, max_size=30)


def foreseen(context: tuple[int, ...]) -> tuple[list[int], list[float]]:
    """A target's likeliest successors, a function of the last three tokens."""
    rng = np.random.default_rng([len(context[-3:]), *context[-3:]])
    order = rng.permutation(N_VOCAB)[:K]
    return order.tolist(), sorted(rng.normal(0, 2, K).tolist(), reverse=True)


def rows_of(text: tuple[int, ...], tree: TokenTree) -> tuple[np.ndarray, np.ndarray]:
    """Of every node of a tree whose node 0 is the text's last token."""
    rows = [foreseen((*text[:-1], *tree.tokens[tree.path(i)].tolist())) for i in range(len(tree))]
    return np.array([r[0] for r in rows], np.int32), np.array([r[1] for r in rows], np.float32)


def see(drafter: RecyclingDrafter, text: tuple[int, ...], tree: TokenTree) -> None:
    drafter.observe_pass(tree, *rows_of(text, tree))


@given(texts, token_trees(min_nodes=0, max_nodes=12, n_vocab=N_VOCAB))
def test_what_follows_a_seen_path_is_what_the_target_foresaw(
    text: list[int], drafted: TokenTree
) -> None:
    """All nodes are learned, refused ones too, under the longest context that the text has."""
    drafter = Recycling(n_top=K, min_p=0.0)()
    drafter.observe(text)
    tree = drafted.with_root(text[-1])
    see(drafter, tuple(text), tree)
    drafter.observe([text[-1]])
    for node in range(len(tree)):
        context = (*text[:-1], *tree.tokens[tree.path(node)].tolist())[-MAX_ORDER:]
        if len(context) == MAX_ORDER:  # a shorter one may have been seen again, behind other tokens
            found = drafter._table.successors(context)
            assert [token for token, _ in found[:K]] == foreseen(context)[0]
            p = [p for _, p in found[:K]]
            assert p == sorted(p, reverse=True)


@given(texts, st.lists(texts, min_size=1, max_size=5), st.integers(0, 20))
def test_proposals_are_trees_of_seen_successors(
    text: list[int], runs: list[list[int]], n_nodes: int
) -> None:
    factory = Recycling(n_top=K)
    drafter = factory()
    drafter.observe(text)
    seen: dict[int, set[int]] = {}
    for run in runs:
        tree = TokenTree.chain([text[-1], *run[:-1]])
        rows, logits = rows_of(tuple(text), tree)
        for token, row in zip(tree.tokens.tolist(), rows.tolist(), strict=True):
            seen.setdefault(token, set()).update(row)
        drafter.observe_pass(tree, rows, logits)
        drafter.observe(run)
        text = [*text, *run]
    proposed = drafter.propose(n_nodes)
    assert drafter.propose(n_nodes) == proposed
    assert len(proposed) <= n_nodes
    for node in range(len(proposed)):
        path = [text[-1], *proposed.tokens[proposed.path(node)].tolist()]
        assert all(after in seen[before] for before, after in pairwise(path))
    assert proposed.p is not None
    for node in [-1, *range(len(proposed))]:
        above = 1.0 if node < 0 else float(proposed.p[node])
        below = proposed.p[np.flatnonzero(proposed.parents == node)]
        assert below.sum() <= above + 1e-5


def test_estimates_come_true_as_often_as_they_say() -> None:
    """A target that draws from its rows, and a table that learns how far to believe them."""
    rng = np.random.default_rng(5)
    drafter = Recycling(n_top=K)()
    text = [0, 1, 2]
    drafter.observe(text)
    claims: list[tuple[float, bool]] = []
    for step in range(4000):
        row, logits = foreseen(tuple(text))
        p = np.exp(logits) / np.exp(logits).sum()
        token = int(rng.choice(row, p=p))
        if step > 500:
            proposed = drafter.propose(64)
            roots = proposed.roots
            assert proposed.p is not None
            claims += [(float(proposed.p[r]), int(proposed.tokens[r]) == token) for r in roots]
        see(drafter, tuple(text), TokenTree.chain([text[-1]]))
        drafter.observe([token])
        text = [*text, token][-8:]
    said, came = np.array(claims).T
    for low, high in ((0.02, 0.1), (0.1, 0.3), (0.3, 0.6), (0.6, 1.0)):
        inside = (said >= low) & (said < high)
        assert inside.sum() > 100
        assert abs(said[inside].mean() - came[inside].mean()) < 0.05


def test_the_oldest_contexts_are_forgotten() -> None:
    table = SuccessorTable(max_entries=5)
    for token in range(20):
        tree = TokenTree.chain([token])
        table.learn((1, 2), tree, np.array([[7]], np.int32), np.zeros((1, 1), np.float32))
    assert len(table) == 5 * MAX_ORDER
    assert table.successors((19,))
    assert not table.successors((3,))


class TestFiles:
    def test_a_saved_table_guesses_the_same(self, tmp_path: Path) -> None:
        factory = Recycling(n_top=K)
        drafter = factory()
        text: tuple[int, ...] = (1, 2, 3)
        drafter.observe(text)
        for token in (4, 5, 6, 4, 5):
            see(drafter, text, TokenTree.chain([text[-1]]))
            drafter.observe([token])
            text = (*text, token)
        factory.save(tmp_path / "table.npz")
        other = Recycling(tmp_path / "table.npz", n_top=K)()
        other.observe(text)
        assert other.propose(16) == drafter.propose(16)
        assert len(drafter.propose(16)) > 0

    @pytest.mark.parametrize("n_bytes", [0, 10, 200])
    def test_a_file_that_was_cut_is_refused(self, tmp_path: Path, n_bytes: int) -> None:
        path = tmp_path / "table.npz"
        Recycling().save(path)
        path.write_bytes(path.read_bytes()[:n_bytes])
        with pytest.raises(DraftError, match="damaged"):
            Recycling(path)

    def test_a_file_of_something_else_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "other.npz"
        np.savez(path, kind=np.array("weights"), x=np.zeros(3))
        with pytest.raises(DraftError, match="a table of successors"):
            Recycling(path)
        with pytest.raises(DraftError, match="no file"):
            Recycling(tmp_path / "nothing.npz")


@pytest.mark.parametrize(
    "options", [{"n_top": 0}, {"n_top": 65}, {"max_depth": 0}, {"min_p": 2.0}, {"max_entries": 0}]
)
def test_options_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(DraftError, match=next(iter(options))):
        Recycling(**options)


class TestMerge:
    @given(st.lists(texts, min_size=1, max_size=4), st.integers(0, 20))
    def test_the_tree_is_the_best_of_the_union(self, runs: list[list[int]], n_nodes: int) -> None:
        merged = Merge(Suffix(min_p=0.0), Recycling(n_top=K))()
        parts: list[Any] = [Suffix(min_p=0.0)(), Recycling(n_top=K)()]
        assert merged.n_top == K
        text: list[int] = [0]
        for drafter in (merged, *parts):
            drafter.observe(text)
        for run in runs:
            tree = TokenTree.chain([text[-1], *run[:-1]])
            for drafter in (merged, parts[1]):
                drafter.observe_pass(tree, *rows_of(tuple(text), tree))
            for drafter in (merged, *parts):
                drafter.observe(run)
            text += run
        trees = [drafter.propose(n_nodes) for drafter in parts]
        union = trees[0].merge(trees[1])
        assert merged.propose(n_nodes) == union.truncate(n_nodes)

    def test_nothing_to_merge(self) -> None:
        with pytest.raises(DraftError, match="at least one"):
            Merge()

    def test_drafters_that_look_at_no_pass_ask_for_no_rows(self) -> None:
        assert Merge(Suffix(), Suffix())().n_top == 0
