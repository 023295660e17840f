"""Drafts that are conditioned on the target's hidden states: what MTP and EAGLE-3 share."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pytreellama.draft.calibration import Calibration, TextCalibration
from pytreellama.draft.growth import Grow, Growth
from pytreellama.draft.protocol import EMPTY_TREE, Tokens, checked_n_nodes, checked_tokens
from pytreellama.errors import DraftError, PyTreeLlamaError
from pytreellama.tree import TokenTree
from pytreellama.tree.candidates import grown
from pytreellama.tree.grown import Grown

if TYPE_CHECKING:
    from pytreellama.context.context import Context
    from pytreellama.draft.conditioned_cache import Ask, ConditionedCache
    from pytreellama.draft.conditioned_text import ConditionedText
    from pytreellama.model.model import Model


class ConditionedDrafter:
    """Proposes trees whose every node is conditioned on its parent's hidden state.

    The text is read with the states from which the target drew its tokens; below its end, the
    draft's own states take their place. Accepted draft nodes are read again with true states.

    Args:
        name: the registry's.
        target: whose passes leave the states.
        layers: of the target, whose states are read.
        cache: the draft's KV cache, which all drafters of a factory share.
        growth: depth and width of trees.
        calibration: shared by all texts; None to use the draft's probabilities.
    """

    def __init__(
        self,
        name: str,
        target: Context,
        layers: Sequence[int],
        cache: ConditionedCache,
        growth: Growth,
        calibration: Calibration | None = None,
    ) -> None:
        self.name = name
        self._target, self._layers = target, list(layers)
        self._cache, self._growth = cache, growth
        self._shared = calibration
        self._let_go: weakref.finalize[..., ConditionedDrafter] | None = None
        self._ask: Ask | None = None
        self.reset()

    def reset(self) -> None:
        """Forget the text; its cells stay for texts that begin alike, until they are needed."""
        self._withdraw()
        if self._let_go is not None:
            self._let_go()
        self._text: ConditionedText = self._cache.new_text()
        self._calibration = TextCalibration(self._shared)
        self._let_go = weakref.finalize(self, self._cache.abandon, self._text)
        self._let_go.atexit = False
        self._n_drawn: int | None = None

    # -- what the engine tells

    def observe(self, tokens: Tokens) -> None:
        """Observe committed text, shape (n,); raises ``DraftError`` if not token ids."""
        ids = checked_tokens(tokens)
        if not ids:
            return
        self._withdraw()
        self._calibration.learn(self._text.go_on(ids))

    def observe_prefill(self, begin: int, n_tokens: int) -> None:
        """See ``RowObserver``. After generation began, all that comes has been seen before."""
        if self._n_drawn is None:
            self._observe_states(begin + 1, range(n_tokens))

    def observe_rows(self, rows: Sequence[int]) -> None:
        """See ``RowObserver``."""
        if self._n_drawn is None:
            self._n_drawn = len(self._text.tokens)
        self._observe_states(self._n_drawn, rows)
        self._n_drawn += len(rows)

    def _observe_states(self, first: int, rows: Sequence[int]) -> None:
        states = self._target.outputs.features(rows, self._layers)
        self._cache.observe(self._text, first, states)

    # -- drafts

    def propose(self, n_nodes: int) -> TokenTree:
        """Propose a tree of at most ``n_nodes`` nodes.

        Raises:
            DraftError: ``n_nodes`` < 0, the engine is closed, or the draft failed.
        """
        return self._proposed(n_nodes, self._growth.min_p)

    def grow_likely(self, n_nodes: int, min_p: float) -> Grown:
        """Propose nodes of at least ``min_p``; raises ``DraftError`` as ``propose``."""
        return grown(self._proposed(n_nodes, min_p), f"the drafter {self.name!r}")

    def announce(
        self, n_nodes: int, min_p: float | None = None, token_s: float | None = None
    ) -> None:
        """See ``SharesPasses``."""
        self._withdraw()
        if n_nodes > 0:
            self._ask = self._asked(n_nodes, self._growth.min_p if min_p is None else min_p)
            self._ask.token_s = token_s
            self._cache.announce(self._ask)

    def _proposed(self, n_nodes: int, min_p: float) -> TokenTree:
        if checked_n_nodes(n_nodes) == 0:
            return EMPTY_TREE
        if self._cache.closed:
            raise DraftError(f"the engine of this {self.name} drafter is closed")
        ask = self._ask
        if ask is None or (ask.n_nodes, ask.growth.min_p) != (n_nodes, min_p):
            self._withdraw()
            ask = self._ask = self._asked(n_nodes, min_p)
        if ask.tree is not None:
            return ask.tree
        try:
            return self._cache.grow(ask)
        except PyTreeLlamaError as error:
            raise DraftError(f"the drafter {self.name!r} failed: {error}") from error

    def _asked(self, n_nodes: int, min_p: float) -> Ask:
        from pytreellama.draft.conditioned_cache import Ask

        growth = replace(self._growth, min_p=min_p)
        return Ask(self._text, growth, n_nodes, self._calibration.belief)

    def _withdraw(self) -> None:
        if self._ask is not None:
            self._cache.withdraw(self._ask)
            self._ask = None


class ConditionedFactory(ABC):
    """Factory of ``ConditionedDrafter``; it serves one engine at a time, whose end closes it.

    Args:
        name: the registry's.
        grow, top, width, n_levels, min_p, calibrate: as in ``draft.Model``.
    """

    def __init__(
        self,
        name: str,
        *,
        grow: Grow,
        top: int,
        width: int,
        n_levels: int,
        min_p: float,
        calibrate: bool,
    ) -> None:
        self._name = name
        self._growth = Growth.of(grow, top=top, width=width, n_levels=n_levels, min_p=min_p)
        self._calibration = Calibration(self._growth.n_top) if calibrate else None
        self._target: Context | None = None
        self._layers: list[int] = []
        self._cache: ConditionedCache | None = None

    @abstractmethod
    def prepare(self, model: Model) -> None:
        """Raise ``DraftError`` unless drafts for this target can be made."""

    @abstractmethod
    def _attached(self, context: Context) -> tuple[list[int], ConditionedCache]:
        """The layers whose states are read, and the draft's cache."""

    def attach(self, context: Context) -> None:
        """Make the draft's context, and let the target's passes leave states.

        Raises:
            DraftError: this factory drafts for another engine, or the draft cannot be run.
        """
        self._require_free()
        try:
            self._layers, cache = self._attached(context)
        except PyTreeLlamaError as error:
            raise DraftError(f"the drafter {self._name!r} cannot be run: {error}") from error
        self._target, self._cache = context, cache

    def _require_free(self) -> None:
        if self._cache is not None and not self._cache.closed:
            raise DraftError(
                f"this {self._name} drafter drafts for another engine; make one for each engine"
            )

    def detach(self, context: Context) -> None:
        """Free the draft's context; the engine calls this when it closes."""
        if self._cache is not None and self._target is context:
            self._cache.close()

    def __call__(self) -> ConditionedDrafter:
        """Return a fresh drafter; raises DraftError before an engine has this factory."""
        if self._cache is None or self._target is None:
            raise DraftError(
                f"the drafter {self._name!r} reads a target's hidden states: make an engine with "
                "it first"
            )
        what = self._layers, self._cache, self._growth, self._calibration
        return ConditionedDrafter(self._name, self._target, *what)
