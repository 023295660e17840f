"""The chain to verify in the place of a tree: the best of all of its paths."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytreellama.plan import CostCurve, PassCost, Planner
from pytreellama.tree import TokenTree
from pytreellama.tree.candidates import Candidates
from pytreellama.tree.chains import likeliest_chain

pytestmark = pytest.mark.fast


@st.composite
def trees(draw: st.DrawFn) -> tuple[list[int], list[float]]:
    """Parents, and path probabilities that never rise."""
    parents: list[int] = []
    p: list[float] = []
    for node in range(draw(st.integers(0, 14))):
        parents.append(draw(st.integers(-1, node - 1)))
        above = p[parents[-1]] if parents[-1] >= 0 else 1.0
        p.append(above * draw(st.integers(0, 16)) / 16)  # sums of these are exact
    return parents, p


def paths_of(parents: list[int], n_max: int) -> list[list[int]]:
    """All paths from a root downwards of at most so many nodes."""
    paths: list[list[int]] = [[]]
    for node, parent in enumerate(parents):
        paths += [[*path, node] for path in paths if (path[-1] if path else -1) == parent]
    return [path for path in paths if len(path) <= n_max]


@given(trees(), st.integers(0, 8))
def test_no_other_path_has_a_larger_sum(tree: tuple[list[int], list[float]], n_max: int) -> None:
    parents, p = tree
    chain = likeliest_chain(parents, p, n_max)
    paths = paths_of(parents, n_max)
    assert chain in paths
    assert sum(p[node] for node in chain) == max(sum(p[node] for node in path) for path in paths)


@given(trees(), st.integers(0, 8))
def test_a_planner_of_chains_chooses_the_beginning_of_one(
    tree: tuple[list[int], list[float]], room: int
) -> None:
    parents, p = tree
    tokens = list(range(len(parents)))
    candidates = Candidates.of([TokenTree.from_grown(tokens, parents, p)])
    # path probabilities as ``Acceptance`` leaves them
    candidates.p = [dict(zip(tokens, p, strict=True))[t] for t in candidates.union.tokens]
    curve = CostCurve.fit([PassCost(n, 0, 1.0 + 0.05 * n) for n in (1, 2, 4, 8)])
    plan = Planner(curve, 16, chains_only=True).plan([candidates], [0], rooms=[room])[0]
    assert list(plan.nodes) == candidates.likeliest_chain(room)[: len(plan.nodes)]
    assert (plan.tree(7).n_leaves, len(plan.tree(7))) == (1, 1 + len(plan.nodes))


def test_drafters_are_asked_for_more_than_a_chain_of_them() -> None:
    curve = CostCurve.fit([PassCost(1, 0, 1.0)])
    assert Planner(curve).n_asked(7) == 7
    assert Planner(curve, chains_only=True).n_asked(7) > 7
