"""Behind much text plans keep up with the best fixed tree, whatever kernel and belief."""

from __future__ import annotations

from itertools import product

import pytest

import simulate_depth

KERNELS = ("waiting", "streaming")
DEPTHS = (64, 2048, 7000, 16_000)
STARTS = ("calibrated", "theory", "other kernel")


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_plans_are_as_good_as_the_best_fixed_tree_and_plain_steps(
    kernel: str, depth: int, start: str
) -> None:
    for kind in simulate_depth.KINDS:
        found = simulate_depth.speeds(kernel, depth, kind, start, 250, seed=7)
        assert found.of_best >= 0.98, f"{kind}: {found}"
        assert found.of_plain >= 0.98, f"{kind}: {found}"


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_machine_costs_what_was_measured(kernel: str) -> None:
    machine = simulate_depth.MACHINES[kernel]
    for depth, row in simulate_depth.KERNELS[kernel].items():
        for n_nodes, ms in zip(simulate_depth.SIZES, row, strict=True):
            assert machine.seconds(n_nodes, depth) == pytest.approx(ms / 1000)
    costs = [[machine.seconds(n, depth) for n in range(1, 33)] for depth in range(0, 20_000, 500)]
    assert all(row == sorted(row) for row in costs)
    assert all(list(column) == sorted(column) for column in zip(*costs, strict=True)), (
        "text costs something"
    )


@pytest.mark.parametrize(("kernel", "kind"), list(product(KERNELS, ("new", "repeating"))))
def test_trees_become_smaller_where_they_are_dearer_in_plain_steps(kernel: str, kind: str) -> None:
    best = [
        simulate_depth.speeds(kernel, depth, kind, "calibrated", 20, seed=1).best_size
        for depth in (64, 7000)
    ]
    assert (best[0] >= best[1]) is (kernel == "streaming")
