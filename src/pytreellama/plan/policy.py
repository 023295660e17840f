"""DraftPolicy: the planned step, from which requests draft to what is learned of the pass."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pytreellama.plan.budget import DrafterBudget
from pytreellama.plan.cost import PassCost
from pytreellama.plan.gate import DraftGate
from pytreellama.plan.planner import Plan, Planner
from pytreellama.tree import TokenTree
from pytreellama.tree.candidates import Candidates
from pytreellama.tree.grown import NOTHING, Grown

_NOTHING_DRAFTED = NOTHING.tree()


class RequestDrafters(Protocol):
    """The drafters of one request, as ``draft.AutoDrafter`` has them."""

    @property
    def n_drafters(self) -> int:
        """How many there are."""
        ...

    @property
    def n_top(self) -> int:
        """Likeliest tokens of each row of a pass that they observe; 0 for none."""
        ...

    def pause(self, drafts_next: bool) -> None:
        """Keep what is observed until ``resume``; no draft is asked for at this step.

        Args:
            drafts_next: one is going to be asked for at the next.
        """
        ...

    def resume(self) -> None:
        """Observe what was committed during a pause."""
        ...

    def announce_to(self, drafter: int, n_nodes: int, min_p: float, token_s: float) -> bool:
        """Announce that one drafter will be asked; True if its drafts share passes.

        Args:
            token_s: seconds that an accepted token saves.
        """
        ...

    def ask(self, drafter: int, n_nodes: int, min_p: float) -> Grown:
        """The draft of one drafter, of at most so many nodes.

        Args:
            min_p: nodes with a lower path probability need not be searched for.
        """
        ...

    def combine(self, drafts: Sequence[Grown]) -> Candidates:
        """The union of drafts, one of each drafter, with estimates of their acceptance."""
        ...

    def expect(self, candidates: Candidates) -> None:
        """Learn from what is observed next which of these were accepted."""
        ...


@dataclass(slots=True, eq=False)
class PlannedRequest:
    """What the policy keeps of one request, and what came of the request's last step.

    Attributes:
        drafters: the request's own.
        gate: whether it drafts at a step.
        excluded: drafters that are not asked.
        root: the last token of its text, where the tree begins. The caller sets it.
        n_cells: KV-cache cells that each node attends to. The caller sets it.
        plan: what was chosen; None if the request was not drafted for.
        n_top: likeliest tokens of each row of the pass that the drafters observe.
        draft_s, plan_s: seconds of drafting, and this request's share of planning.
        error: what a drafter raised; the tree is then the root alone.
    """

    drafters: RequestDrafters
    gate: DraftGate = field(default_factory=DraftGate)
    excluded: frozenset[int] = frozenset()
    root: int = 0
    n_cells: int = 0
    plan: Plan | None = None
    n_top: int = 0
    draft_s: float = 0.0
    plan_s: float = 0.0
    error: BaseException | None = None


_SharedSeconds = dict[int, list[tuple[PlannedRequest, float]]]
"""Of each drafter whose asks share passes, what each request's ask took."""


@dataclass(slots=True)
class _Draft:
    """What the drafters of one request came up with.

    Attributes:
        asked: the drafters that were asked.
        by_drafter: the draft of each, empty where it was not asked.
        spent_s: seconds that the drafters took.
    """

    candidates: Candidates
    asked: Sequence[int] = ()
    by_drafter: Sequence[Grown] = ()
    spent_s: float = 0.0


class DraftPolicy:
    """Decides for all requests of a pass who drafts, with which drafters, and what is verified.

    One step, in this order: each request's gate says whether it drafts; drafters of those that do
    catch up with the text; drafters within their budget are asked; the planner chooses the trees of
    all requests together; budgets and gates learn what the step is expected to save. After the
    pass, ``learn`` corrects the planner's costs. Which candidates were accepted is learned where
    the drafters observe the committed text.

    A drafter that raises fails its own request alone; see ``PlannedRequest.error``.

    Args:
        planner: chooses trees by cost.
        budget: of the drafters, which all requests have in the same order.
        clock: seconds, for what drafting and planning take.

    Example:
        policy = DraftPolicy(Planner(curve), DrafterBudget(n_drafters=2))
        trees = policy.step([request], rooms=[64])
        policy.learn([request], [len(trees[0])], pass_s)
    """

    def __init__(
        self,
        planner: Planner,
        budget: DrafterBudget,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.planner = planner
        self.budget = budget
        self._clock = clock

    def step(
        self,
        requests: Sequence[PlannedRequest],
        rooms: Sequence[int],
        n_shared_cells: int = 0,
    ) -> list[TokenTree]:
        """The tree that each request verifies in the next pass; node 0 is its root.

        Args:
            requests: all of the pass, with ``root`` and ``n_cells`` set.
            rooms: maximum number of draft nodes of each, excluding the root; 0 or less to skip
                drafting.
            n_shared_cells: of the cells that requests attend to, those that the pass reads once
                for several of them.
        """
        drafting: list[PlannedRequest] = []
        plain: list[PlannedRequest] = []
        drafting_rooms: list[int] = []
        for request, room in zip(requests, rooms, strict=True):
            request.plan, request.error = None, None
            request.draft_s = request.plan_s = 0.0
            if room > 0 and request.gate.opens():
                drafting.append(request)
                drafting_rooms.append(room)
            else:
                request.drafters.pause(request.gate.opens_next)
                request.n_top = 0
                plain.append(request)
        if drafting:
            self._plan(drafting, drafting_rooms, plain, n_shared_cells)
        return [self._tree(request) for request in requests]

    def learn(
        self,
        requests: Sequence[PlannedRequest],
        n_nodes: Sequence[int],
        pass_s: float,
        n_shared_cells: int = 0,
    ) -> None:
        """Learn what a pass took.

        Args:
            requests: those whose trees were verified.
            n_nodes: of each tree, its root included.
            pass_s: seconds of the pass and of the verification.
            n_shared_cells: as in ``step``, of these requests.
        """
        cells = [request.n_cells for request in requests]
        n_attended = sum(n * seen for n, seen in zip(n_nodes, cells, strict=True))
        n_read = sum(cells) - n_shared_cells
        self.planner.learn(PassCost(sum(n_nodes), n_read, pass_s, n_attended, len(cells)))
        self.budget.earn(pass_s)

    def _plan(
        self,
        drafting: Sequence[PlannedRequest],
        rooms: Sequence[int],
        plain: Sequence[PlannedRequest],
        n_shared_cells: int,
    ) -> None:
        cells = [request.n_cells for request in drafting]
        cells += [request.n_cells for request in plain]
        min_p = self.planner.least_p(cells)
        for request in drafting:
            self._resume(request)
        started_s = self._clock()
        shared = self._announce(drafting, rooms, min_p, self.planner.token_s(cells))
        drafts = [
            self._draft(request, room, min_p, shared)
            for request, room in zip(drafting, rooms, strict=True)
        ]
        self._share_out(drafting, drafts, shared)
        drafted_s = self._clock()
        candidates = [draft.candidates for draft in drafts]
        spent_s = drafted_s - started_s
        plans = self.planner.plan(candidates, cells, spent_s, rooms, n_shared_cells)
        planned_s = (self._clock() - drafted_s) / len(drafting)
        for request, draft, plan in zip(drafting, drafts, plans, strict=True):
            request.plan, request.plan_s = plan, planned_s
            self._judge(request, draft)
            request.gate.learn(plan.saved_s, draft.spent_s + planned_s)

    def _resume(self, request: PlannedRequest) -> None:
        """Catching up with the text is not part of what this step's draft costs."""
        started_s = self._clock()
        try:
            request.drafters.resume()
        except BaseException as error:  # it is this request's own
            request.error = error
        request.n_top = request.drafters.n_top
        request.draft_s += self._clock() - started_s

    def _announce(
        self,
        drafting: Sequence[PlannedRequest],
        rooms: Sequence[int],
        min_p: float,
        token_s: float,
    ) -> _SharedSeconds:
        """Let drafters that share passes know of all that will be asked of them at this step."""
        shared: _SharedSeconds = {}
        for request, room in zip(drafting, rooms, strict=True):
            if request.error is not None:
                continue
            for i in self._allowed(request):
                if request.drafters.announce_to(i, room, min_p, token_s):
                    shared[i] = []
        return shared

    def _allowed(self, request: PlannedRequest) -> list[int]:
        """The drafters that a request has and that pay."""
        numbers = range(request.drafters.n_drafters)
        return [i for i in numbers if i not in request.excluded and self.budget.allows(i)]

    def _share_out(
        self,
        drafting: Sequence[PlannedRequest],
        drafts: Sequence[_Draft],
        shared: _SharedSeconds,
    ) -> None:
        """Let each request bear its share of the passes that its drafters shared."""
        draft_of = dict(zip(map(id, drafting), drafts, strict=True))
        for i, asks in shared.items():
            if not asks:
                continue
            share_s = sum(spent_s for _, spent_s in asks) / len(asks)
            self.budget.learn_cost(i, share_s, len(asks))
            for request, spent_s in asks:
                request.draft_s += share_s - spent_s
                draft_of[id(request)].spent_s += share_s - spent_s

    def _draft(
        self, request: PlannedRequest, room: int, min_p: float, shared: _SharedSeconds
    ) -> _Draft:
        if request.error is not None:
            return _Draft(Candidates.of([]))
        drafters = request.drafters
        started_s = self._clock()
        asked = self._allowed(request)
        by_drafter = [NOTHING] * drafters.n_drafters
        try:
            for i in asked:
                by_drafter[i] = self._ask(request, i, room, min_p, shared)
            candidates = drafters.combine(by_drafter)
            drafters.expect(candidates)
        except BaseException as error:  # it is this request's own
            request.error = error
            candidates = Candidates.of([])
        spent_s = self._clock() - started_s
        request.draft_s += spent_s
        return _Draft(candidates, asked, by_drafter, spent_s)

    def _ask(
        self,
        request: PlannedRequest,
        i: int,
        room: int,
        min_p: float,
        shared: _SharedSeconds,
    ) -> Grown:
        started_s = self._clock()
        tree = request.drafters.ask(i, self.planner.n_asked(room), min_p)
        spent_s = self._clock() - started_s
        if i in shared:
            shared[i].append((request, spent_s))  # the first of them bears the pass of all
        else:
            self.budget.learn_cost(i, spent_s)
        return tree

    def _judge(self, request: PlannedRequest, draft: _Draft) -> None:
        """Now and then, learn what asking a drafter is expected to save at this step."""
        if request.error is not None:
            return
        for i in draft.asked:
            if self.budget.is_judged(i):
                others = list(draft.by_drafter)
                others[i] = NOTHING
                less = request.drafters.combine(others)
                gain_s = self.planner.gain_s(draft.candidates, less, request.n_cells)
                self.budget.learn_gain(i, gain_s)

    def _tree(self, request: PlannedRequest) -> TokenTree:
        plan = request.plan
        if plan is None or not plan.nodes or request.error is not None:
            return _NOTHING_DRAFTED.with_root(request.root)
        started_s = self._clock()
        try:
            return plan.tree(request.root)
        except BaseException as error:  # it is this request's own: no drafts make such a tree
            request.error = error
            return _NOTHING_DRAFTED.with_root(request.root)
        finally:
            request.draft_s += self._clock() - started_s
