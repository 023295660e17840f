"""Whatever a planner believes, passes of every kind are made now and then, and seldom in vain."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planning import chain_guesses
from pytreellama.plan import KNOTS, CostCurve, PassCost, Planner, TextCost
from pytreellama.plan.probes import Probes

sizes_of_sequences = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 40)), min_size=1)


@given(sizes_of_sequences, st.integers(0, 1200), st.booleans(), st.booleans())
def test_a_probe_takes_guesses_that_there_are_and_is_no_best_choice(
    sequences: list[tuple[int, int]], n_passes: int, has_tree: bool, is_unsure: bool
) -> None:
    best = [size for size, _ in sequences]
    n_guesses = [size + more for size, more in sequences]
    probes = Probes()
    for _ in range(n_passes):
        probes.count(has_tree)
    sizes = probes.sizes(best, n_guesses, is_unsure)
    if sizes is None:
        return
    assert n_passes >= 64
    assert len(sizes) == len(best)
    assert sizes != tuple(best)
    assert all(0 <= size <= n for size, n in zip(sizes, n_guesses, strict=True))


@pytest.mark.parametrize("has_tree", [False, True])
def test_passes_of_one_kind_end_with_one_of_the_other(has_tree: bool) -> None:
    probes, best = Probes(), [4 if has_tree else 0]
    for _ in range(511):
        probes.count(has_tree)
        assert probes.sizes(best, best if has_tree else [9], is_unsure=False) is None
    probes.count(has_tree)
    assert probes.sizes(best, best if has_tree else [9], False) == ((0,) if has_tree else (4,))
    probes.count(not has_tree)
    assert probes.sizes(best, best if has_tree else [9], False) is None


def test_a_little_known_curve_is_probed_sooner() -> None:
    probes = Probes()
    for _ in range(64):
        probes.count(has_tree=False)
    assert probes.sizes([0], [3], is_unsure=False) is None
    assert probes.sizes([0], [3], is_unsure=True) == (3,)


def test_larger_trees_are_tried_now_and_then() -> None:
    probes, tried = Probes(), []
    for i in range(2000):
        probes.count(has_tree=i % 3 > 0)
        sizes = probes.sizes([3, 0], [20, 5], is_unsure=False)
        if sizes is not None:
            tried.append(sizes)
    assert tried == [(6, 0)] * 3


@pytest.mark.parametrize("depth", [2000, 16_000])
def test_a_planner_that_holds_trees_to_be_hopeless_finds_out(depth: int) -> None:
    """Each node is believed to cost ten times what it costs behind text."""
    plain_s, attend_s = 0.004, 4e-7

    def real(n_nodes: int) -> float:
        return plain_s * (1 + 0.1 * n_nodes) + attend_s * n_nodes * depth

    knot_s = [plain_s * (1 + 0.1 * knot) for knot in KNOTS]
    planner = Planner(CostCurve(knot_s, TextCost(0.0, 10 * attend_s, 0.0, 4 * attend_s)))
    candidates = chain_guesses([1, 2, 3, 4], [0.9, 0.8, 0.7, 0.6])
    sizes = []
    for _ in range(2000):
        if planner.least_p([depth]) > 0.4:  # say that drafters find nothing that likely
            planner.learn(PassCost(1, depth, real(1)))
            sizes.append(0)
            continue
        (plan,) = planner.plan([candidates], [depth])
        assert plan.saved_s == 0.0 or not plan.is_probe
        sizes.append(len(plan.nodes))
        planner.learn(PassCost(1 + sizes[-1], depth, real(1 + sizes[-1])))
    p = candidates.p
    best = max(range(5), key=lambda n: (1 + 0.85 * sum(p[:n])) / real(1 + n))
    assert sizes[-100:].count(best) > 90


@pytest.mark.parametrize("factor", [3.0, 10.0, 100.0])
def test_a_calibration_that_was_held_up_at_trees_is_found_out(factor: float) -> None:
    """Sizes are known as text is not: they move by 1 % a pass, and one pass in 512 is a probe."""
    real = [0.004 * (1 + 0.1 * knot) for knot in KNOTS]
    wrong = [real[0], *(factor * s for s in real[1:])]
    sizes = sizes_chosen(CostCurve(wrong, NO_TEXT), 0.9, n_steps=2500)
    assert all(size >= 3 for size in sizes[-500:-400]), "trees pay"


@pytest.mark.parametrize("factor", [1.5, 10.0])
def test_a_calibration_that_was_held_up_at_plain_steps_is_found_out(factor: float) -> None:
    """Then trees look free, and plain steps are never seen."""
    real = [0.004 * (1 + 0.3 * (knot - 1)) for knot in KNOTS]
    wrong = [max(s, factor * real[0]) for s in real]
    sizes = sizes_chosen(CostCurve(wrong, NO_TEXT), 0.2, n_steps=4000, price=0.3)
    assert sum(size == 0 for size in sizes[-500:]) > 480


NO_TEXT = TextCost(0.0, 0.0, 0.0, 0.0)


def sizes_chosen(curve: CostCurve, odds: float, n_steps: int, price: float = 0.1) -> list[int]:
    """Guesses that are verified at each step, on a machine whose nodes have a price."""
    planner, sizes = Planner(curve), []
    for _ in range(n_steps):
        candidates = chain_guesses(list(range(8)), [odds] * 8)
        candidates.p = [odds ** (i + 1) for i in range(8)]
        (plan,) = planner.plan(
            [candidates], [0], rooms=[sum(p >= planner.least_p([0]) for p in candidates.p)]
        )
        sizes.append(len(plan.nodes))
        planner.learn(PassCost(1 + sizes[-1], 0, 0.004 * (1 + price * sizes[-1])))
    return sizes
