"""Several drafters as one: what a merge and a plan of them have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pytreellama.draft.protocol import (
    Drafter,
    DrafterFactory,
    Float32Array,
    Int32Array,
    NeedsTarget,
    PassObserver,
)
from pytreellama.errors import DraftError
from pytreellama.tree import TokenTree

if TYPE_CHECKING:
    from pytreellama.core.model import Model


class SeveralDrafters:
    """Drafters of one text, of which some look at passes."""

    __slots__ = ("_drafters", "_observers")

    def __init__(self, drafters: Sequence[Drafter]) -> None:
        self._drafters = list(drafters)
        self._observers = [drafter for drafter in drafters if isinstance(drafter, PassObserver)]

    @property
    def n_top(self) -> int:
        """What the most curious of its drafters wants, 0 if none looks at passes."""
        return max((observer.n_top for observer in self._observers), default=0)

    def observe_pass(self, tree: TokenTree, tokens: Int32Array, logits: Float32Array) -> None:
        """See PassObserver."""
        for observer in self._observers:
            observer.observe_pass(tree, tokens, logits)

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

    def prepare(self, model: Model) -> None:
        """See NeedsTarget."""
        for factory in self._factories:
            if isinstance(factory, NeedsTarget):
                factory.prepare(model)

    def _new_drafters(self) -> list[Drafter]:
        """Fresh ones for one text."""
        return [factory() for factory in self._factories]
