"""Costs are what was measured, outliers aside, and follow the machine that passes really run on."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from planning import cost_curves
from pytreellama.plan import KNOTS, CostCurve, PassCost, choose

SIZES = (1, 2, 4, 8, 16, 32, 64)
N_READ = 200
UNSHRUNK = (Phase.explicit, Phase.generate)  # no seed is simpler than another
Machine = Callable[[int, int], float]
"""Seconds of a pass over so many nodes behind so many tokens of text."""


@st.composite
def machines(draw: st.DrawFn) -> dict[int, float]:
    """What passes of some sizes take on a machine where larger ones never take less."""
    seconds, cost_of = draw(st.floats(1e-4, 0.1)), {}
    for size in draw(st.lists(st.sampled_from(KNOTS), min_size=1, unique=True).map(sorted)):
        cost_of[size] = seconds
        seconds *= draw(st.floats(1.0, 4.0))
    return cost_of


def passes_of(cost_of: dict[int, float], n_read: int = 0, n: int = 5) -> list[PassCost]:
    return [PassCost(size, n_read, s) for size, s in cost_of.items() for _ in range(n)]


# -- curves of measurements


@given(machines(), st.sampled_from([0, 32]))
def test_a_curve_goes_through_what_was_measured(cost_of: dict[int, float], n_read: int) -> None:
    curve = CostCurve.fit(passes_of(cost_of, n_read))
    # what little text costs is theory, which may not fit all sizes
    allowed = 0.3 if n_read else 1e-6
    for size, seconds in cost_of.items():
        assert curve.seconds(size, n_read) == pytest.approx(seconds, rel=allowed)


@given(machines(), st.integers(0, 4), st.floats(0.1, 20.0))
def test_one_odd_pass_in_five_changes_nothing(
    cost_of: dict[int, float], which: int, factor: float
) -> None:
    odd = {size: seconds * factor for size, seconds in cost_of.items()}
    done = passes_of(cost_of, n=4)[:] + passes_of(odd, n=1)
    curve = CostCurve.fit(done[which:] + done[:which])
    for size, seconds in cost_of.items():
        assert curve.seconds(size) == pytest.approx(seconds)


@given(machines(), st.integers(1, KNOTS[-1]))
def test_between_sizes_costs_rise_and_beyond_them_a_node_costs_no_less_than_before(
    cost_of: dict[int, float], size: int
) -> None:
    curve = CostCurve.fit(passes_of(cost_of))
    assert curve.seconds(size) >= curve.seconds(size - 1)
    last = max(cost_of)
    if size > last:
        assert curve.seconds(size) / size >= curve.seconds(last) / last * (1 - 1e-9)
    if min(cost_of) <= size <= last:
        assert min(cost_of.values()) <= curve.seconds(size) * (1 + 1e-9)
        assert curve.seconds(size) <= max(cost_of.values()) * (1 + 1e-9)


@given(st.floats(1e-4, 0.1), st.floats(0.0, 0.01), st.floats(0.0, 0.003), st.integers(0, 16_000))
def test_text_costs_what_it_was_measured_to_cost(
    plain_s: float, read: float, attend: float, n_read: int
) -> None:
    def machine(size: int, n: int) -> float:
        return plain_s * (size + (read + attend * size) * n)

    sizes = (1, 4, 8)
    curve = CostCurve.fit(
        PassCost(size, n, machine(size, n)) for size in sizes for n in (32, 512) for _ in range(3)
    )
    for size in sizes:
        assert curve.seconds(size, n_read) == pytest.approx(machine(size, n_read), rel=1e-4)


def test_where_text_was_not_measured_it_costs_something() -> None:
    curve = CostCurve.fit([PassCost(1, 32, 0.01), PassCost(8, 32, 0.02)])
    assert 0.01 < curve.seconds(1, 4096) < 0.05


def test_a_larger_pass_that_was_quicker_is_noise() -> None:
    curve = CostCurve.fit(passes_of({1: 1.0, 2: 0.8, 4: 2.0}))
    assert curve.seconds(2) >= curve.seconds(1) == pytest.approx(1.0)


def test_nothing_measured_is_no_curve() -> None:
    with pytest.raises(ValueError, match="at least one"):
        CostCurve.fit([])


# -- what is asked of a curve


@given(cost_curves(), st.integers(1, KNOTS[-1]), st.integers(0, 10_000))
def test_the_list_and_the_single_cost_agree(curve: CostCurve, n_nodes: int, n_read: int) -> None:
    costs = curve.pass_s(n_nodes, n_read)
    assert len(costs) == n_nodes + 1
    assert costs[-1] == pytest.approx(curve.seconds(n_nodes, n_read))
    assert len(curve.pass_s(KNOTS[-1] + 5)) == KNOTS[-1] + 1
    assert curve.seconds(KNOTS[-1] + 5, n_read) == curve.seconds(KNOTS[-1], n_read)


@given(cost_curves(), st.integers(1, KNOTS[-1] + 9))
def test_no_number_of_nodes_more_is_cheaper_than_the_least_price(
    curve: CostCurve, n_nodes: int
) -> None:
    least, costs = curve.least_price_s(n_nodes), curve.pass_s(KNOTS[-1])
    first = min(n_nodes, KNOTS[-1] - 1)
    prices = [(costs[n] - costs[first]) / (n - first) for n in range(first + 1, KNOTS[-1] + 1)]
    assert least == pytest.approx(min(prices))
    assert least >= 0.0


# -- files


@given(cost_curves(), st.integers(1, 64), st.integers(0, 4000))
def test_a_curve_survives_a_file(curve: CostCurve, n_nodes: int, n_read: int) -> None:
    again = CostCurve.from_dict(json.loads(json.dumps(curve.to_dict())))
    assert again.seconds(n_nodes, n_read) == pytest.approx(curve.seconds(n_nodes, n_read))
    assert again.to_dict()["knot_s"] == pytest.approx(curve.to_dict()["knot_s"])


GOOD = CostCurve.fit([PassCost(1, 0, 0.01)]).to_dict()
numbers = st.floats() | st.integers(-(10**400), 10**400) | st.just(1e400)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
knot_lists = st.lists(numbers, min_size=len(KNOTS), max_size=len(KNOTS))


@given(
    st.builds(
        lambda name, value: {**GOOD, name: value},
        st.sampled_from(sorted(GOOD)),
        json_values | knot_lists,
    )
    | json_values
)
@example({**GOOD, "knot_s": [0.01] * (len(KNOTS) - 1) + [math.nan]})
@example({**GOOD, "knot_s": [0.01] * (len(KNOTS) - 1) + [math.inf]})
@example({**GOOD, "knot_s": [10**400] * len(KNOTS)})
@example({**GOOD, "read_s": math.inf})
@example({**GOOD, "read_s": math.nan})
@example({**GOOD, "attend_s": math.inf})
@example({**GOOD, "attend_deviation": 10**400})
def test_what_was_damaged_is_refused_or_is_a_curve(data: object) -> None:
    try:
        curve = CostCurve.from_dict(data)  # type: ignore[arg-type]
    except (ValueError, TypeError, KeyError):
        return
    assert_sane(curve)


@pytest.mark.parametrize(
    "change",
    [
        {"knots": [1, 2, 3]},
        {"knots": None},
        {"knot_s": [0.01]},
        {"knot_s": [0.0] * len(KNOTS)},
        {"knot_s": [-1.0] * len(KNOTS)},
        {"knot_s": None},
        {"read_s": -1.0},
        {"read_s": "much"},
        {"attend_s": -1.0},
        {"read_deviation": None},
        {"sizes": None},
        {"sizes": [-3, -2, -1]},
        {"sizes": [2**70, 2, 3]},
        {"knot_s": [1e-8] * len(KNOTS)},
        {"knot_s": [1e5] * len(KNOTS)},
        {"read_s": 1e6},
        {"attend_s": 1.0},
        {"attend_deviation": 1e6},
    ],
    ids=str,
)
def test_costs_that_are_none_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        CostCurve.from_dict({**GOOD, **change})
    with pytest.raises(KeyError):
        CostCurve.from_dict({name: value for name, value in GOOD.items() if name not in change})


def assert_sane(curve: CostCurve) -> None:
    costs = curve.pass_s(KNOTS[-1], 100)
    assert all(0.0 < s < math.inf for s in costs[1:])
    assert costs[1:] == sorted(costs[1:])


# -- learning


def learned(
    curve: CostCurve, machine: Machine, sizes: Sequence[int], n_passes: int, seed: int
) -> CostCurve:
    """A curve that saw noisy passes of a machine, one in ten of them an outlier."""
    rng = random.Random(seed)
    for _ in range(n_passes):
        size = rng.choice(sizes)
        noise = rng.choice([3.0, 10.0]) if rng.random() < 0.1 else rng.gauss(1.0, 0.05)
        curve.learn(PassCost(size, N_READ, machine(size, N_READ) * noise))
    return curve


# plain steps that a pass over each of SIZES takes, as measured on some machines
SHAPES = {
    "Q4_1": (1, 1.17, 1.55, 2.4, 3.7, 7.3, 14.7),
    "F16": (1, 1.09, 1.26, 1.76, 2.65, 4.5, 7.9),
    "GPU": (1, 1, 1, 1.02, 1.05, 1.1, 1.2),
    "phone": (1, 1.9, 3.7, 7.3, 14.5, 29, 58),
}


def machine_like(name: str, plain_s: float = 0.005) -> Machine:
    def seconds(n_nodes: int, n_read: int) -> float:
        return plain_s * float(np.interp(n_nodes, SIZES, SHAPES[name])) + 1e-6 * n_read

    return seconds


def curve_of(machine: Machine) -> CostCurve:
    return CostCurve.fit(
        PassCost(size, n, machine(size, n)) for size in SIZES for n in (32, 512) for _ in range(3)
    )


def shape(costs: Machine) -> list[float]:
    """Costs in plain steps."""
    return [costs(size, N_READ) / costs(1, N_READ) for size in SIZES]


@pytest.mark.parametrize(("believed", "real"), list(itertools.permutations(SHAPES, 2)))
@settings(max_examples=2, phases=UNSHRUNK)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_curve_becomes_that_of_the_machine(believed: str, real: str, seed: int) -> None:
    machine = machine_like(real)
    curve = learned(curve_of(machine_like(believed)), machine, SIZES, 3000, seed)
    assert shape(curve.seconds) == pytest.approx(shape(machine), rel=0.1)
    assert curve.seconds(8, N_READ) == pytest.approx(machine(8, N_READ), rel=0.2)


@pytest.mark.parametrize("name", SHAPES)
@settings(max_examples=5, phases=UNSHRUNK)
@given(seed=st.integers(0, 2**32 - 1), factor=st.sampled_from([0.5, 2.0]))
def test_a_machine_that_is_slower_as_a_whole_is_planned_for_as_before(
    name: str, seed: int, factor: float
) -> None:
    """Only the sizes that are used are seen; the others are foreseen to have become slower too."""
    curve, other = (curve_of(machine_like(name)) for _ in range(2))
    slower = machine_like(name, 0.005 * factor)
    learned(curve, slower, (1, 2, 4), 60, seed)
    for size in SIZES:
        assert curve.seconds(size, N_READ) == pytest.approx(slower(size, N_READ), rel=0.35)
    p = [0.85**i for i in range(1, 13)]
    chosen, best = (choose([p], c.pass_s(13, N_READ)).sizes[0] for c in (curve, other))
    rates = [(1 + sum(p[:n])) / slower(1 + n, N_READ) for n in (chosen, best)]
    assert rates[0] > 0.95 * rates[1]


@given(cost_curves(), st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 10**6), st.floats())))
def test_no_pass_makes_costs_that_are_none(
    curve: CostCurve, done: list[tuple[int, int, float]]
) -> None:
    for one in done * 20:
        curve.learn(PassCost(*one))
    assert_sane(curve)


def test_an_outlier_teaches_no_more_than_a_surprise() -> None:
    slow, odd = (CostCurve.fit([PassCost(1, 0, 0.01)]) for _ in range(2))
    slow.learn(PassCost(1, 0, 0.015))
    odd.learn(PassCost(1, 0, 10.0))
    assert odd.seconds(1) == pytest.approx(slow.seconds(1))
    assert odd.seconds(1) < 0.011


def test_a_size_that_is_cheaper_than_a_smaller_one_does_not_carry_the_others_away() -> None:
    """As where a kernel is made for 16 columns; costs are kept rising all the same."""

    def machine(n_nodes: int, n_read: int) -> float:
        return 0.004 * (10 if n_nodes == 16 else n_nodes)

    curve = CostCurve.fit([PassCost(size, 0, 0.004 * size) for size in KNOTS])
    learned(curve, machine, (1, 8, 12, 16), 20_000, seed=1)
    for size in (1, 8, 12, 64, 256):
        assert curve.seconds(size) == pytest.approx(0.004 * size, rel=0.2)
    assert curve.seconds(16) == curve.seconds(12)
    learned_s = dict(zip(KNOTS, curve.to_dict()["knot_s"], strict=True))
    assert learned_s[16] / learned_s[12] == pytest.approx(10 / 12, rel=0.15)


# -- text


@given(cost_curves(), st.integers(0, 30_000), st.integers(1, 64), st.integers(1, 30_000))
def test_a_pass_costs_more_with_every_node_and_every_cell(
    curve: CostCurve, n_read: int, n_nodes: int, n_more: int
) -> None:
    costs = curve.pass_s(n_nodes, n_read)
    assert costs[1:] == sorted(costs[1:])
    deeper = curve.pass_s(n_nodes, n_read + n_more)
    assert all(b >= a for a, b in zip(costs[1:], deeper[1:], strict=True))
    # what a node more costs, costs no less behind more text
    prices = [[b - a for a, b in itertools.pairwise(some[1:])] for some in (costs, deeper)]
    assert all(b >= a - 1e-9 * costs[-1] for a, b in zip(*prices, strict=True))
    if curve.text.attend_s > 0.0:
        assert deeper[1] > costs[1]


@given(cost_curves(), st.lists(st.tuples(st.integers(1, 8), st.integers(0, 9000)), min_size=1))
def test_sequences_of_a_pass_pay_for_the_cells_that_their_own_nodes_see(
    curve: CostCurve, sequences: list[tuple[int, int]]
) -> None:
    n_nodes = sum(n for n, _ in sequences)
    n_read, n_attended = sum(c for _, c in sequences), sum(n * c for n, c in sequences)
    roots = curve.pass_s(n_nodes, n_read, n_read)[n_nodes]
    more_s = sum((n - 1) * curve.attend_s(cells) for n, cells in sequences)
    whole_s = curve.seconds(n_nodes, n_read, n_attended)
    assert roots + more_s == pytest.approx(whole_s)
    if len(sequences) == 1:
        assert curve.seconds(n_nodes, n_read) == pytest.approx(whole_s)
    assert curve.seconds(n_nodes, n_read // 2, n_attended) <= whole_s  # read once for several


TEXTS = {"waiting": (3.9e-6, 6.5e-7), "streaming": (6e-7, 4.9e-7), "compute": (1e-8, 2e-6)}


def behind_text(read_s: float, attend_s: float) -> Machine:
    def seconds(n_nodes: int, n_read: int) -> float:
        return 0.003 + 0.0011 * n_nodes + (read_s + attend_s * n_nodes) * n_read

    return seconds


@pytest.mark.parametrize(("believed", "real"), list(itertools.permutations(TEXTS, 2)))
@settings(max_examples=3, phases=UNSHRUNK)
@given(seed=st.integers(0, 2**32 - 1))
def test_what_text_costs_is_learned_from_steps_outliers_aside(
    believed: str, real: str, seed: int
) -> None:
    """A text of 1,000 tokens that becomes one of 9,000, in steps that are mostly plain."""
    curve, machine = curve_of(behind_text(*TEXTS[believed])), behind_text(*TEXTS[real])
    rng = random.Random(seed)
    for n_read in range(1000, 9000, 8):
        size = rng.choice((1, 1, 1, 2, 4, 8))
        noise = rng.choice((3.0, 10.0)) if rng.random() < 0.05 else rng.gauss(1.0, 0.05)
        curve.learn(PassCost(size, n_read, machine(size, n_read) * noise))
    for size in (1, 2, 4, 8):
        steps = curve.seconds(size, 9000) / curve.seconds(1, 9000)
        assert steps == pytest.approx(machine(size, 9000) / machine(1, 9000), rel=0.15)


@given(st.sampled_from(sorted(TEXTS)), st.integers(0, 2**32 - 1))
def test_passes_that_were_disturbed_spoil_no_calibration(name: str, seed: int) -> None:
    rng, machine = random.Random(seed), behind_text(*TEXTS[name])
    done = []
    for size, n_read in itertools.product((1, 4, 8, 16), (32, 512)):
        odd = rng.randrange(5)
        for i in range(5):
            noise = rng.uniform(2.0, 20.0) if i == odd else rng.gauss(1.0, 0.003)
            done.append(PassCost(size, n_read, noise * machine(size, n_read)))
    curve = CostCurve.fit(done)
    for size in (1, 4, 8, 16):
        assert curve.seconds(size, 4000) == pytest.approx(machine(size, 4000), rel=0.25)


@pytest.mark.parametrize("n_read", [0, 100, 5000])
def test_noise_at_little_text_leaves_what_text_costs_to_theory(n_read: int) -> None:
    """A busy machine: passes behind text took anything between half and twice their time."""
    rng, machine = random.Random(n_read), behind_text(*TEXTS["streaming"])
    done = [
        PassCost(size, depth, rng.uniform(0.5, 2.0) * machine(size, depth))
        for size, depth in itertools.product((1, 4, 8, 16), (32, 512))
        for _ in range(3)
    ]
    text, theory = CostCurve.fit(done).text, CostCurve.fit(done[:1]).text
    assert 0.0 <= text.read_s < 6 * theory.read_s
    assert 0.0 <= text.attend_s < 6 * max(theory.attend_s, TEXTS["streaming"][1])


@given(cost_curves(), st.integers(0, 30_000))
def test_a_curve_that_is_sure_without_text_says_so(curve: CostCurve, n_read: int) -> None:
    assert not curve.is_unsure(0)
    if curve.is_unsure(n_read):
        for i in range(60):
            size = (1, 8)[i % 2]
            curve.learn(PassCost(size, n_read, curve.seconds(size, n_read)))
        assert not curve.is_unsure(n_read)
