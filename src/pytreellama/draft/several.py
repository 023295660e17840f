"""Several drafters as one: what a merge and a plan of them have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pytreellama.draft.protocol import (
    Drafter,
    DrafterFactory,
    Float32Array,
    HiddenObserver,
    HoldsContext,
    Int32Array,
    NeedsContext,
    NeedsTarget,
    PassObserver,
    RowObserver,
)
from pytreellama.errors import DraftError
from pytreellama.tree import TokenTree

if TYPE_CHECKING:
    from pytreellama.context.context import Context
    from pytreellama.model.model import Model


class SeveralDrafters:
    """Drafters of one text, of which some look at passes or at hidden states."""

    __slots__ = ("_drafters", "_observers", "_readers", "_row_observers")

    def __init__(self, drafters: Sequence[Drafter]) -> None:
        self._drafters = list(drafters)
        self._observers = [drafter for drafter in drafters if isinstance(drafter, PassObserver)]
        self._readers = [drafter for drafter in drafters if isinstance(drafter, HiddenObserver)]
        self._row_observers = [drafter for drafter in drafters if isinstance(drafter, RowObserver)]

    @property
    def n_top(self) -> int:
        """The largest ``n_top`` of its drafters, 0 if none observes passes."""
        return max((observer.n_top for observer in self._observers), default=0)

    def observe_pass(self, tree: TokenTree, tokens: Int32Array, logits: Float32Array) -> None:
        """Give the rows of a pass to the drafters that observe passes."""
        for observer in self._observers:
            observer.observe_pass(tree, tokens, logits)

    @property
    def wants_hidden(self) -> bool:
        """True if one of its drafters wants hidden states."""
        return any(reader.wants_hidden for reader in self._readers)

    def observe_hidden(self, states: Float32Array) -> None:
        """Give the states to the drafters that observe hidden states."""
        for reader in self._readers:
            reader.observe_hidden(states)

    def observe_prefill(self, begin: int, n_tokens: int) -> None:
        """Tell of a prefill to the drafters that read what passes leave."""
        for observer in self._row_observers:
            observer.observe_prefill(begin, n_tokens)

    def observe_rows(self, rows: Sequence[int]) -> None:
        """Tell the rows of accepted tokens to the drafters that read what passes leave."""
        for observer in self._row_observers:
            observer.observe_rows(rows)

    def reset(self) -> None:
        """Forget the text."""
        for drafter in self._drafters:
            drafter.reset()


class SeveralFactories:
    """Factories of drafters that work together on each text.

    Args:
        purpose: what they are for, as an error says it, such as "merge".
    """

    def __init__(self, factories: Sequence[DrafterFactory], purpose: str) -> None:
        if not factories:
            raise DraftError(f"there is nothing to {purpose}; give at least one drafter")
        self._factories = tuple(factories)

    @property
    def uses_mtp(self) -> bool:
        """True if one of the factories uses NextN layers."""
        return any(getattr(factory, "uses_mtp", False) for factory in self._factories)

    def prepare(self, model: Model) -> None:
        """Give the target model to the factories that need it."""
        for factory in self._factories:
            if isinstance(factory, NeedsTarget):
                factory.prepare(model)

    def attach(self, context: Context) -> None:
        """Give the target's context to the factories that need it."""
        for factory in self._factories:
            if isinstance(factory, NeedsContext):
                factory.attach(context)

    def detach(self, context: Context) -> None:
        """Let the factories free what they hold for an engine."""
        for factory in self._factories:
            if isinstance(factory, HoldsContext):
                factory.detach(context)

    def _new_drafters(self) -> list[Drafter]:
        """Fresh ones for one text."""
        return [factory() for factory in self._factories]
