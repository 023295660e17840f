"""The planner: chooses the trees of a pass from candidates and costs."""

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

# Winner's curse: the best of many estimates is often too high, so expected tokens are scaled.
_BELIEF = 0.85

# Candidates below this share of the break-even probability are not searched for.
_SEARCHED_SHARE = 0.5

# Drafters propose trees; for a chain of n nodes they are asked for so many times n.
_CHAIN_SHARE = 4

_PROBED_P = 0.05  # what a probe verifies need not pay


@dataclass(frozen=True, slots=True)
class Plan:
    """The draft nodes that were chosen for one sequence, and why.

    Attributes:
        candidates: all nodes that were proposed.
        nodes: the chosen candidates, most likely first.
        choice: the choice for all sequences of the pass.
        is_probe: True if chosen to measure the cost of such a pass, not for what it saves.
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
        """Expected number of accepted draft nodes."""
        return sum(self.candidates.p[node] for node in self.nodes)

    @property
    def saved_s(self) -> float:
        """Expected seconds saved by the chosen nodes: this sequence's share."""
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
        """The chosen nodes that are accepted if the text continues with these tokens."""
        return list(takewhile(self.nodes.__contains__, self.candidates.path(tokens)))

    def proposers(self, tree: TokenTree) -> list[tuple[str, ...]]:
        """The drafters of each node of a verified tree; none for node 0, the root."""
        found: list[tuple[str, ...]] = [()]
        place = [-1]
        nodes = list(zip(tree.tokens.tolist(), tree.parents.tolist(), strict=True))
        for token, parent in nodes[1:]:
            node = self.candidates.union.node_of[place[parent], token]
            place.append(node)
            found.append(self.candidates.names_of(node))
        return found

    def to_dict(self) -> dict[str, Any]:
        """The candidates, the chosen nodes and the expectation, for JSON."""
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
    """Chooses the trees of every pass by a cost curve, which it corrects.

    Args:
        curve: the cost of passes.
        n_nodes_max: maximum number of nodes in a pass.
        chains_only: nothing but chains can be verified, one for each sequence.
    """

    def __init__(
        self, curve: CostCurve, n_nodes_max: int = KNOTS[-1], chains_only: bool = False
    ) -> None:
        self.curve = curve
        self._chains_only = chains_only
        self._n_nodes_max = min(n_nodes_max, KNOTS[-1])
        self._probes = Probes()

    def n_asked(self, room: int) -> int:
        """Number of nodes to ask a drafter for where ``room`` can be verified."""
        return _CHAIN_SHARE * room if self._chains_only else room

    def least_p(self, seen: Sequence[int]) -> float:
        """Lower bound on the path probability of candidates that can pay off.

        Args:
            seen: KV-cache cells of each sequence of the pass.
        """
        n = len(seen)
        price_s = self.curve.least_price_s(n, min(seen))
        plain_s = self.curve.seconds(n, sum(seen), sum(seen))
        least = min(_SEARCHED_SHARE * price_s * n / plain_s, 1.0)
        if self._probes.wants_tree(self.curve.is_unsure(max(seen))):
            return min(least, _PROBED_P)  # or there would be nothing to probe with
        return least

    def token_s(self, seen: Sequence[int]) -> float:
        """Seconds of a plain step for each of its tokens: what an accepted token saves.

        Args:
            seen: KV-cache cells of each sequence of the pass.
        """
        return self.curve.seconds(len(seen), sum(seen), sum(seen)) / len(seen)

    def plan(
        self,
        candidates: Sequence[Candidates],
        seen: Sequence[int],
        spent_s: float = 0.0,
        rooms: Sequence[int] | None = None,
        n_shared: int = 0,
    ) -> list[Plan]:
        """Choose the nodes to verify in one pass over all sequences.

        Args:
            candidates: of the first sequences; further sequences have none.
            seen: KV-cache cells that each sequence's nodes attend to.
            spent_s: seconds that drafting took.
            rooms: maximum number of nodes of each sequence to verify; by default all.
            n_shared: of the cells seen, those that the pass reads once for several sequences.
        """
        if rooms is None:
            rooms = [len(one) for one in candidates]
        orders = [self._order(one, room) for one, room in zip(candidates, rooms, strict=True)]
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
        """Seconds that a step gains by more candidates instead of ``less``, for one sequence."""
        best, other = self._choice_alone(candidates, n_read), self._choice_alone(less, n_read)
        return (best.n_tokens - other.n_tokens) / best.rate - (best.seconds - other.seconds)

    def _choice_alone(self, candidates: Candidates, n_read: int) -> Choice:
        p = _believed([candidates], [self._order(candidates, len(candidates))])
        return _Step(self.curve, p, [n_read], 0, self._n_nodes_max).choice(0.0)

    def _order(self, candidates: Candidates, room: int) -> list[int]:
        """Nodes that can be verified together, most likely first."""
        if self._chains_only:
            return candidates.likeliest_chain(room)
        return candidates.by_p()[:room]

    def learn(self, done: PassCost) -> None:
        """Learn the cost of a pass."""
        self.curve.learn(done)
        self._probes.count(done.n_nodes > done.n_sequences)


def _believed(candidates: Sequence[Candidates], orders: Sequence[list[int]]) -> list[list[float]]:
    """Scaled path probabilities of each sequence's candidates, falling."""
    return [
        [_BELIEF * one.p[node] for node in order]
        for one, order in zip(candidates, orders, strict=True)
    ]


class _Step:
    """Expected tokens and cost of a pass, by the number of nodes per sequence."""

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
        if len(seen) == 1:  # all nodes attend to the same cells: cost depends on their number only
            self._pass_s, self._node_s = curve.pass_s(n_nodes, seen[0]), None
        else:
            n_seen = sum(seen)
            self._pass_s = curve.pass_s(n_nodes, n_seen - n_shared, n_seen)
            self._node_s = [curve.attend_s(n) for n in seen]

    def choice(self, spent_s: float) -> Choice:
        """The best of all."""
        return choose(self._p, self._pass_s, node_s=self._node_s, spent_s=spent_s)

    def n_nodes_of(self, sizes: Sequence[int]) -> int:
        """Nodes of a pass with so many draft nodes per sequence, roots included."""
        return len(sizes) + sum(sizes)

    def choice_of(self, sizes: tuple[int, ...], spent_s: float) -> Choice:
        """The choice of so many draft nodes per sequence, good or not."""
        n_tokens = len(sizes) + sum(sum(p[:size]) for p, size in zip(self._p, sizes, strict=True))
        nodes_s = sum(n * s for n, s in zip(sizes, self._node_s or [0.0], strict=True))
        seconds = spent_s + self._pass_s[self.n_nodes_of(sizes)] + nodes_s
        plain_s = spent_s + self._pass_s[len(sizes)]
        return Choice(sizes, n_tokens, seconds, len(sizes) / plain_s)
