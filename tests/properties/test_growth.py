"""Trees grown level by level against brute force, below a language that needs no model."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytreellama.draft.growth import TRUNK, Growth, Row, grow_tree
from pytreellama.errors import DraftError
from pytreellama.tree import TokenTree
from strategies import node_paths

N_VOCAB = 5
Path = tuple[int, ...]


class Language:
    """Expects something else behind every text, and notes what it was asked for."""

    def __init__(self, seed: int, n_top: int, room: int = 10**6) -> None:
        self.seed, self.n_top, self.room = seed, n_top, room
        self.paths: list[Path] = []
        self.passes: list[list[Path]] = []

    def behind(self, path: Path) -> Row:
        rng = random.Random(f"{self.seed} {path}")
        weights = [rng.random() ** 4 for _ in range(N_VOCAB)]
        tokens = sorted(range(N_VOCAB), key=lambda token: -weights[token])[: self.n_top]
        return tokens, [weights[token] / sum(weights) for token in tokens]

    def path(self, node: int) -> Path:
        return () if node == TRUNK else self.paths[node]

    def children(self, node: int) -> Row:
        return self.behind(self.path(node))

    def add(self, tokens: Sequence[int], parents: Sequence[int]) -> list[int]:
        new = [(*self.path(above), token) for token, above in zip(tokens, parents, strict=True)]
        if len(self.paths) + len(new) > self.room:
            return []
        self.passes.append(new)
        self.paths += new
        return list(range(len(self.paths) - len(new), len(self.paths)))


def as_expected(p: list[float]) -> list[float]:
    return p


def below(language: Language, path: Path, p: float, growth: Growth) -> Iterator[tuple[Path, float]]:
    """Every path that the growth allows at all, whatever its width, with its probability."""
    if len(path) < growth.n_levels:
        children = list(zip(*language.behind(path), strict=True))
        for token, p_token in children[: growth.n_children[len(path)]]:
            if p * p_token >= growth.min_p:
                yield (*path, token), p * p_token
                yield from below(language, (*path, token), p * p_token, growth)


def best_of(paths: dict[Path, float], n_nodes: int) -> dict[Path, float]:
    return dict(sorted(paths.items(), key=lambda item: -item[1])[:n_nodes])


def assert_same(tree: TokenTree, expected: dict[Path, float]) -> None:
    found = node_paths(tree)
    assert found.keys() == expected.keys()
    assert [found[path] for path in expected] == pytest.approx(list(expected.values()))


seeds = st.integers(0, 2**32 - 1)
n_nodes_wanted = st.integers(1, 24)
shapes = st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple)
growths = st.one_of(
    st.builds(
        Growth.of,
        st.just("best"),
        top=st.integers(1, 4),
        width=st.integers(1, 5),
        n_levels=st.integers(1, 5),
        min_p=st.sampled_from([0.0, 0.01, 0.1]),
    ),
    st.builds(
        Growth.of,
        st.just("chain"),
        top=st.just(1),
        width=st.just(1),
        n_levels=st.integers(1, 5),
        min_p=st.sampled_from([0.0, 0.1]),
    ),
    st.builds(
        Growth.of, shapes, top=st.just(1), width=st.just(1), n_levels=st.just(1), min_p=st.just(0.0)
    ),
)


@given(seeds, st.integers(1, 4), st.integers(1, 4), n_nodes_wanted)
def test_with_width_to_spare_the_likeliest_of_all_paths_are_found(
    seed: int, top: int, n_levels: int, n_nodes: int
) -> None:
    growth = Growth.of("best", top=top, width=n_nodes, n_levels=n_levels, min_p=0.0)
    language = Language(seed, top)
    tree = grow_tree(language, growth, n_nodes, as_expected)
    assert_same(tree, best_of(dict(below(language, (), 1.0, growth)), n_nodes))


@given(seeds, shapes, n_nodes_wanted)
def test_a_fixed_shape_gives_its_likeliest_nodes(
    seed: int, shape: tuple[int, ...], n_nodes: int
) -> None:
    growth = Growth.of(shape, top=1, width=1, n_levels=1, min_p=0.0)
    language = Language(seed, growth.n_top)
    tree = grow_tree(language, growth, n_nodes, as_expected)
    assert_same(tree, best_of(dict(below(language, (), 1.0, growth)), n_nodes))
    assert len(language.passes) < len(shape)


@given(seeds, st.integers(1, 6), n_nodes_wanted)
def test_a_chain_takes_the_likeliest_token_each_time(
    seed: int, n_levels: int, n_nodes: int
) -> None:
    growth = Growth.of("chain", top=3, width=3, n_levels=n_levels, min_p=0.0)
    language = Language(seed, growth.n_top)
    tree = grow_tree(language, growth, n_nodes, as_expected)
    path: Path = ()
    while len(path) < min(n_levels, n_nodes):
        path += (language.behind(path)[0][0],)
    assert tree == TokenTree.chain(path, tree.p)


@given(seeds, growths, n_nodes_wanted)
def test_what_was_seen_is_chosen_from_rightly_and_passes_are_within_bounds(
    seed: int, growth: Growth, n_nodes: int
) -> None:
    language = Language(seed, growth.n_top)
    tree = grow_tree(language, growth, n_nodes, as_expected)
    possible = dict(below(language, (), 1.0, growth))
    seen = {path: p for path, p in possible.items() if path[:-1] in {(), *language.paths}}
    assert_same(tree, best_of(seen, n_nodes))
    assert len(language.passes) < growth.n_levels
    assert all(len(nodes) <= (growth.width or n_nodes) for nodes in language.passes)
    assert len(set(language.paths)) == len(language.paths), "a node was taken up twice"


@given(seeds, growths, n_nodes_wanted)
def test_each_pass_takes_up_the_likeliest_that_may_lead_into_the_tree_and_the_last_leaves_none(
    seed: int, growth: Growth, n_nodes: int
) -> None:
    language = Language(seed, growth.n_top)
    grow_tree(language, growth, n_nodes, as_expected)
    possible = dict(below(language, (), 1.0, growth))
    taken: set[Path] = {()}
    for nodes in [*language.passes, []]:
        seen = {path: p for path, p in possible.items() if path[:-1] in taken}
        best = best_of(seen, n_nodes)
        least = min(best.values()) if len(best) == n_nodes else 0.0
        is_last_level = len(language.passes) == growth.n_levels - 1 and not nodes
        open_ones = [
            path
            for path, p in best.items()
            if path not in taken and p > least and len(path) < growth.n_levels
        ]
        if not is_last_level:
            assert nodes == open_ones[: growth.width]
        taken.update(nodes)


@given(seeds, growths, n_nodes_wanted, st.integers(0, 6))
def test_where_room_ends_the_tree_ends(seed: int, growth: Growth, n_nodes: int, room: int) -> None:
    language = Language(seed, growth.n_top, room)
    tree = grow_tree(language, growth, n_nodes, as_expected)
    possible = dict(below(language, (), 1.0, growth))
    seen = {path: p for path, p in possible.items() if path[:-1] in {(), *language.paths}}
    assert_same(tree, best_of(seen, n_nodes))
    assert len(language.paths) <= room


@given(seeds, growths, n_nodes_wanted, st.integers(0, 3))
def test_no_belief_makes_a_token_possible_or_a_child_likelier_than_its_parent(
    seed: int, growth: Growth, n_nodes: int, shift: int
) -> None:
    language = Language(seed, growth.n_top)

    def belief(p: list[float]) -> list[float]:
        return [p[(rank + shift) % len(p)] for rank in range(len(p))]

    behind = language.behind
    language.behind = lambda path: (  # type: ignore[method-assign]
        behind(path)[0],
        [0.0 if token == 0 else p for token, p in zip(*behind(path), strict=True)],
    )
    tree = grow_tree(language, growth, n_nodes, belief)
    assert tree.p is not None
    assert 0 not in tree.tokens
    for node in range(-1, len(tree)):
        p = 1.0 if node < 0 else float(tree.p[node])
        assert tree.p[tree.parents == node].sum() <= p + 1e-6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top": 0}, "top=0: expected at least 1"),
        ({"width": 0}, "width=0: expected at least 1"),
        ({"n_levels": 0}, "n_levels=0: expected at least 1"),
        ({"min_p": 1.5}, "min_p=1.5: expected 0 to 1"),
        ({"grow": ()}, r"grow=\(\)"),
        ({"grow": (2, 0)}, r"grow=\(2, 0\)"),
        ({"grow": "wild"}, "'wild'"),
    ],
)
def test_growths_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    allowed = {"grow": "best", "top": 2, "width": 2, "n_levels": 2, "min_p": 0.1}
    with pytest.raises(DraftError, match=message):
        Growth.of(**(allowed | options))  # type: ignore[arg-type]
