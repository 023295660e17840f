"""Chains and trees of a fixed size: what an engine verifies, and what a replay counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from policies import MIN_P, Drafted, DraftingCost, SimulatedClock
from pytreellama.draft import AutoDrafter, Drafter, DrafterFactory
from pytreellama.draft.acceptance import Acceptance
from pytreellama.draft.several import SeveralFactories
from pytreellama.plan import Candidates, CostCurve, PassCost
from pytreellama.tree import TokenTree

CHAIN_WIDTH = 4  # candidates that are asked for, for each node of a chain
TABLES = DraftingCost(ask_s=5e-5, node_s=1e-5)  # of suffix and recycling: docs/planning.md


@dataclass(frozen=True)
class Shape:
    """So many of the likeliest nodes, or the likeliest path of at most so many.

    Attributes:
        n_levels: that a draft model grows, a pass each; 0 without one.
    """

    n_nodes: int
    n_levels: int
    is_chain: bool = False

    @property
    def n_asked(self) -> int:
        """Nodes that each drafter is asked for."""
        return self.n_nodes * (CHAIN_WIDTH if self.is_chain else 1)

    def nodes(self, candidates: Candidates) -> list[int]:
        if self.is_chain:
            return candidates.likeliest_chain(self.n_nodes)
        return candidates.by_p()[: self.n_nodes]

    def __str__(self) -> str:
        if self.is_chain:
            return f"chain of {self.n_nodes}"
        levels = f", {self.n_levels} levels" if self.n_levels else ""
        return f"tree of {self.n_nodes}{levels}"


class ShapedDrafter(AutoDrafter):
    """Several drafters, whose candidates become one chain or tree, whether it pays or not."""

    name = "shaped"

    def __init__(self, drafters: Sequence[Drafter], acceptance: Acceptance, shape: Shape) -> None:
        super().__init__(drafters, acceptance)
        self._shape = shape

    def candidates(self) -> Candidates:
        """Of the next step; the drafters learn which of them come."""
        asks = [self.ask(i, self._shape.n_asked, MIN_P) for i in range(self.n_drafters)]
        candidates = self.combine(asks)
        self.expect(candidates)
        return candidates

    def propose(self, n_nodes: int) -> TokenTree:
        candidates = self.candidates()
        return candidates.tree(self._shape.nodes(candidates))


class ShapedFactory(SeveralFactories):
    """Factory of shaped drafters, for an engine that does not plan."""

    def __init__(self, factories: Sequence[DrafterFactory], shape: Shape) -> None:
        super().__init__(factories, "draft with")
        self.shape = shape
        self._acceptance = Acceptance(len(factories))

    def __call__(self) -> ShapedDrafter:
        return ShapedDrafter(self._new_drafters(), self._acceptance, self.shape)


# -- what a replay counts


@dataclass(frozen=True)
class Costs:
    """What a machine takes.

    Attributes:
        curve: of the target's passes.
        pass_s: of a draft model's pass, by ``proposals.pass_name``; of heads, of a proposal.
    """

    curve: CostCurve
    pass_s: Mapping[str, float]

    def drafting_s(self, passes: Mapping[str, int]) -> float:
        return sum(n * self.pass_s[name] for name, n in passes.items())


@dataclass(frozen=True)
class Step:
    """One pass of the target, and the drafting before it."""

    n_nodes: int
    n_read: int
    table_s: float
    passes: Mapping[str, int]

    def seconds(self, costs: Costs) -> float:
        drafting_s = self.table_s + costs.drafting_s(self.passes)
        return costs.curve.seconds(self.n_nodes, self.n_read) + drafting_s


class Shaped:
    """The policy of one shape; keeps its steps, whose seconds follow for any machine.

    Args:
        passes: counts those of replayed drafters.
    """

    def __init__(self, new_drafter: ShapedFactory, n_tables: int, passes: Counter[str]) -> None:
        self._new_drafter, self._n_tables, self._passes = new_drafter, n_tables, passes
        self.steps: list[Step] = []
        self._drafting: tuple[float, Mapping[str, int]] = (0.0, {})

    def begin(self) -> AutoDrafter:
        self._drafter = self._new_drafter()
        return self._drafter

    def drafted(self, root: int, n_read: int, ahead: list[int]) -> Drafted:
        self._passes.clear()
        candidates = self._drafter.candidates()
        table_s = TABLES.seconds(self._n_tables, len(candidates)) if self._n_tables else 0.0
        self._drafting = table_s, dict(self._passes)
        nodes = self._new_drafter.shape.nodes(candidates)
        return Drafted(candidates.tree(nodes, root), 0.0, candidates)

    def learn(self, done: PassCost) -> None:
        self.steps.append(Step(done.n_nodes, done.n_read, *self._drafting))
        self._drafting = (0.0, {})


class DraftingClock(SimulatedClock):
    """Goes on with what replayed drafters count, besides what the simulation says."""

    def __init__(self, passes: Counter[str], drafting_s: Callable[[Mapping[str, int]], float]):
        super().__init__()
        self._passes, self._drafting_s = passes, drafting_s

    def __call__(self) -> float:
        return self.now_s + self._drafting_s(self._passes)

    def restart(self) -> None:
        super().restart()
        self._passes.clear()
