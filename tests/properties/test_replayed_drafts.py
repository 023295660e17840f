"""Recorded drafts, proposed again: the trees that their drafters would have grown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.contestants import N_LEVELS_RECORDED, TOP, growth_of
from lib.proposals import CHAIN, N_RECORDED, TREE, Proposals, ReplayedDrafter, pass_name
from lib.shapes import Shape
from pytreellama.draft.calibration import Calibration, limit_siblings
from pytreellama.draft.growth import TRUNK, Growth, Row, grow_tree
from pytreellama.draft.level_cost import LevelCost
from pytreellama.tree import TokenTree

PROMPT, PASS_S = [3, 4], 0.5


class Foresight:
    """What a draft model expects, drawn from its path; counts passes."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._paths: list[tuple[int, ...]] = []
        self.n_passes = 1

    def children(self, node: int) -> Row:
        path = () if node < 0 else self._paths[node]
        random = np.random.default_rng([self._seed, *path])
        p = np.sort(random.dirichlet([0.4] * (TOP + 1))[:TOP])[::-1]
        return random.permutation(40)[:TOP].tolist(), p.tolist()

    def add(self, tokens: Sequence[int], parents: Sequence[int]) -> list[int]:
        self.n_passes += 1
        first = len(self._paths)
        for token, parent in zip(tokens, parents, strict=True):
            above = () if parent < 0 else self._paths[parent]
            self._paths.append((*above, token))
        return list(range(first, len(self._paths)))


def grown_for_real(seed: int, growth: Growth, n_nodes: int) -> tuple[TokenTree, int]:
    foresight = Foresight(seed)
    return grow_tree(foresight, growth, n_nodes, limit_siblings), foresight.n_passes


def replayed(
    seed: int, is_chain: bool, growth: Growth | None, calibration: Calibration | None = None
) -> tuple[ReplayedDrafter, Counter[str]]:
    """The drafter of a recording, after its prompt."""
    recorded_growth = growth_of(Shape(1, N_LEVELS_RECORDED, is_chain))
    tree, _ = grown_for_real(seed, recorded_growth, N_RECORDED)
    proposals = Proposals(recorded_growth, {((*PROMPT,), 0): tree})
    passes: Counter[str] = Counter()
    kind = CHAIN if is_chain else TREE
    drafter = ReplayedDrafter(
        "eagle3", kind, proposals, growth, passes, LevelCost(), PASS_S, calibration
    )
    drafter.observe(PROMPT)
    return drafter, passes


def as_paths(tree: TokenTree) -> dict[tuple[int, ...], float]:
    assert tree.p is not None
    return {
        tuple(tree.tokens[tree.path(node)].tolist()): float(tree.p[node])
        for node in range(len(tree))
    }


@given(
    st.integers(0, 10_000),
    st.integers(1, 40),
    st.integers(1, N_LEVELS_RECORDED),
    st.sampled_from([0.0, 0.01, 0.1]),
    st.booleans(),
)
def test_trees_and_chains_are_those_that_would_have_grown(
    seed: int, n_nodes: int, n_levels: int, min_p: float, is_chain: bool
) -> None:
    growth = growth_of(Shape(n_nodes, n_levels, is_chain))
    drafter, passes = replayed(seed, is_chain, growth)
    found = drafter.grow_likely(n_nodes, min_p).tree()
    limited = Growth(growth.n_children, growth.width, min_p)
    expected, n_passes = grown_for_real(seed, limited, n_nodes)
    assert as_paths(found) == pytest.approx(as_paths(expected), rel=1e-5)
    assert passes.total() == n_passes
    assert is_chain or passes[pass_name("eagle3", CHAIN)] == 1


@given(st.integers(0, 10_000), st.integers(1, 40), st.sampled_from([0.0, 0.01, 0.1]))
def test_without_passes_the_likeliest_nodes_are_proposed(
    seed: int, n_nodes: int, min_p: float
) -> None:
    drafter, passes = replayed(seed, False, None)
    whole = as_paths(drafter.propose(N_RECORDED))
    found = as_paths(drafter.grow_likely(n_nodes, min_p).tree())
    best = sorted((p for p in whole.values() if p >= min_p), reverse=True)[:n_nodes]
    assert sorted(found.values(), reverse=True) == pytest.approx(best)
    assert passes == {pass_name("eagle3", TREE): 2}


def test_levels_that_do_not_pay_are_left_out() -> None:
    drafter, passes = replayed(1, False, growth_of(None))
    drafter.announce(16, 0.0, token_s=PASS_S / 100)
    assert len(drafter.grow_likely(16, 0.0).tokens) <= TOP
    assert passes.total() == 1


@pytest.mark.parametrize("n_right", [0, 1, 2])
def test_replays_learn_what_came(n_right: int) -> None:
    calibration = Calibration(TOP)
    drafter, _ = replayed(5, False, growth_of(None), calibration)
    tree = drafter.propose(16)
    path = max(tree.paths(), key=len)
    drafter.observe([*path[:n_right], 99])
    outcomes = [token == 99 for token in (*path[:n_right], 99)]
    expected = Calibration(TOP)
    foresight, node = Foresight(5), TRUNK
    for wrong, token in zip(outcomes, path, strict=False):
        tokens, p = foresight.children(node)
        for rank in range(TOP):
            expected.learn(p[rank], not wrong and tokens[rank] == token, rank)
        (node,) = foresight.add([token], [node])
    for rank in range(TOP):
        assert calibration.calibrated(0.3, rank) == pytest.approx(expected.calibrated(0.3, rank))


def test_nothing_is_proposed_where_nothing_was_recorded() -> None:
    drafter, passes = replayed(1, False, growth_of(None))
    drafter.observe([7])
    assert len(drafter.propose(16)) == 0
    assert not passes
