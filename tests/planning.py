"""What tests of planning share: guesses of random trees, and costs of passes."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from pytreellama.draft import Acceptance
from pytreellama.plan import KNOTS, CostCurve, Guesses, TextCost
from pytreellama.tree import TokenTree
from strategies import token_trees


def estimated(guesses: Guesses, acceptance: Acceptance | None = None) -> Guesses:
    """The guesses themselves, with their probabilities filled in."""
    (acceptance or Acceptance(16)).estimate(guesses)
    return guesses


def chain_guesses(tokens: Sequence[int], p: Sequence[float]) -> Guesses:
    """A lone drafter's guesses along one path, at its word."""
    return estimated(Guesses.of([TokenTree.chain(tokens, p)]))


@st.composite
def drafted_trees(
    draw: st.DrawFn, max_nodes: int = 12, max_drafters: int = 3, n_vocab: int = 4
) -> list[TokenTree]:
    """A tree of each of several drafters, which often agree."""
    tree = token_trees(max_nodes=max_nodes, n_vocab=n_vocab, with_p=True)
    return draw(st.lists(tree, min_size=1, max_size=max_drafters))


guesses_of_trees = drafted_trees().map(lambda trees: estimated(Guesses.of(trees)))


@st.composite
def cost_curves(draw: st.DrawFn) -> CostCurve:
    """Costs that rise with the size of a pass, steeply, hardly or not at all."""
    price = st.sampled_from([0.0, 0.001, 0.05, 0.3, 1.0])
    knot_s, last, seconds = [], 0, draw(st.floats(0.001, 1.0))
    for knot in KNOTS:
        seconds += draw(price) * knot_s[0] * (knot - last) if knot_s else 0.0
        knot_s.append(seconds)
        last = knot
    parts = (draw(st.sampled_from([0.0, 1e-7, 1e-4])) for _ in range(4))
    return CostCurve(knot_s, TextCost(*parts))
