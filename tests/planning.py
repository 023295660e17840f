"""What tests of planning share: guesses of random trees, scripted drafters, costs of passes."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from pytreellama.draft import Acceptance
from pytreellama.plan import KNOTS, Candidates, CostCurve, TextCost
from pytreellama.tree import TokenTree
from pytreellama.tree.grown import NOTHING, Grown
from strategies import token_trees

ASK_S, COMBINE_S, RESUME_S = 2.0**-13, 2.0**-15, 2.0**-9  # exact in sums


def estimated(candidates: Candidates, acceptance: Acceptance | None = None) -> Candidates:
    """The guesses themselves, with their probabilities filled in."""
    (acceptance or Acceptance(16)).estimate(candidates)
    return candidates


def chain_guesses(tokens: Sequence[int], p: Sequence[float]) -> Candidates:
    """A lone drafter's guesses along one path, at its word."""
    return estimated(Candidates.of([TokenTree.chain(tokens, p)]))


@st.composite
def drafted_trees(
    draw: st.DrawFn, max_nodes: int = 12, max_drafters: int = 3, n_vocab: int = 4
) -> list[TokenTree]:
    """A tree of each of several drafters, which often agree."""
    tree = token_trees(max_nodes=max_nodes, n_vocab=n_vocab, with_p=True)
    return draw(st.lists(tree, min_size=1, max_size=max_drafters))


guesses_of_trees = drafted_trees().map(lambda trees: estimated(Candidates.of(trees)))


@st.composite
def cost_curves(draw: st.DrawFn) -> CostCurve:
    """Costs that rise with the size of a pass, steeply, hardly or not at all."""
    price = st.sampled_from([0.0, 0.001, 0.05, 0.3, 1.0])
    knot_s: list[float] = []
    last, seconds = 0, draw(st.floats(0.001, 1.0))
    for knot in KNOTS:
        seconds += draw(price) * knot_s[0] * (knot - last) if knot_s else 0.0
        knot_s.append(seconds)
        last = knot
    parts = (draw(st.sampled_from([0.0, 1e-7, 1e-4])) for _ in range(4))
    return CostCurve(knot_s, TextCost(*parts))


# -- drafters that follow a script


def chain(tokens: Sequence[int], p: float) -> Grown:
    """One path, each of whose tokens is as likely."""
    n = len(tokens)
    return Grown(list(tokens), list(range(-1, n - 1)), [p ** (i + 1) for i in range(n)])


class Clock:
    """Seconds that only work moves on."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Scripted:
    """Drafters that always propose the same, and write down what is asked of them."""

    n_top = 3

    def __init__(
        self,
        clock: Clock,
        drafts: Sequence[Grown],
        ask_s: float = ASK_S,
        resume_s: float = RESUME_S,
        fault: tuple[str, type[BaseException]] | None = None,
    ) -> None:
        self.n_drafters = len(drafts)
        self.log: list[tuple[object, ...]] = []
        self._clock, self._drafts, self._fault = clock, drafts, fault
        self._ask_s, self._resume_s = ask_s, resume_s
        self._acceptance = Acceptance(len(drafts))
        self.shares: set[int] = set()
        self.announced: list[tuple[int, float]] = []

    def _called(self, *what: object) -> None:
        self.log.append(what)
        if self._fault is not None and self._fault[0] == what[0]:
            raise self._fault[1]("as asked")

    def pause(self, drafts_next: bool) -> None:
        self._called("pause", drafts_next)

    def resume(self) -> None:
        self._clock.now_s += self._resume_s
        self._called("resume")

    def announce_to(self, drafter: int, n_nodes: int, min_p: float, token_s: float) -> bool:
        self.announced.append((drafter, token_s))
        return drafter in self.shares

    def ask(self, drafter: int, n_nodes: int, min_p: float) -> Grown:
        self._clock.now_s += self._ask_s
        self._called("ask", drafter)
        tokens, parents, p = self._drafts[drafter]
        return Grown(tokens[:n_nodes], parents[:n_nodes], p[:n_nodes])

    def combine(self, drafts: Sequence[Grown]) -> Candidates:
        self._clock.now_s += COMBINE_S
        self._called("combine", len([one for one in drafts if one is not NOTHING]))
        candidates = Candidates.of_grown(drafts)
        self._acceptance.estimate(candidates)
        return candidates

    def expect(self, candidates: Candidates) -> None:
        self._called("expect", len(candidates))
