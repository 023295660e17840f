"""What is chosen is a tree, and no other choice promises more tokens a second."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from planning import chain_guesses, cost_curves, guesses_of_trees
from pytreellama.errors import RequestError
from pytreellama.plan import KNOTS, Candidates, Choice, CostCurve, Planner, TextCost, choose
from strategies import parent_lists

EXACT = 1e-9
N_NODES = 10


@dataclass(frozen=True)
class Case:
    """Guesses of one or more sequences, and what a pass over so many nodes costs."""

    parents: list[list[int]]
    p: list[list[float]]
    pass_s: list[float]
    node_s: list[float] | None
    spent_s: float

    @property
    def falling(self) -> list[list[float]]:
        return [sorted(p, reverse=True) for p in self.p]

    def choice(self) -> Choice:
        return choose(self.falling, self.pass_s, node_s=self.node_s, spent_s=self.spent_s)

    def rate(self, taken: Sequence[Sequence[int]]) -> float:
        """Tokens a second if these nodes of each sequence are verified."""
        n_tokens, n_nodes, seconds = float(len(self.p)), len(self.p), self.spent_s
        for nodes, p, node_s in zip(taken, self.p, self.extra_s, strict=True):
            n_tokens += sum(p[node] for node in nodes)
            n_nodes += len(nodes)
            seconds += node_s * len(nodes)
        return n_tokens / (seconds + self.pass_s[n_nodes])

    @property
    def extra_s(self) -> list[float]:
        return self.node_s or [0.0] * len(self.p)

    def possible(self) -> Iterator[tuple[list[int], ...]]:
        """Every way to take a tree of each sequence, within what a pass holds."""
        n_room = len(self.pass_s) - 1 - len(self.p)
        for taken in itertools.product(*map(trees_within, self.parents)):
            if sum(map(len, taken)) <= n_room:
                yield taken


def trees_within(parents: list[int]) -> list[list[int]]:
    """Every set of nodes that holds the parents of all its nodes."""
    found: list[list[int]] = []
    for mask in range(1 << len(parents)):
        nodes = [node for node in range(len(parents)) if mask >> node & 1]
        if all(parents[node] < 0 or mask >> parents[node] & 1 for node in nodes):
            found.append(nodes)
    return found


@st.composite
def path_probabilities(draw: st.DrawFn, parents: list[int]) -> list[float]:
    p: list[float] = []
    for parent in parents:
        own = draw(st.floats(0.0, 1.0))
        p.append(own * (p[parent] if parent >= 0 else 1.0))
    return p


@st.composite
def costs(draw: st.DrawFn, n_nodes: int, rises: bool) -> list[float]:
    """Of passes over 0 to n nodes; where they rise, often by so little that guesses pay."""
    more_s = st.sampled_from([0.0, 0.01, 0.1, 0.4, 1.0]) if rises else st.floats(0.5, 2.0)
    seconds = draw(st.lists(more_s, min_size=n_nodes + 1, max_size=n_nodes + 1))
    return list(itertools.accumulate([1.0 + seconds[0], *seconds[1:]])) if rises else seconds


@st.composite
def cases(
    draw: st.DrawFn, rises: bool | None = None, n_sequences: tuple[int, int] = (1, 3)
) -> Case:
    n_roots = draw(st.integers(*n_sequences))
    parents = [draw(parent_lists(max_nodes=N_NODES // n_roots)) for _ in range(n_roots)]
    n_nodes = n_roots + sum(map(len, parents))
    node_s = st.lists(st.floats(0.0, 0.5), min_size=n_roots, max_size=n_roots)
    return Case(
        parents,
        [draw(path_probabilities(of_sequence)) for of_sequence in parents],
        draw(costs(n_nodes - draw(st.integers(0, n_nodes - n_roots)), _either(draw, rises))),
        draw(st.none() | node_s),
        draw(st.sampled_from([0.0, 0.1, 2.0])),
    )


def _either(draw: st.DrawFn, given_one: bool | None) -> bool:
    return draw(st.booleans()) if given_one is None else given_one


def rises_by(case: Case, factor: float) -> Case:
    """The same, with passes that cost more for every guess beside the roots."""
    n_roots = len(case.p)
    plain_s = case.pass_s[n_roots]
    pass_s = [plain_s + factor * (seconds - plain_s) for seconds in case.pass_s]
    node_s = case.node_s and [factor * seconds for seconds in case.node_s]
    return Case(case.parents, case.p, pass_s, node_s, case.spent_s)


# -- the best of all choices

# At the rate of plain decoding the second sequence's guess is worth its text; at the best rate it
# is not.
TURNS = Case([list(range(-1, 7)), [-1]], [[1.0] * 7 + [0.5], [0.6]], [2.0] * 11, [0.0, 0.025], 0.0)


@settings(max_examples=200)
@given(cases())
@example(TURNS)
def test_no_other_trees_promise_more_tokens_a_second(case: Case) -> None:
    best = max(case.rate(taken) for taken in case.possible())
    assert case.choice().rate == pytest.approx(best, rel=EXACT)


@given(cases())
def test_a_choice_adds_up(case: Case) -> None:
    choice = case.choice()
    taken = list(map(falling_prefix, case.falling, choice.sizes))
    falling = Case(case.parents, case.falling, case.pass_s, case.node_s, case.spent_s)
    assert choice.rate == pytest.approx(falling.rate(taken), rel=EXACT)
    assert choice.n_tokens == pytest.approx(
        len(case.p) + sum(p[i] for p, nodes in zip(case.falling, taken, strict=True) for i in nodes)
    )
    assert choice.plain_rate == pytest.approx(falling.rate([[] for _ in case.p]), rel=EXACT)
    assert choice.gain >= 1.0 - EXACT
    assert len(case.p) + sum(choice.sizes) < len(case.pass_s)


def falling_prefix(p: list[float], size: int) -> list[int]:
    assert size <= len(p)
    return list(range(size))


@given(cases(n_sequences=(2, 4)))
def test_a_guess_goes_to_the_sequence_where_it_is_worth_most(case: Case) -> None:
    choice = case.choice()
    worth: list[list[float]] = [
        [p_one - choice.rate * extra_s for p_one in p]
        for p, extra_s in zip(case.falling, case.extra_s, strict=True)
    ]
    taken = [w for of_one, size in zip(worth, choice.sizes, strict=True) for w in of_one[:size]]
    left = [w for of_one, size in zip(worth, choice.sizes, strict=True) for w in of_one[size:]]
    assert min(taken, default=math.inf) >= max(left, default=-math.inf) - EXACT


# -- what costs and probabilities do to it


@given(cases(rises=True), st.floats(1.0, 8.0))
def test_dearer_guesses_never_make_larger_trees(case: Case, factor: float) -> None:
    dearer = rises_by(case, factor)
    cheap, dear = case.choice(), dearer.choice()
    if sum(dear.sizes) > sum(cheap.sizes):  # of sizes that are equally good, either may be taken
        again = Case(case.parents, case.falling, dearer.pass_s, dearer.node_s, case.spent_s)
        as_before = again.rate(list(map(falling_prefix, case.falling, cheap.sizes)))
        assert as_before == pytest.approx(dear.rate, rel=EXACT)


@given(cases(rises=True), st.floats(0.1, 8.0))
def test_time_that_is_spent_already_never_makes_smaller_trees(case: Case, more_s: float) -> None:
    later = Case(case.parents, case.p, case.pass_s, case.node_s, case.spent_s + more_s)
    soon, late = case.choice(), later.choice()
    if sum(late.sizes) < sum(soon.sizes):
        again = Case(case.parents, case.falling, case.pass_s, case.node_s, later.spent_s)
        as_before = again.rate(list(map(falling_prefix, case.falling, soon.sizes)))
        assert as_before == pytest.approx(late.rate, rel=EXACT)


@given(cases(rises=True))
@example(
    Case([[-1, 0]], [[0.0, 0.0]], [0.125, 0.18482942176568376, 0.18482942176568376], None, 0.1)
)
def test_what_never_comes_true_is_never_verified(case: Case) -> None:
    hopeless = Case(
        case.parents, [[0.0] * len(p) for p in case.p], case.pass_s, case.node_s, case.spent_s
    )
    assert set(hopeless.choice().sizes) == {0}


@given(st.lists(st.integers(0, 8), min_size=1, max_size=4), st.integers(0, 40), st.floats(1e-6, 9))
def test_what_is_certain_and_costs_nothing_is_all_taken(
    sizes: list[int], n_held: int, seconds: float
) -> None:
    n_held = min(n_held, sum(sizes)) + len(sizes)
    choice = choose([[1.0] * size for size in sizes], [seconds] * (n_held + 1))
    assert len(sizes) + sum(choice.sizes) == n_held


@pytest.mark.parametrize("node_s", [None, [0.0, 0.0]])
def test_no_room_for_the_sequences_themselves_is_said(node_s: list[float] | None) -> None:
    with pytest.raises(RequestError, match=r"over 2 sequences .* at most 1 nodes"):
        choose([[0.5], [0.5]], [0.0, 1.0], node_s=node_s)
    assert choose([[0.5], [0.5]], [0.0, 1.0, 1.0], node_s=node_s).sizes == (0, 0)


# -- planners


@given(
    st.lists(guesses_of_trees, min_size=1, max_size=4),
    cost_curves(),
    st.integers(6, 40),
    st.lists(st.integers(0, 12), min_size=4, max_size=4),
    st.integers(0, 2),
)
def test_plans_are_trees_of_what_was_guessed(
    candidates: list[Candidates], curve: CostCurve, n_held: int, rooms: list[int], n_beside: int
) -> None:
    rooms = rooms[: len(candidates)]
    seen = [100] * (len(candidates) + n_beside)
    plans = Planner(curve, n_held).plan(candidates, seen, 0.001, rooms=rooms)
    assert len(plans) == len(candidates)
    assert len(plans) + n_beside + sum(len(plan.nodes) for plan in plans) <= n_held
    for plan, of_sequence, room in zip(plans, candidates, rooms, strict=True):
        parents, taken = of_sequence.union.parents, set(plan.nodes)
        assert len(taken) == len(plan.nodes) <= room
        assert all(parents[node] in taken | {-1} for node in taken)
        assert len(plan.tree()) == len(taken)
        left = set(range(len(of_sequence))) - taken
        least = min((of_sequence.p[node] for node in taken), default=1.0)
        assert all(of_sequence.p[node] <= least for node in left)
        assert plan.n_expected == pytest.approx(sum(of_sequence.p[node] for node in taken))


@given(guesses_of_trees, guesses_of_trees, cost_curves())
def test_sequences_beside_that_guess_nothing_are_counted(
    one: Candidates, other: Candidates, curve: CostCurve
) -> None:
    nothing = chain_guesses([], [])
    counted = Planner(curve).plan([one, other], [0, 300, 5, 60])
    written_out = Planner(curve).plan([one, other, nothing, nothing], [0, 300, 5, 60])
    assert [plan.nodes for plan in counted] == [plan.nodes for plan in written_out[:2]]
    assert counted[0].choice == written_out[0].choice


@given(guesses_of_trees, cost_curves())
def test_having_guesses_never_costs_time(candidates: Candidates, curve: CostCurve) -> None:
    planner, nothing = Planner(curve), chain_guesses([], [])
    (plan,) = planner.plan([candidates], [0])
    gain_s = planner.gain_s(candidates, nothing, n_read=0)
    assert gain_s >= -EXACT
    assert plan.nodes or gain_s == pytest.approx(0.0, abs=EXACT)
    assert planner.gain_s(candidates, candidates, n_read=0) == pytest.approx(0.0, abs=EXACT)


def test_long_text_makes_guesses_cheap_beside_it() -> None:
    curve = CostCurve([float(knot) for knot in KNOTS], TextCost(0.1, 0.0, 0.0, 0.0))
    candidates = chain_guesses([1, 2, 3, 4], [0.6, 0.4, 0.3, 0.2])
    sizes = [
        len(Planner(curve).plan([candidates], [n_read])[0].nodes) for n_read in (0, 10, 100, 10_000)
    ]
    assert sizes == sorted(sizes)
    assert sizes[0] == 0
    assert sizes[-1] == 4


@given(cost_curves(), st.integers(1, 8), st.integers(0, 16_000))
def test_what_is_not_worth_searching_for_is_less_likely_than_what_pays(
    curve: CostCurve, n_sequences: int, n_seen: int
) -> None:
    seen = [n_seen] * n_sequences
    least_p = Planner(curve).least_p(seen)
    assert 0.0 <= least_p <= 1.0
    alone = [[least_p]] + [[] for _ in range(n_sequences - 1)]
    costs = curve.pass_s(n_sequences + 1, sum(seen), sum(seen))
    choice = choose(alone, costs, node_s=[curve.attend_s(n_seen)] * n_sequences)
    assert choice.sizes[0] == 0 or least_p == 0.0
