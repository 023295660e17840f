"""The planned step by itself: drafters that follow a script, and a clock that they move."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planning import ASK_S, COMBINE_S, RESUME_S, Clock, Scripted, chain, cost_curves
from pytreellama.errors import DraftError
from pytreellama.plan import (
    CostCurve,
    DrafterBudget,
    DraftPolicy,
    PassCost,
    PlannedRequest,
    Planner,
)
from pytreellama.tree import TokenTree
from pytreellama.tree.grown import NOTHING, Grown

PASS_S = 0.01
PLAN_S = 2.0**-14
ROOT = 7


SURE, HOPELESS = chain([1, 2, 3, 4], 0.95), chain([5, 6], 0.004)


class TimedPlanner(Planner):
    """Takes its time, and keeps what it was told of passes."""

    plan_s = PLAN_S

    def __init__(self, clock: Clock, curve: CostCurve) -> None:
        super().__init__(curve)
        self._clock = clock
        self.seen: list[list[int]] = []
        self.spent_s: list[float] = []
        self.done: list[PassCost] = []

    def plan(self, candidates: Any, seen: Any, spent_s: Any, *rest: Any) -> Any:  # type: ignore[override]
        self._clock.now_s += self.plan_s
        self.seen.append(list(seen))
        self.spent_s.append(spent_s)
        return super().plan(candidates, seen, spent_s, *rest)

    def learn(self, done: PassCost) -> None:
        self.done.append(done)
        super().learn(done)


class Bench:
    """A policy on a machine where a node more costs so many plain passes."""

    def __init__(self, price: float = 0.1, n_drafters: int = 2) -> None:
        self.clock = Clock()
        passes = [PassCost(n, 0, PASS_S * (1 + price * (n - 1))) for n in (1, 2, 4, 64)]
        self.planner = TimedPlanner(self.clock, CostCurve.fit(passes))
        self.policy = DraftPolicy(self.planner, DrafterBudget(n_drafters), self.clock)

    def request(self, *drafts: Grown, n_cells: int = 0, **options: Any) -> PlannedRequest:
        drafters = Scripted(self.clock, drafts or (SURE, HOPELESS), **options)
        return PlannedRequest(drafters, root=ROOT, n_cells=n_cells)

    def step(self, *requests: PlannedRequest, rooms: Sequence[int] = ()) -> list[TokenTree]:
        """One step, and a pass that takes what a plain one does."""
        trees = self.policy.step(requests, rooms or [64] * len(requests))
        self.policy.learn(requests, [len(tree) for tree in trees], PASS_S)
        return trees


def log_of(request: PlannedRequest) -> list[tuple[object, ...]]:
    assert isinstance(request.drafters, Scripted)
    return request.drafters.log


def path_of(tree: TokenTree) -> list[int]:
    return tree.tokens.tolist()


# -- what is verified


def test_the_likeliest_candidates_are_verified_below_the_root() -> None:
    bench = Bench()
    request = bench.request()
    (tree,) = bench.step(request)
    assert path_of(tree) == [ROOT, 1, 2, 3, 4]
    assert request.plan is not None and request.error is None
    assert request.n_top == 3


def test_nothing_is_verified_where_nodes_cost_too_much() -> None:
    bench = Bench(price=1.0)
    assert path_of(*bench.step(bench.request())) == [ROOT]


@pytest.mark.parametrize("room", [-1, 0])
def test_without_room_no_drafter_is_asked_and_the_gate_stays_as_it_is(room: int) -> None:
    bench = Bench()
    request = bench.request()
    bench.step(request)
    log_of(request).clear()
    for _ in range(20):
        assert path_of(*bench.step(request, rooms=[room])) == [ROOT]
    assert log_of(request) == [("pause", True)] * 20
    assert (request.plan, request.n_top) == (None, 0)


def test_steps_without_room_do_not_count_as_backoff() -> None:
    bench = Bench(price=1.0, n_drafters=1)
    request = bench.request(HOPELESS)
    while not request.gate.is_backing_off:
        bench.step(request)
    for _ in range(20):
        bench.step(request, rooms=[0])
        assert not request.gate.opens_next


drafts = st.integers(0, 6).flatmap(
    lambda n: st.builds(chain, st.just(range(n)), st.floats(0.0, 1.0))
)
requests_of_drafts = st.lists(
    st.tuples(drafts, drafts, st.integers(-1, 8), st.integers(0, 5000)), min_size=1, max_size=5
)


@given(requests_of_drafts, cost_curves())
def test_trees_are_no_larger_than_their_rooms_and_made_of_drafts(
    shapes: list[tuple[Grown, Grown, int, int]], curve: CostCurve
) -> None:
    clock = Clock()
    policy = DraftPolicy(Planner(curve), DrafterBudget(2), clock)
    requests = [
        PlannedRequest(Scripted(clock, shape[:2]), root=i, n_cells=shape[3])
        for i, shape in enumerate(shapes)
    ]
    rooms = [shape[2] for shape in shapes]
    for _ in range(3):
        trees = policy.step(requests, rooms)
        for request, tree, room, (one, other, *_) in zip(
            requests, trees, rooms, shapes, strict=True
        ):
            assert request.error is None
            assert tree.tokens[0] == request.root
            assert len(tree) - 1 <= min(max(room, 0), max(len(one.p), len(other.p)))
            assert path_of(tree)[1:] == list(range(len(tree) - 1))
        policy.learn(requests, [len(tree) for tree in trees], 0.01)


@given(requests_of_drafts, cost_curves())
def test_a_step_is_a_function_of_drafts_costs_and_clock(
    shapes: list[tuple[Grown, Grown, int, int]], curve: CostCurve
) -> None:
    runs = []
    for _ in range(2):
        clock = Clock()
        planner = Planner(CostCurve.from_dict(curve.to_dict()))
        policy = DraftPolicy(planner, DrafterBudget(2), clock)
        requests = [PlannedRequest(Scripted(clock, s[:2]), n_cells=s[3]) for s in shapes]
        trees = []
        for _ in range(4):
            trees += policy.step(requests, [shape[2] for shape in shapes])
            policy.learn(requests, [len(tree) for tree in trees[-len(requests) :]], 0.01)
        runs.append((trees, policy.budget.to_dicts(), planner.curve.to_dict()))
    assert runs[0] == runs[1]


# -- who is asked, and when


def test_drafters_catch_up_before_they_are_asked_and_one_draft_is_learned_from() -> None:
    bench = Bench()
    request = bench.request()
    bench.step(request)
    assert log_of(request)[:5] == [
        ("resume",),
        ("ask", 0),
        ("ask", 1),
        ("combine", 2),
        ("expect", 6),
    ]
    assert [what[0] for what in log_of(request)].count("expect") == 1


def test_a_judged_drafter_is_weighed_by_the_draft_without_it() -> None:
    bench = Bench()
    request = bench.request()
    bench.step(request)
    assert log_of(request)[5:] == [("combine", 1), ("combine", 1)]
    sure, hopeless = bench.policy.budget.to_dicts()
    assert sure["gain_s"] > PASS_S / 2
    assert hopeless["gain_s"] == 0.0


def test_a_drafter_that_brings_nothing_is_soon_asked_out_of_a_small_share_of_the_time() -> None:
    bench = Bench()
    ask_s = PASS_S / 4
    request = bench.request(ask_s=ask_s)
    for _ in range(500):
        bench.step(request)
    asks = [what[1] for what in log_of(request) if what[0] == "ask"]
    assert asks.count(0) == 500
    assert 10 < asks.count(1) <= 4 + 0.02 * 500 * PASS_S / ask_s


def test_a_drafter_that_pays_is_judged_at_a_few_steps() -> None:
    bench = Bench(n_drafters=1)
    request = bench.request(SURE)
    for _ in range(320):
        bench.step(request)
    n_judged = [what for what in log_of(request) if what[0] == "combine"].count(("combine", 0))
    assert 320 / 32 < n_judged < 320 / 8


def test_a_request_whose_drafts_do_not_pay_backs_off() -> None:
    bench = Bench(price=1.0, n_drafters=1)
    request = bench.request(HOPELESS)
    for _ in range(500):
        bench.step(request)
    verbs = [what[0] for what in log_of(request)]
    assert 500 / 20 < verbs.count("resume") < 500 / 6
    assert verbs.count("resume") + verbs.count("pause") == 500
    assert request.gate.is_backing_off


def test_a_pause_foretells_whether_the_next_step_drafts() -> None:
    bench = Bench(price=1.0, n_drafters=1)
    request = bench.request(HOPELESS)
    for _ in range(200):
        bench.step(request)
    steps = [what for what in log_of(request) if what[0] in ("pause", "resume")]
    foretold = [what[1] for what in steps[:-1] if what[0] == "pause"]
    came = [
        after[0] == "resume" for before, after in itertools.pairwise(steps) if before[0] == "pause"
    ]
    assert foretold == came
    assert set(came) == {True, False}


def test_gates_are_each_requests_own_and_budgets_are_common() -> None:
    bench = Bench(price=0.3, n_drafters=1)
    good, bad = bench.request(SURE), bench.request(NOTHING)
    for _ in range(100):
        _, bad_tree = bench.step(good, bad)
        assert len(bad_tree) == 1
    assert bad.gate.is_backing_off and not good.gate.is_backing_off
    (known,) = bench.policy.budget.to_dicts()
    n_asked = sum(what[0] == "ask" for one in (good, bad) for what in log_of(one))
    assert known["n_asked"] == n_asked


# -- what is timed, and learned


def test_the_clock_says_what_asking_drafting_and_planning_take() -> None:
    bench = Bench()
    requests = [bench.request() for _ in range(2)]
    bench.step(*requests)
    assert [known["cost_s"] for known in bench.policy.budget.to_dicts()] == [ASK_S] * 2
    for request in requests:
        assert request.draft_s == RESUME_S + 2 * ASK_S + COMBINE_S
        assert request.plan_s == PLAN_S / 2
    assert bench.planner.spent_s == [2 * (2 * ASK_S + COMBINE_S)], "without catching up"
    bench.step(*requests, rooms=[0, 0])
    assert [(request.draft_s, request.plan_s) for request in requests] == [(0.0, 0.0)] * 2


@pytest.mark.parametrize("ask_s", [ASK_S, 8 * PASS_S])
def test_drafting_counts_against_the_gate_and_catching_up_does_not(ask_s: float) -> None:
    bench = Bench(n_drafters=1)
    request = bench.request(chain([1], 0.6), ask_s=ask_s, resume_s=8 * PASS_S)
    for _ in range(10):
        bench.step(request)
    assert request.gate.is_backing_off is (ask_s > PASS_S)


@pytest.mark.parametrize("plan_s", [PLAN_S, 8 * PASS_S])
def test_planning_counts_against_the_gate(plan_s: float) -> None:
    bench = Bench(n_drafters=1)
    bench.planner.plan_s = plan_s
    request = bench.request(chain([1], 0.6))
    for _ in range(10):
        bench.step(request)
    assert request.gate.is_backing_off is (plan_s > PASS_S)


@given(
    st.lists(st.tuples(st.integers(0, 9000), st.integers(1, 30)), min_size=1, max_size=6),
    st.integers(0, 1000),
)
def test_a_pass_costs_what_its_requests_read_and_attend_to(
    sizes: list[tuple[int, int]], n_shared: int
) -> None:
    bench = Bench()
    requests = [bench.request(n_cells=cells) for cells, _ in sizes]
    bench.policy.learn(requests, [n for _, n in sizes], PASS_S, n_shared)
    (done,) = bench.planner.done
    assert done == PassCost(
        n_nodes=sum(n for _, n in sizes),
        n_read=sum(cells for cells, _ in sizes) - n_shared,
        seconds=PASS_S,
        n_attended=sum(n * cells for cells, n in sizes),
        n_sequences=len(sizes),
    )


def test_requests_that_do_not_draft_are_part_of_the_plan() -> None:
    bench = Bench()
    requests = [bench.request(n_cells=n) for n in (10, 20, 30)]
    bench.step(*requests, rooms=[0, 64, -1])
    assert bench.planner.seen == [[20, 10, 30]]
    bench.step(*requests, rooms=[0, 0, 0])
    assert len(bench.planner.seen) == 1, "there was nothing to plan"


# -- drafters that fail

FAULTS: dict[str, Callable[[Bench], PlannedRequest]] = {
    "resume": lambda bench: bench.request(fault=("resume", ValueError)),
    "ask": lambda bench: bench.request(fault=("ask", ValueError)),
    "combine": lambda bench: bench.request(fault=("combine", KeyboardInterrupt)),
    "expect": lambda bench: bench.request(fault=("expect", ValueError)),
    "no such token": lambda bench: bench.request(chain([-5, -6], 0.95), SURE),
}


@pytest.mark.parametrize("where", FAULTS)
def test_a_drafter_that_fails_ends_its_own_request_alone(where: str) -> None:
    bench, beside = Bench(), Bench()
    bad, good = FAULTS[where](bench), bench.request()
    bad_tree, good_tree = bench.step(bad, good)
    assert bad.error is not None
    assert path_of(bad_tree) == [ROOT]
    assert good.error is None
    plain, expected = beside.step(beside.request(), beside.request(), rooms=[0, 64])
    assert len(plain) == 1
    assert good_tree == expected


def test_a_drafter_that_cannot_catch_up_is_not_asked() -> None:
    bench = Bench()
    request = bench.request(fault=("resume", ValueError))
    bench.step(request)
    assert log_of(request) == [("resume",)]


def test_an_error_is_told_once() -> None:
    bench = Bench()
    request = bench.request(fault=("ask", DraftError))
    bench.step(request)
    assert isinstance(request.error, DraftError)
    bench.step(request, rooms=[0])
    assert request.error is None


def test_what_a_failed_draft_would_have_saved_is_not_held_against_its_drafters() -> None:
    bench = Bench()
    bench.step(bench.request(fault=("expect", ValueError)))
    assert [known["gain_s"] for known in bench.policy.budget.to_dicts()] == [0.0, 0.0]


# -- what it stands on

ALONE = """
import sys
import pytreellama.plan
loaded = {name.split(".")[1] for name in sys.modules if name.startswith("pytreellama.")}
assert loaded <= {"plan", "tree", "errors"}, loaded
"""


def test_planning_needs_trees_alone() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ALONE], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


# -- drafters that share passes


def test_requests_whose_drafters_share_a_pass_bear_it_together() -> None:
    """The first that is asked waits for the pass of all."""
    bench = Bench(n_drafters=1)
    requests = [bench.request(SURE, ask_s=ask_s) for ask_s in (4 * ASK_S, 0.0, 0.0, 0.0)]
    for request in requests:
        assert isinstance(request.drafters, Scripted)
        request.drafters.shares.add(0)
    bench.step(*requests)
    (known,) = bench.policy.budget.to_dicts()
    assert known["cost_s"] == ASK_S
    assert known["n_asked"] == 1
    assert {request.draft_s for request in requests} == {RESUME_S + ASK_S + COMBINE_S}


def test_drafters_are_told_what_a_token_is_worth() -> None:
    bench = Bench(n_drafters=2)
    requests = [bench.request(), bench.request()]
    token_s = bench.planner.curve.seconds(2, 0, 0) / 2
    bench.step(*requests)
    for request in requests:
        assert isinstance(request.drafters, Scripted)
        assert request.drafters.announced == [(0, token_s), (1, token_s)]


def test_drafters_without_a_budget_are_not_announced_to() -> None:
    bench = Bench(n_drafters=1)
    request = bench.request(HOPELESS, ask_s=PASS_S)
    assert isinstance(request.drafters, Scripted)
    for _ in range(20):
        bench.step(request)
    n_asked = sum(what[0] == "ask" for what in log_of(request))
    assert len(request.drafters.announced) == n_asked < 10
