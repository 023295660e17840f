"""The drafter "auto": several drafters, believed as far as they came true, for a planner."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pytreellama.draft.acceptance import Acceptance
from pytreellama.draft.medusa import heads_that_fit
from pytreellama.draft.protocol import (
    EMPTY_TREE,
    Drafter,
    DrafterFactory,
    Selective,
    Tokens,
    checked_n_nodes,
    checked_tokens,
)
from pytreellama.draft.several import SeveralDrafters, SeveralFactories
from pytreellama.plan.vigilance import Vigilance
from pytreellama.plan.worth import Worth
from pytreellama.tree import TokenTree
from pytreellama.tree.grown import NOTHING, Grown
from pytreellama.tree.guesses import Guesses, grown

if TYPE_CHECKING:
    from pytreellama.core.model import Model


class AutoDrafter(SeveralDrafters):
    """Asks the drafters that are worth it, and estimates what their guesses are worth together.

    An engine plans its trees from `guess`; `propose` gives the likeliest guesses without a plan.

    Args:
        drafters: at least one, this text's own.
        acceptance, worth: what is known of drafters of these kinds; shared by all texts.

    Attributes:
        names: of the drafters, in the order in which guesses number them.
        asked: the drafters that were asked for the last guesses.
        vigilance: whether this text is worth drafting for at present.
    """

    __slots__ = (
        "_acceptance",
        "_guesses",
        "_rests",
        "_trees",
        "_unheard",
        "asked",
        "names",
        "vigilance",
        "worth",
    )

    name = "auto"

    def __init__(
        self,
        drafters: Sequence[Drafter],
        acceptance: Acceptance | None = None,
        worth: Worth | None = None,
    ) -> None:
        super().__init__(drafters)
        self.names = tuple(drafter.name for drafter in drafters)
        self._acceptance = acceptance or Acceptance(len(drafters))
        self.worth = worth or Worth(len(drafters))
        self.vigilance = Vigilance()
        self.asked: list[int] = []
        self._trees: list[Grown] = []
        self._guesses: Guesses | None = None
        self._rests = False
        self._unheard: list[int] = []

    def observe(self, tokens: Tokens) -> None:
        """Hear committed text, shape (n,), and learn what the last guesses were worth."""
        ids = checked_tokens(tokens)
        if self._rests:
            self._unheard += ids
            return
        if self._guesses is not None:
            self._acceptance.learn(self._guesses, ids)
            self._guesses = None
        for drafter in self._drafters:
            drafter.observe(ids)

    def rest(self) -> None:
        """From here on no guess is asked for: drafters hear what is written only when one is."""
        self._rests = True
        self.asked = []

    def wake(self) -> None:
        """Let the drafters hear what was written while they rested."""
        self._rests = False
        if self._unheard:
            unheard, self._unheard = self._unheard, []
            self.observe(unheard)

    @property
    def wants_hidden(self) -> bool:
        """Whether one of its drafters does, for the next guess."""
        is_awake = not self._rests or self.vigilance.looks_next
        return is_awake and super().wants_hidden

    def guess(self, n_nodes: int, min_p: float) -> Guesses:
        """What those drafters guess that are worth asking, in at most `n_nodes` nodes each.

        Guesses less likely than `min_p` are not searched for. Raises DraftError if `n_nodes` < 0.
        """
        self.wake()
        n_asked = len(self._drafters) if checked_n_nodes(n_nodes) else 0
        self.asked = [i for i in range(n_asked) if self.worth.asks(i)]
        self._trees = [NOTHING] * len(self._drafters)
        for i in self.asked:
            self._trees[i] = self._ask(i, n_nodes, min_p)
        self._guesses = self._estimated(Guesses.of_grown(self._trees, self.names))
        return self._guesses

    def _ask(self, i: int, n_nodes: int, min_p: float) -> Grown:
        started_s = time.perf_counter()
        tree = _grown(self._drafters[i], n_nodes, min_p)
        self.worth.learn_cost(i, time.perf_counter() - started_s)
        return tree

    def _estimated(self, guesses: Guesses) -> Guesses:
        self._acceptance.estimate(guesses)
        return guesses

    def without(self, drafter: int) -> Guesses:
        """The last guesses, as they would be if one drafter had not been asked."""
        trees = [NOTHING if i == drafter else tree for i, tree in enumerate(self._trees)]
        return self._estimated(Guesses.of_grown(trees, self.names))

    def judge(self, gain_s: Callable[[Guesses], float]) -> None:
        """Now and then, see what asking a drafter for the last guesses has brought.

        gain_s: seconds that are gained by the last guesses over having fewer.
        """
        for i in self.asked:
            if self.worth.is_judged(i):
                self.worth.learn_gain(i, gain_s(self.without(i)))

    def propose(self, n_nodes: int) -> TokenTree:
        """The likeliest guesses of all drafters; see Drafter. Raises DraftError if < 0."""
        checked_n_nodes(n_nodes)
        self.wake()
        trees = [drafter.propose(n_nodes) for drafter in self._drafters]
        guesses = self._estimated(Guesses.of(trees, self.names))
        return guesses.tree(guesses.by_p()[:n_nodes]) if len(guesses) else EMPTY_TREE

    def reset(self) -> None:
        """Forget the text; what is known of the drafters stays."""
        super().reset()
        self._guesses = None
        self._trees = []
        self._rests = False
        self._unheard = []
        self.vigilance = Vigilance()


class Auto(SeveralFactories):
    """Makes drafters for planned trees: `Engine(model, drafter=Auto(Suffix(), Model("small")))`.

    An engine whose drafter this is plans each step's trees from what passes cost on this machine
    and what guesses turned out to be worth: no tree, a chain and a wide tree are one decision. What
    is learned of the drafters is kept from text to text.

    Args:
        factories: of the drafters; at least one.
        medusa: add Medusa heads, if there are some that fit the target.
    """

    def __init__(self, *factories: DrafterFactory, medusa: bool = False) -> None:
        super().__init__(factories, "plan with")
        self._looks_for_heads = medusa
        self._know_nothing()

    def _know_nothing(self) -> None:
        self.acceptance = Acceptance(len(self._factories))
        self.worth = Worth(len(self._factories))

    def prepare(self, model: Model) -> None:
        """See NeedsTarget."""
        super().prepare(model)
        heads = heads_that_fit(model) if self._looks_for_heads else None
        if heads is not None:
            self._looks_for_heads = False
            self._factories = (*self._factories, heads)
            self._know_nothing()

    def __call__(self) -> AutoDrafter:
        """Return a fresh drafter of fresh drafters."""
        return AutoDrafter(self._new_drafters(), self.acceptance, self.worth)


def _grown(drafter: Drafter, n_nodes: int, min_p: float) -> Grown:
    if isinstance(drafter, Selective):
        return drafter.grow_likely(n_nodes, min_p)
    return grown(drafter.propose(n_nodes), f"the drafter {drafter.name!r}")
