"""The planner: from guesses and costs to the trees of a pass, and what came of them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from pytreellama.plan.choice import Choice, choose
from pytreellama.plan.cost import KNOTS, CostCurve, PassCost
from pytreellama.plan.probes import Probes
from pytreellama.tree import TokenTree
from pytreellama.tree.candidates import Candidates

# The best of many estimates is one that was too high: what is chosen comes true less often than
# what is not. Of tokens that guesses promise, this much is believed.
_BELIEF = 0.85

# Guesses below this share of what could pay are not searched for: estimates may raise them.
_SEARCHED_SHARE = 0.5

_PROBED_P = 0.05  # what a probe verifies need not pay


@dataclass(frozen=True, slots=True)
class Plan:
    """What was chosen for one sequence, and why.

    Attributes:
        guesses: all that was proposed.
        nodes: those chosen, likeliest first.
        choice: for all sequences of the pass.
        is_probe: chosen to learn what such a pass costs, and not for what it saves.
    """

    candidates: Candidates
    nodes: tuple[int, ...]
    choice: Choice
    is_probe: bool = False

    @property
    def guesses(self) -> Candidates:
        """Deprecated name of ``candidates``."""
        warnings.warn("guesses is deprecated: use candidates", DeprecationWarning, stacklevel=2)
        return self.candidates

    @property
    def n_expected(self) -> float:
        """Guesses that are expected to be accepted."""
        return sum(self.candidates.p[node] for node in self.nodes)

    @property
    def saved_s(self) -> float:
        """Seconds that the chosen guesses are expected to save, of this sequence's share."""
        if not self.nodes or self.is_probe:
            return 0.0
        plain_s = len(self.choice.sizes) / self.choice.plain_rate
        share = len(self.nodes) / sum(self.choice.sizes)
        more_s = share * (self.choice.seconds - plain_s)
        return _BELIEF * self.n_expected / self.choice.plain_rate - more_s

    def tree(self, root: int | None = None) -> TokenTree:
        """The tree to verify; below the text's last token, if that is given."""
        return self.candidates.tree(self.nodes, root)

    def path(self, tokens: Sequence[int]) -> list[int]:
        """The chosen guesses that come true if the text goes on with these tokens."""
        return list(takewhile(self.nodes.__contains__, self.candidates.path(tokens)))

    def proposers(self, tree: TokenTree) -> list[tuple[str, ...]]:
        """Who proposed each node of a verified tree, whose node 0 is the text's last token."""
        found: list[tuple[str, ...]] = [()]
        place = [-1]
        nodes = list(zip(tree.tokens.tolist(), tree.parents.tolist(), strict=True))
        for token, parent in nodes[1:]:
            node = self.candidates.union.node_of[place[parent], token]
            place.append(node)
            found.append(self.candidates.names_of(node))
        return found

    def to_dict(self) -> dict[str, Any]:
        """For JSON: what was proposed, what was taken, and what is expected."""
        union, names, taken = self.candidates.union, self.candidates.names, set(self.nodes)
        return {
            "choice": self.choice.to_dict(),
            "guesses": [
                {
                    "token": union.tokens[node],
                    "parent": union.parents[node],
                    "p": self.candidates.p[node],
                    "drafters": {names[d]: p for d, _, p in self.candidates.views[node]},
                    "taken": node in taken,
                }
                for node in self.candidates.by_p()
            ],
        }


class Planner:
    """Chooses the trees of every pass, by a curve of costs that it corrects.

    Args:
        curve: what passes cost.
        n_nodes_max: most nodes of a pass.
    """

    def __init__(self, curve: CostCurve, n_nodes_max: int = KNOTS[-1]) -> None:
        self.curve = curve
        self._n_nodes_max = min(n_nodes_max, KNOTS[-1])
        self._probes = Probes()

    def least_p(self, seen: Sequence[int]) -> float:
        """Guesses that are less likely need not be searched for: they cannot pay.

        Args:
            seen: cells of text before each sequence of the pass.
        """
        n = len(seen)
        price_s = self.curve.least_price_s(n, min(seen))
        plain_s = self.curve.seconds(n, sum(seen), sum(seen))
        least = min(_SEARCHED_SHARE * price_s * n / plain_s, 1.0)
        if self._probes.wants_tree(self.curve.is_unsure(max(seen))):
            return min(least, _PROBED_P)  # or there would be nothing to probe with
        return least

    def plan(
        self,
        candidates: Sequence[Candidates],
        seen: Sequence[int],
        spent_s: float = 0.0,
        rooms: Sequence[int] | None = None,
        n_shared: int = 0,
    ) -> list[Plan]:
        """What to verify of each sequence's guesses, in one pass over all sequences.

        Args:
            guesses: of the first sequences; those beside them have none.
            seen: cells of text that each sequence's nodes attend to.
            spent_s: seconds that drafting took.
            rooms: most guesses of each sequence to verify; by default all.
            n_shared: of the cells seen, those that the pass reads once for several sequences.
        """
        if rooms is None:
            rooms = [len(one) for one in candidates]
        orders = [one.by_p()[:room] for one, room in zip(candidates, rooms, strict=True)]
        step = _Step(self.curve, _believed(candidates, orders), seen, n_shared, self._n_nodes_max)
        choice = step.choice(spent_s)
        sizes = self._probes.sizes(choice.sizes, step.n_candidates, self.curve.is_unsure(max(seen)))
        is_probe = sizes is not None and step.n_nodes_of(sizes) <= self._n_nodes_max
        if is_probe:
            assert sizes is not None
            choice = step.choice_of(sizes, spent_s)
        return [
            Plan(one, tuple(order[:size]), choice, is_probe)
            for one, order, size in zip(candidates, orders, choice.sizes, strict=False)
        ]

    def gain_s(self, candidates: Candidates, less: Candidates, n_read: int) -> float:
        """Seconds that a step gains by guesses over having fewer of them, for one sequence."""
        best, other = self._choice_alone(candidates, n_read), self._choice_alone(less, n_read)
        return (best.n_tokens - other.n_tokens) / best.rate - (best.seconds - other.seconds)

    def _choice_alone(self, candidates: Candidates, n_read: int) -> Choice:
        p = _believed([candidates], [candidates.by_p()])
        return _Step(self.curve, p, [n_read], 0, self._n_nodes_max).choice(0.0)

    def learn(self, done: PassCost) -> None:
        """Hear what a pass cost."""
        self.curve.learn(done)
        self._probes.count(done.n_nodes > done.n_sequences)


def _believed(candidates: Sequence[Candidates], orders: Sequence[list[int]]) -> list[list[float]]:
    """Path probabilities of each sequence's guesses, falling."""
    return [
        [_BELIEF * one.p[node] for node in order]
        for one, order in zip(candidates, orders, strict=True)
    ]


class _Step:
    """What a pass would bring and cost, by how many guesses of each sequence are verified."""

    def __init__(
        self,
        curve: CostCurve,
        p: list[list[float]],
        seen: Sequence[int],
        n_shared: int,
        n_nodes_max: int,
    ) -> None:
        self._p = p + [[] for _ in range(len(seen) - len(p))]
        self.n_candidates = [len(one) for one in self._p]
        n_nodes = min(len(seen) + sum(self.n_candidates), n_nodes_max)
        if len(seen) == 1:  # all nodes see the same: what they cost is a matter of their number
            self._pass_s, self._node_s = curve.pass_s(n_nodes, seen[0]), None
        else:
            n_seen = sum(seen)
            self._pass_s = curve.pass_s(n_nodes, n_seen - n_shared, n_seen)
            self._node_s = [curve.attend_s(n) for n in seen]

    def choice(self, spent_s: float) -> Choice:
        """The best of all."""
        return choose(self._p, self._pass_s, node_s=self._node_s, spent_s=spent_s)

    def n_nodes_of(self, sizes: Sequence[int]) -> int:
        """Of a pass with so many guesses of each sequence."""
        return len(sizes) + sum(sizes)

    def choice_of(self, sizes: tuple[int, ...], spent_s: float) -> Choice:
        """The choice of so many of each sequence's guesses, whether it is good or not."""
        n_tokens = len(sizes) + sum(sum(p[:size]) for p, size in zip(self._p, sizes, strict=True))
        nodes_s = sum(n * s for n, s in zip(sizes, self._node_s or [0.0], strict=True))
        seconds = spent_s + self._pass_s[self.n_nodes_of(sizes)] + nodes_s
        plain_s = spent_s + self._pass_s[len(sizes)]
        return Choice(sizes, n_tokens, seconds, len(sizes) / plain_s)
