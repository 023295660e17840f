"""Drafting: which tree each sequence brings into the next pass."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from collections.abc import Sequence as Sequence_
from typing import Protocol, TypeVar

from pytreellama.context.context import Context
from pytreellama.draft import EMPTY_TREE
from pytreellama.draft.auto import AutoDrafter
from pytreellama.engine.calibration import measured_curve
from pytreellama.engine.known_costs import load_curve, save_curve
from pytreellama.engine.kv.shared_cells import SharedCells
from pytreellama.engine.sequence import Sequence
from pytreellama.engine.text_seen import TextSeen
from pytreellama.errors import DraftError, PyTreeLlamaError
from pytreellama.plan import (
    CostCurve,
    DrafterBudget,
    DraftPolicy,
    PassCost,
    PlannedRequest,
    Planner,
)
from pytreellama.tree import TokenTree

_log = logging.getLogger(__name__)

_T = TypeVar("_T")


class Drafting(Protocol):
    """Asks the drafters of sequences that are ready to write."""

    def prepare(self) -> None:
        """Get ready for texts to come; called while the cache is empty, before the first."""
        ...

    def trees(self, ready: Sequence_[Sequence], rooms: Sequence_[int]) -> list[TokenTree]:
        """A tree for each sequence, of at most so many nodes below its last token.

        A drafter that fails ends its own sequence.
        """
        ...

    def learn(self, drafted: Sequence_[Sequence], n_nodes: Sequence_[int], seconds: float) -> None:
        """Hear what the pass over the last trees took, with so many nodes of each sequence."""
        ...

    def close(self) -> None:
        """Leave what is worth keeping; the context is still open."""
        ...


class FixedDrafting:
    """Each drafter's tree as it proposes it, as large as there is room."""

    def __init__(self, n_vocab: int) -> None:
        self._n_vocab = n_vocab

    def trees(self, ready: Sequence_[Sequence], rooms: Sequence_[int]) -> list[TokenTree]:
        """See Drafting."""
        return [self._tree(s, room) for s, room in zip(ready, rooms, strict=True)]

    def _tree(self, sequence: Sequence, room: int) -> TokenTree:
        if room < 0:
            return EMPTY_TREE.with_root(sequence.last_token)

        def propose() -> TokenTree:
            tree = sequence.drafter.propose(room)
            _check_tree(tree, room, self._n_vocab, sequence)
            return tree

        tree = _asked(sequence, propose) or EMPTY_TREE
        return tree.with_root(sequence.last_token)

    def prepare(self) -> None:
        """See Drafting: there is nothing to get ready."""

    def learn(self, drafted: Sequence_[Sequence], n_nodes: Sequence_[int], seconds: float) -> None:
        """See Drafting: trees are what they are, whatever they cost."""

    def close(self) -> None:
        """See Drafting: there is nothing to keep."""


class PlannedDrafting:
    """Trees that a ``DraftPolicy`` chooses for all sequences together.

    Every sequence's drafter is an ``AutoDrafter``.

    Args:
        context: the target.
        n_drafters: of each sequence's ``AutoDrafter``.

    Attributes:
        budget: what asking each drafter costs and saves.
    """

    def __init__(self, context: Context, n_drafters: int) -> None:
        self._context = context
        self._policy: DraftPolicy | None = None
        self._is_measured = False
        self._text = TextSeen(context)
        self._shared = SharedCells()
        self.budget = DrafterBudget(n_drafters)

    @property
    def planner(self) -> Planner | None:
        """What chooses the trees, once it is known what passes cost."""
        return None if self._policy is None else self._policy.planner

    def prepare(self) -> None:
        """See Drafting: what passes cost is read from disk, or measured."""
        if self._policy is not None:
            return
        curve = load_curve(self._context) or _measured(self._context)
        self._is_measured = curve is not None
        planner = Planner(curve or _hopeless_curve(), self._context.n_nodes_max)
        self._policy = DraftPolicy(planner, self.budget)

    def trees(self, ready: Sequence_[Sequence], rooms: Sequence_[int]) -> list[TokenTree]:
        """See Drafting."""
        requests = [self._request(sequence) for sequence in ready]
        n_shared = self._n_shared_cells(requests, ready)
        trees = self._known_policy().step(requests, rooms, n_shared)
        for sequence, request, tree in zip(ready, requests, trees, strict=True):
            self._take(sequence, request, tree)
        return trees

    def _request(self, sequence: Sequence) -> PlannedRequest:
        """What the policy keeps of a sequence, as the text stands now."""
        request = sequence.planned
        if request is None:
            assert isinstance(sequence.drafter, AutoDrafter)
            request = sequence.planned = PlannedRequest(sequence.drafter)
        request.root = sequence.last_token
        request.n_cells = self._text.cells(sequence.n_past)
        return request

    def _take(self, sequence: Sequence, request: PlannedRequest, tree: TokenTree) -> None:
        sequence.plan = request.plan
        sequence.n_top = request.n_top
        sequence.stats.draft_s += request.draft_s
        sequence.stats.plan_s += request.plan_s
        if request.error is not None:
            sequence.fail(request.error)
        elif len(tree) > 1:
            _asked(sequence, lambda: _check_tokens(tree, self._context.n_vocab, sequence))

    def learn(self, drafted: Sequence_[Sequence], n_nodes: Sequence_[int], seconds: float) -> None:
        """See Drafting."""
        requests = [sequence.planned for sequence in drafted if sequence.planned is not None]
        n_shared = self._n_shared_cells(requests, drafted)
        self._known_policy().learn(requests, n_nodes, seconds, n_shared)

    def close(self) -> None:
        """See Drafting: what passes cost is kept for the next engine."""
        if self.planner is not None and self._is_measured:
            save_curve(self._context, self.planner.curve)

    def _n_shared_cells(
        self, requests: Sequence_[PlannedRequest], sequences: Sequence_[Sequence]
    ) -> int:
        """Of the cells that these see, those that a pass reads once for several."""
        n_seen = sum(request.n_cells for request in requests)
        n_past = sum(sequence.n_past for sequence in sequences)
        # behind a window a cell counts for some of the layers
        return round(self._shared.count(sequences) * n_seen / max(n_past, 1))

    def _known_policy(self) -> DraftPolicy:
        assert self._policy is not None
        return self._policy


def _measured(context: Context) -> CostCurve | None:
    try:
        return measured_curve(context, share=TextSeen(context).share())
    except PyTreeLlamaError:
        _log.warning("what passes cost cannot be measured; text is written plainly", exc_info=True)
        return None


def _hopeless_curve() -> CostCurve:
    """Every node costs as much as a pass, so no guess ever pays."""
    return CostCurve.fit([PassCost(1, 0, 1.0)])


def _asked(sequence: Sequence, act: Callable[[], _T]) -> _T | None:
    """What a drafter says, on its sequence's account; None if it failed and ended the sequence."""
    started_s = time.perf_counter()
    try:
        return act()
    except BaseException as error:  # it is this request's own
        sequence.fail(error)
        return None
    finally:
        sequence.stats.draft_s += time.perf_counter() - started_s


def _check_tree(tree: TokenTree, n_nodes: int, n_vocab: int, sequence: Sequence) -> None:
    if not isinstance(tree, TokenTree):
        raise DraftError(
            f"the drafter {sequence.drafter.name!r} proposed a {type(tree).__name__}; propose a "
            "TokenTree"
        )
    if len(tree) > n_nodes:
        raise DraftError(
            f"the drafter {sequence.drafter.name!r} proposed {len(tree)} nodes, but was asked "
            f"for at most {n_nodes}"
        )
    _check_tokens(tree, n_vocab, sequence)


def _check_tokens(tree: TokenTree, n_vocab: int, sequence: Sequence) -> None:
    if len(tree) and int(tree.tokens.max()) >= n_vocab:
        raise DraftError(
            f"the drafter {sequence.drafter.name!r} proposed token {int(tree.tokens.max())}, "
            f"but the vocabulary ends at {n_vocab - 1}"
        )
