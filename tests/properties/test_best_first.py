"""All best-first searches grow the tree that a plain one grows, node for node, ties included."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from plain_search import Nodes, grow_plainly
from pytreellama.context.successors import MAX_ORDER, SuccessorTable
from pytreellama.draft import NGram, NGramOptions, NGramTable, SuffixDrafter, SuffixOptions
from pytreellama.draft.best_first import grow_best_first
from pytreellama.tree import TokenTree
from pytreellama.tree.grown import Grown
from strategies import texts_of_pieces

Path = tuple[int, ...]
Children = Iterable[tuple[int, float, Path]]

seeds = st.integers(0, 2**31)
sizes = st.integers(1, 40)
depths = st.integers(1, 6)
thresholds = st.sampled_from([0.0, 0.001, 0.05, 0.3])


def nodes_of(grown: Grown) -> Nodes:
    return list(grown.tokens), list(grown.parents), list(grown.p)


@lru_cache(maxsize=4096)
def language(seed: int, path: Path) -> tuple[tuple[int, float], ...]:
    """What may follow a path. Probabilities are of few kinds, so that many paths are as likely."""
    rng = np.random.default_rng([seed, *path])
    shares = rng.choice([1.0, 0.5, 0.25, 0.25, 0.125, 0.0], size=rng.integers(0, 5))
    total = max(1.0, shares.sum())
    return tuple((token, float(share / total)) for token, share in enumerate(shares))


@given(seeds, sizes, depths, thresholds)
def test_the_search_in_python_is_the_plain_one(
    seed: int, n_nodes: int, max_depth: int, min_p: float
) -> None:
    def children(path: Any, p: float, depth: int, least: float) -> Any:
        assert depth == len(path)
        for token, share in language(seed, path):
            if p * share >= least:
                yield token, p * share, (*path, token)

    grown = grow_best_first((), children, n_nodes=n_nodes, max_depth=max_depth, min_p=min_p)
    plain = grow_plainly(
        (), lambda path, p, depth: children(path, p, depth, min_p), n_nodes, max_depth
    )
    assert nodes_of(grown) == plain


@given(seeds, sizes, depths, thresholds)
def test_the_search_in_python_asks_for_no_node_that_cannot_join(
    seed: int, n_nodes: int, max_depth: int, min_p: float
) -> None:
    found: list[float] = []

    def children(path: Any, p: float, depth: int, least: float) -> Any:
        if len(found) >= n_nodes:
            assert least >= sorted(found, reverse=True)[n_nodes - 1]
        shares = [(t, p * share) for t, share in language(seed, path) if p * share >= least]
        found.extend(p_child for _, p_child in shares)
        return [(token, p_child, (*path, token)) for token, p_child in shares]

    grow_best_first((), children, n_nodes=n_nodes, max_depth=max_depth, min_p=min_p)


def table_of(seed: int, n_vocab: int = 6) -> SuccessorTable:
    """A table of short rows; many successors of one row are as likely."""
    rng = np.random.default_rng(seed)
    table = SuccessorTable(1000)
    for _ in range(12):
        n_next = int(rng.integers(1, n_vocab))
        text = rng.integers(0, n_vocab, 3).tolist()
        tree = TokenTree.chain(rng.integers(0, n_vocab, 5))
        tokens = np.array([rng.permutation(n_vocab)[:n_next] for _ in range(5)], np.int32)
        logits = -np.sort(rng.integers(0, 3, (5, n_next))).astype(np.float32)
        table.judge(text, rng.integers(0, n_vocab, int(rng.integers(0, 4))).tolist())
        table.learn(text, tree, tokens, logits)
    return table


@given(seeds, sizes, depths, thresholds)
def test_the_search_of_the_successors_table_is_the_plain_one(
    seed: int, n_nodes: int, max_depth: int, min_p: float
) -> None:
    table = table_of(seed)
    start = tuple(np.random.default_rng(seed).integers(0, 6, MAX_ORDER).tolist())

    def children(context: Path, p: float, depth: int) -> Children:
        if p > 0.0:
            for token, share in table.successors(context, min_p / p):
                yield token, p * share, (*context, token)

    grown = table.grow(start, n_nodes, max_depth=max_depth, min_p=min_p)
    assert nodes_of(grown) == grow_plainly(start, children, n_nodes, max_depth)


@given(texts_of_pieces((0, 3), 60), sizes, depths, thresholds)
def test_the_suffix_drafter_grows_the_plain_tree(
    text: list[int], n_nodes: int, max_depth: int, min_p: float
) -> None:
    drafter = SuffixDrafter(SuffixOptions(max_match=6, max_depth=max_depth))
    drafter.observe(text)
    start = drafter._start()
    if start is None:
        assert nodes_of(drafter.grow_likely(n_nodes, min_p)) == ([], [], [])
        return
    ending = drafter._automaton.ending_states()
    plain = grow_plainly(
        start,
        lambda context, p, depth: drafter._continuations(context, p, depth, ending, min_p),
        n_nodes,
        max_depth,
    )
    assert nodes_of(drafter.grow_likely(n_nodes, min_p)) == plain


@given(texts_of_pieces((0, 3), 50), texts_of_pieces((0, 3), 50), sizes, depths, thresholds)
def test_the_n_gram_drafter_grows_the_plain_tree(
    text: list[int], corpus: list[int], n_nodes: int, max_depth: int, min_p: float
) -> None:
    options = NGramOptions(max_n=3, max_depth=max_depth)
    drafter = NGram(options, static=NGramTable.from_text(corpus, 1, 3))()
    drafter.observe(text)
    plain = grow_plainly(
        drafter._context,
        lambda context, p, depth: drafter._continuations(context, p, depth, min_p),
        n_nodes,
        max_depth,
    )
    assert nodes_of(drafter.grow_likely(n_nodes, min_p)) == plain
