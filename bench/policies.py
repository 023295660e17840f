"""Policies that the simulator replays: the engine's own, fixed sizes, and foresight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pytreellama.draft import DRAFTERS, Auto, AutoDrafter
from pytreellama.plan import (
    Candidates,
    CostCurve,
    DrafterBudget,
    DraftPolicy,
    PassCost,
    PlannedRequest,
    Planner,
)
from pytreellama.tree import TokenTree
from pytreellama.tree.grown import Grown

N_DRAFT = 64
MIN_P = 0.005


@dataclass(frozen=True)
class DraftingCost:
    """Seconds that drafting takes: for each drafter asked, and each node found."""

    ask_s: float
    node_s: float

    def seconds(self, n_asked: int, n_nodes: int) -> float:
        return self.ask_s * n_asked + self.node_s * n_nodes


@dataclass(frozen=True)
class Drafted:
    """What one step verifies.

    Attributes:
        tree: node 0 is the last token of the text.
        seconds: that drafting took.
        guesses: what it was chosen from, if drafters were asked.
        seen: whose rows drafters learn from, if they learn from more than is verified.
    """

    tree: TokenTree
    seconds: float = 0.0
    candidates: Candidates | None = None
    seen: TokenTree | None = None


class Policy(Protocol):
    """Decides what is verified."""

    def begin(self) -> AutoDrafter:
        """The drafters of the next answer."""
        ...

    def drafted(self, root: int, n_read: int, ahead: list[int]) -> Drafted:
        """What to verify behind so much text; `ahead` is how the text will go on."""
        ...

    def learn(self, done: PassCost) -> None:
        """Hear what the pass took."""
        ...


def lone_root(root: int) -> TokenTree:
    return TokenTree([root], [-1], [1.0])


def auto_of(drafters: Sequence[str] | Auto) -> Auto:
    """The factory of drafters with these names, or that which is given."""
    return drafters if isinstance(drafters, Auto) else Auto(*(DRAFTERS[n]() for n in drafters))


class SimulatedClock:
    """Seconds that only simulated work moves on."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def restart(self) -> None:
        self.now_s = 0.0


class TimedDrafters:
    """An answer's drafters, which take the time that the simulation says."""

    def __init__(self, drafters: AutoDrafter, cost: DraftingCost, clock: SimulatedClock) -> None:
        self._drafters, self._cost, self._clock = drafters, cost, clock
        self.n_drafters, self.n_top = drafters.n_drafters, drafters.n_top
        self.pause, self.resume, self.expect = drafters.pause, drafters.resume, drafters.expect
        self.announce_to = drafters.announce_to

    def ask(self, drafter: int, n_nodes: int, min_p: float) -> Grown:
        self._clock.now_s += self._cost.ask_s
        return self._drafters.ask(drafter, n_nodes, min_p)

    def combine(self, drafts: Sequence[Grown]) -> Candidates:
        candidates = self._drafters.combine(drafts)
        self._clock.now_s += self._cost.node_s * len(candidates)
        return candidates


class Planned:
    """The policy of an engine that plans its trees, on a simulated clock."""

    def __init__(
        self,
        drafters: Sequence[str] | Auto,
        curve: CostCurve,
        cost: DraftingCost,
        clock: SimulatedClock | None = None,
    ) -> None:
        self._auto = auto_of(drafters)
        self._cost = cost
        self._clock = clock or SimulatedClock()
        planner = Planner(CostCurve.from_dict(curve.to_dict()))
        self._policy = DraftPolicy(planner, DrafterBudget(self._auto.n_drafters), self._clock)

    def begin(self) -> AutoDrafter:
        drafters = self._auto()
        self._request = PlannedRequest(TimedDrafters(drafters, self._cost, self._clock))
        return drafters

    def drafted(self, root: int, n_read: int, ahead: list[int]) -> Drafted:
        request = self._request
        self._clock.restart()  # so that differences are exact
        request.root, request.n_cells = root, n_read
        (tree,) = self._policy.step([request], [N_DRAFT])
        if request.error is not None:
            raise request.error
        candidates = None if request.plan is None else request.plan.candidates
        return Drafted(tree, request.draft_s + request.plan_s, candidates)

    def learn(self, done: PassCost) -> None:
        self._request.n_cells = done.n_read
        self._policy.learn([self._request], [done.n_nodes], done.seconds)


class AskingAll:
    """What policies have in common that ask all drafters at every step."""

    def __init__(self, drafters: Sequence[str]) -> None:
        self._auto = auto_of(drafters)

    def begin(self) -> AutoDrafter:
        self._drafters = self._auto()
        return self._drafters

    def candidates(self, n_nodes: int) -> Candidates:
        drafters = self._drafters
        drafts = [drafters.ask(i, n_nodes, MIN_P) for i in range(drafters.n_drafters)]
        candidates = drafters.combine(drafts)
        drafters.expect(candidates)
        return candidates

    def learn(self, done: PassCost) -> None:
        """What passes cost makes no difference."""


class Fixed(AskingAll):
    """So many of the likeliest guesses at every step."""

    def __init__(self, drafters: Sequence[str], n_nodes: int, cost: DraftingCost) -> None:
        super().__init__(drafters)
        self._n_nodes = n_nodes
        self._cost = cost

    def drafted(self, root: int, n_read: int, ahead: list[int]) -> Drafted:
        if not self._n_nodes:
            return Drafted(lone_root(root))
        candidates = self.candidates(self._n_nodes)
        nodes = candidates.by_p()[: self._n_nodes]
        seconds = self._cost.seconds(self._drafters.n_drafters, len(candidates))
        return Drafted(candidates.tree(nodes, root), seconds, candidates)


class Foresight(AskingAll):
    """Those guesses alone that come true, as many as pay; its drafters learn from all guesses."""

    def __init__(self, drafters: Sequence[str], curve: CostCurve) -> None:
        super().__init__(drafters)
        self._curve = curve

    def drafted(self, root: int, n_read: int, ahead: list[int]) -> Drafted:
        candidates = self.candidates(N_DRAFT)
        true = candidates.path(ahead[:-1])
        costs = self._curve.pass_s(1 + len(true), n_read)
        best = max(range(1 + len(true)), key=lambda n: (1 + n) / costs[1 + n])
        seen = candidates.tree(range(len(candidates)), root)
        return Drafted(candidates.tree(true[:best], root), 0.0, candidates, seen)
