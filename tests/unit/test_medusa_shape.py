"""Trees of a fixed shape for Medusa heads, as the Medusa project writes them."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from pytreellama.draft.medusa import Shape, _likeliest
from pytreellama.errors import DraftError
from pytreellama.tree.grown import Grown

# mc_sim_7b_63 of the Medusa project
MC_SIM_7B_63 = [
    *([0], [0, 0], [1], [0, 1], [2], [0, 0, 0], [1, 0], [0, 2], [3], [0, 3], [4], [0, 4], [2, 0]),
    *([0, 5], [0, 0, 1], [5], [0, 6], [6], [0, 7], [0, 1, 0], [1, 1], [7], [0, 8], [0, 0, 2]),
    *([3, 0], [0, 9], [8], [9], [1, 0, 0], [0, 2, 0], [1, 2], [0, 0, 3], [4, 0], [2, 1]),
    *([0, 0, 4], [0, 0, 5], [0, 0, 0, 0], [0, 1, 1], [0, 0, 6], [0, 3, 0], [5, 0], [1, 3]),
    *([0, 0, 7], [0, 0, 8], [0, 0, 9], [6, 0], [0, 4, 0], [1, 4], [7, 0], [0, 1, 2], [2, 0, 0]),
    *([3, 1], [2, 2], [8, 0], [0, 5, 0], [1, 5], [1, 0, 1], [0, 2, 1], [9, 0], [0, 6, 0]),
    *([0, 0, 0, 1], [1, 6], [0, 7, 0]),
]


def paths_of(shape: Shape) -> list[tuple[int, ...]]:
    paths: list[tuple[int, ...]] = []
    for parent, rank in zip(shape.parents.tolist(), shape.ranks.tolist(), strict=True):
        paths.append((*(paths[parent] if parent >= 0 else ()), rank))
    return paths


# -- shapes


def test_the_medusa_projects_own_tree_is_taken_as_it_is() -> None:
    shape = Shape.of(MC_SIM_7B_63)
    assert len(shape.parents) == len(shape.ranks) == 63
    assert shape.n_levels == 4
    assert set(paths_of(shape)) == {tuple(path) for path in MC_SIM_7B_63}
    assert (shape.parents == -1).sum() == 10


def test_nodes_come_level_by_level() -> None:
    levels = [len(path) for path in paths_of(Shape.of(MC_SIM_7B_63))]
    assert levels == sorted(levels)


def test_the_order_of_choices_does_not_matter_and_repeats_count_once() -> None:
    shuffled = MC_SIM_7B_63 + MC_SIM_7B_63[:20]
    random.Random(3).shuffle(shuffled)
    assert paths_of(Shape.of(shuffled)) == paths_of(Shape.of(MC_SIM_7B_63))


def test_a_parent_may_come_behind_its_children() -> None:
    shape = Shape.of([(1, 0), (1,)])
    assert (shape.parents.tolist(), shape.ranks.tolist(), shape.n_levels) == ([-1, 0], [1, 0], 2)


def test_ranks_may_be_left_out() -> None:
    shape = Shape.of([(63,), (63, 5)])
    assert (shape.parents.tolist(), shape.ranks.tolist()) == ([-1, 0], [63, 5])


@pytest.mark.parametrize("choices", [[(0, 0)], [(0,), (1, 0)], [(0,), (0, 0, 0)]])
def test_a_missing_parent_is_named(choices: list[tuple[int, ...]]) -> None:
    with pytest.raises(DraftError, match=r"choices hold \(.*\) without its parent"):
        Shape.of(choices)


def test_no_choices_are_no_tree() -> None:
    with pytest.raises(DraftError, match="choices are empty"):
        Shape.of([])


@pytest.mark.parametrize("path", [(), (-1,), (64,), (0.5,), ("0",), (None,)])
def test_what_is_no_path_of_ranks_is_named(path: tuple[int, ...]) -> None:
    with pytest.raises(DraftError, match=r"choices hold .*; give paths of ranks from 0 to 63"):
        Shape.of([path])


# -- the likeliest of its nodes


def test_the_likeliest_nodes_are_kept_with_their_parents() -> None:
    grown = Grown([10, 11, 12, 13], [-1, -1, 1, 2], [0.2, 0.7, 0.6, 0.1])
    kept = _likeliest(grown, 3)
    assert (kept.tokens, kept.parents, kept.p) == ([11, 12, 10], [-1, 0, -1], [0.7, 0.6, 0.2])


def test_a_parent_comes_before_a_child_that_is_as_likely() -> None:
    grown = Grown([1, 2, 3], [-1, 0, 1], [0.5, 0.5, 0.5])
    for n_nodes in (1, 2, 3):
        assert _likeliest(grown, n_nodes).parents == [-1, 0, 1][:n_nodes]


def test_no_more_than_there_are_can_be_kept() -> None:
    grown = Grown([1, 2], [-1, -1], [0.25, 0.5])
    assert _likeliest(grown, 99).tokens == [2, 1]
    assert _likeliest(Grown([], [], []), 5).tokens == []


def test_the_likeliest_of_any_tree_are_a_tree_of_the_likeliest() -> None:
    chance = random.Random(5)
    for _ in range(50):
        parents = [chance.randrange(-1, i) for i in range(chance.randrange(1, 40))]
        p: list[float] = []
        for parent in parents:
            p.append((p[parent] if parent >= 0 else 1.0) * chance.choice((1.0, 0.5, 0.1)))
        n_nodes = chance.randrange(1, 50)
        kept = _likeliest(Grown(list(range(len(p))), parents, p), n_nodes)
        assert kept.p == sorted(p, reverse=True)[:n_nodes]
        for i, (token, parent) in enumerate(zip(kept.tokens, kept.parents, strict=True)):
            assert parent < i
            assert parents[token] == (kept.tokens[parent] if parent >= 0 else -1)


def test_ranks_may_be_numpys() -> None:
    paths: Any = np.array([[0], [1]])
    assert Shape.of(paths).ranks.tolist() == [0, 1]


@pytest.mark.parametrize("choices", [[1, 2], [(0,), "a"], [(0.5,)], [None]])
def test_choices_that_are_no_paths_are_refused(choices: list[object]) -> None:
    with pytest.raises(DraftError, match="give paths of ranks"):
        Shape.of(choices)  # type: ignore[arg-type]
