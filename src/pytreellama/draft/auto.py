"""The drafter "auto": several drafters, with estimates of acceptance, for a planned step."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pytreellama.draft.acceptance import Acceptance
from pytreellama.draft.conditioned import ConditionedFactory
from pytreellama.draft.medusa import heads_that_fit
from pytreellama.draft.own import drafts_that_fit
from pytreellama.draft.protocol import (
    EMPTY_TREE,
    Drafter,
    DrafterFactory,
    NeedsContext,
    Selective,
    SharesPasses,
    Tokens,
    checked_n_nodes,
    checked_tokens,
)
from pytreellama.draft.several import SeveralDrafters, SeveralFactories
from pytreellama.errors import DraftError
from pytreellama.tree import TokenTree
from pytreellama.tree.candidates import Candidates, grown
from pytreellama.tree.grown import Grown

if TYPE_CHECKING:
    from pytreellama.context.context import Context
    from pytreellama.model.model import Model

_log = logging.getLogger(__name__)


class AutoDrafter(SeveralDrafters):
    """Several drafters of one sequence, with common estimates of acceptance.

    An engine's ``plan.DraftPolicy`` decides when each drafter is used and which candidates are
    verified; ``propose`` returns the most likely nodes without a plan.

    Args:
        drafters: at least one, for this sequence only.
        acceptance: learned acceptance of drafters of these kinds; shared by all sequences.

    Attributes:
        names: names of the drafters, in the order in which candidates number them.
    """

    __slots__ = (
        "_acceptance",
        "_candidates",
        "_drafts_next",
        "_is_paused",
        "_paused_tokens",
        "names",
    )

    name = "auto"

    def __init__(self, drafters: Sequence[Drafter], acceptance: Acceptance | None = None) -> None:
        super().__init__(drafters)
        self.names = tuple(drafter.name for drafter in drafters)
        self._acceptance = acceptance or Acceptance(len(drafters))
        self._forget()

    def _forget(self) -> None:
        self._candidates: Candidates | None = None
        self._is_paused = False
        self._drafts_next = True
        self._paused_tokens: list[int] = []

    @property
    def n_drafters(self) -> int:
        """How many there are."""
        return len(self._drafters)

    def observe(self, tokens: Tokens) -> None:
        """Observe committed text, shape (n,), and learn which expected candidates it accepts."""
        ids = checked_tokens(tokens)
        if self._is_paused:
            self._paused_tokens += ids
            return
        if self._candidates is not None:
            self._acceptance.learn(self._candidates, ids)
            self._candidates = None
        for drafter in self._drafters:
            drafter.observe(ids)

    def pause(self, drafts_next: bool = False) -> None:
        """Keep what is observed until `resume`: the drafters need not follow the text meanwhile.

        drafts_next: they are going to be asked at the next step.
        """
        self._is_paused = True
        self._drafts_next = drafts_next

    def resume(self) -> None:
        """Pass the text that was committed during a pause to the drafters."""
        self._is_paused = False
        if self._paused_tokens:
            paused_tokens, self._paused_tokens = self._paused_tokens, []
            self.observe(paused_tokens)

    @property
    def wants_hidden(self) -> bool:
        """True if one of its drafters wants hidden states for the next draft."""
        is_drafting = not self._is_paused or self._drafts_next
        return is_drafting and super().wants_hidden

    def announce_to(self, drafter: int, n_nodes: int, min_p: float, token_s: float) -> bool:
        """Announce that one drafter will be asked; True if its drafts share passes.

        Args:
            token_s: seconds that an accepted token saves.
        """
        one = self._drafters[drafter]
        if not isinstance(one, SharesPasses):
            return False
        one.announce(n_nodes, min_p, token_s)
        return True

    def ask(self, drafter: int, n_nodes: int, min_p: float) -> Grown:
        """The draft of one drafter, of at most `n_nodes` nodes.

        Nodes less likely than `min_p` are not searched for. Raises DraftError if `n_nodes` < 0, or
        the draft has no probabilities.
        """
        return _grown(self._drafters[drafter], checked_n_nodes(n_nodes), min_p)

    def combine(self, drafts: Sequence[Grown]) -> Candidates:
        """The union of drafts, one of each drafter, with estimates of their acceptance."""
        return self._estimated(Candidates.of_grown(drafts, self.names))

    def expect(self, candidates: Candidates) -> None:
        """Learn from the next observed text which of these candidates are accepted."""
        self._candidates = candidates

    def _estimated(self, candidates: Candidates) -> Candidates:
        self._acceptance.estimate(candidates)
        return candidates

    def propose(self, n_nodes: int) -> TokenTree:
        """The most likely nodes of all drafters; raises ``DraftError`` if ``n_nodes`` < 0."""
        checked_n_nodes(n_nodes)
        self.resume()
        trees = [drafter.propose(n_nodes) for drafter in self._drafters]
        candidates = self._estimated(Candidates.of(trees, self.names))
        return candidates.tree(candidates.by_p()[:n_nodes]) if len(candidates) else EMPTY_TREE

    def reset(self) -> None:
        """Forget the text; learned acceptance stays."""
        super().reset()
        self._forget()


class Auto(SeveralFactories):
    """Factory of drafters for planned trees; the default drafter, "auto".

    An engine with this drafter plans each step's trees from the measured cost of passes and the
    learned acceptance rates: no tree, a chain and a wide tree are one decision. Acceptance rates
    are kept here for all sequences, the cost of drafters in the engine.

    Example:
        engine = Engine(model, drafter=Auto(Suffix(), draft.Model("small.gguf")))
        engine = Engine(model)     # the same as Auto(Suffix(), Recycling(), medusa=True, own=True)

    Args:
        factories: of the drafters; at least one.
        medusa: add Medusa heads, if some fit the target.
        own: add the target's NextN layers, if they were loaded, and an EAGLE-3 file next to it.
    """

    def __init__(self, *factories: DrafterFactory, medusa: bool = False, own: bool = False) -> None:
        super().__init__(factories, "plan with")
        self._looks_for_heads, self._looks_for_own = medusa, own
        self.acceptance = Acceptance(self.n_drafters)

    @property
    def n_drafters(self) -> int:
        """How many drafters each text has."""
        return len(self._factories)

    @property
    def uses_mtp(self) -> bool:
        """True if it uses NextN layers where there are some."""
        return self._looks_for_own or super().uses_mtp

    def prepare(self, model: Model) -> None:
        """Give the target model to the factories, and look for drafts that fit it."""
        super().prepare(model)
        heads = heads_that_fit(model) if self._looks_for_heads else None
        if heads is not None:
            self._looks_for_heads = False
            self._use((*self._factories, heads))
        if self._looks_for_own:
            self._looks_for_own = False
            self._use((*self._factories, *drafts_that_fit(model)))

    def attach(self, context: Context) -> None:
        """Give the target's context to the factories; drafts that cannot be run are left out."""
        attached = []
        for factory in self._factories:
            try:
                if isinstance(factory, NeedsContext):
                    factory.attach(context)
            except DraftError as error:
                if not isinstance(factory, ConditionedFactory):
                    raise
                _log.warning("drafts of %s are left out: %s", context.model.path.name, error)
            else:
                attached.append(factory)
        if len(attached) < len(self._factories):
            self._use(tuple(attached))

    def _use(self, factories: tuple[DrafterFactory, ...]) -> None:
        if len(factories) != self.n_drafters:
            self.acceptance = Acceptance(len(factories))
        self._factories = factories

    def __call__(self) -> AutoDrafter:
        """Return a fresh drafter of fresh drafters."""
        return AutoDrafter(self._new_drafters(), self.acceptance)


def _grown(drafter: Drafter, n_nodes: int, min_p: float) -> Grown:
    if isinstance(drafter, Selective):
        return drafter.grow_likely(n_nodes, min_p)
    return grown(drafter.propose(n_nodes), f"the drafter {drafter.name!r}")
