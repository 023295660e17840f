"""The planner: from guesses and costs to the trees of a pass, and what came of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from pytreellama.plan.choice import Choice, choose
from pytreellama.plan.cost import KNOTS, CostCurve, PassCost
from pytreellama.plan.guesses import Guesses
from pytreellama.tree import TokenTree

# The best of many estimates is one that was too high: what is chosen comes true less often than
# what is not. Of tokens that guesses promise, this much is believed.
_BELIEF = 0.85

# Guesses below this share of what could pay are not searched for: estimates may raise them.
_SEARCHED_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Plan:
    """What was chosen for one sequence, and why.

    Attributes:
        guesses: all that was proposed.
        nodes: those chosen, likeliest first.
        choice: for all sequences of the pass.
    """

    guesses: Guesses
    nodes: tuple[int, ...]
    choice: Choice

    @property
    def n_expected(self) -> float:
        """Guesses that are expected to be accepted."""
        return sum(self.guesses.p[node] for node in self.nodes)

    @property
    def saved_s(self) -> float:
        """Seconds that the chosen guesses are expected to save, of this sequence's share."""
        if not self.nodes:
            return 0.0
        plain_s = len(self.choice.sizes) / self.choice.plain_rate
        share = len(self.nodes) / sum(self.choice.sizes)
        more_s = share * (self.choice.seconds - plain_s)
        return _BELIEF * self.n_expected / self.choice.plain_rate - more_s

    def tree(self, root: int | None = None) -> TokenTree:
        """The tree to verify; below the text's last token, if that is given."""
        return self.guesses.tree(self.nodes, root)

    def path(self, tokens: Sequence[int]) -> list[int]:
        """The chosen guesses that come true if the text goes on with these tokens."""
        return list(takewhile(self.nodes.__contains__, self.guesses.path(tokens)))

    def proposers(self, tree: TokenTree) -> list[tuple[str, ...]]:
        """Who proposed each node of a verified tree, whose node 0 is the text's last token."""
        found: list[tuple[str, ...]] = [()]
        place = [-1]
        nodes = list(zip(tree.tokens.tolist(), tree.parents.tolist(), strict=True))
        for token, parent in nodes[1:]:
            node = self.guesses.union.node_of[place[parent], token]
            place.append(node)
            found.append(self.guesses.names_of(node))
        return found

    def to_dict(self) -> dict[str, Any]:
        """For JSON: what was proposed, what was taken, and what is expected."""
        union, names, taken = self.guesses.union, self.guesses.names, set(self.nodes)
        return {
            "choice": self.choice.to_dict(),
            "guesses": [
                {
                    "token": union.tokens[node],
                    "parent": union.parents[node],
                    "p": self.guesses.p[node],
                    "drafters": {names[d]: p for d, _, p in self.guesses.views[node]},
                    "taken": node in taken,
                }
                for node in self.guesses.by_p()
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
        self._least_p: dict[int, float] = {}
        self._n_passes = 0

    def least_p(self, n_sequences: int) -> float:
        """Guesses that are less likely need not be searched for: they cannot pay."""
        least = self._least_p.get(n_sequences)
        if least is None:
            plain_rate = n_sequences / self.curve.seconds(n_sequences)
            price = self.curve.least_price_s(n_sequences) * plain_rate
            least = self._least_p[n_sequences] = min(_SEARCHED_SHARE * price, 1.0)
        return least

    def plan(
        self,
        guesses: Sequence[Guesses],
        n_read: int,
        spent_s: float = 0.0,
        n_beside: int = 0,
        rooms: Sequence[int] | None = None,
    ) -> list[Plan]:
        """What to verify of each sequence's guesses, in one pass that reads so much text.

        spent_s: seconds that drafting took.
        n_beside: sequences that are in the same pass without guesses.
        rooms: most guesses of each sequence to verify; by default all.
        """
        if rooms is None:
            rooms = [len(one) for one in guesses]
        orders = [one.by_p()[:room] for one, room in zip(guesses, rooms, strict=True)]
        choice = self._choose(guesses, orders, n_read, spent_s, n_beside)
        return [
            Plan(one, tuple(order[:size]), choice)
            for one, order, size in zip(guesses, orders, choice.sizes, strict=False)
        ]

    def _choose(
        self,
        guesses: Sequence[Guesses],
        orders: Sequence[list[int]],
        n_read: int,
        spent_s: float,
        n_beside: int = 0,
    ) -> Choice:
        p = [
            [_BELIEF * one.p[node] for node in order]
            for one, order in zip(guesses, orders, strict=True)
        ]
        p += [[]] * n_beside
        n_nodes = min(len(p) + sum(map(len, p)), self._n_nodes_max)
        return choose(p, self.curve.pass_s(n_nodes, n_read), spent_s=spent_s)

    def gain_s(self, guesses: Guesses, less: Guesses, n_read: int) -> float:
        """Seconds that a step gains by guesses over having fewer of them, for one sequence."""
        best = self._choose([guesses], [guesses.by_p()], n_read, 0.0)
        other = self._choose([less], [less.by_p()], n_read, 0.0)
        return (best.n_tokens - other.n_tokens) / best.rate - (best.seconds - other.seconds)

    def learn(self, done: PassCost) -> None:
        """Hear what a pass cost."""
        self.curve.learn(done)
        self._n_passes += 1
        if self._n_passes % 16 == 0:
            self._least_p.clear()
