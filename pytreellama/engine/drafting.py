"""Drafting: which tree each sequence brings into the next pass."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from collections.abc import Sequence as Sequence_
from functools import partial
from typing import Protocol, TypeVar

from pytreellama.core.context import Context
from pytreellama.draft import EMPTY_TREE
from pytreellama.draft.auto import AutoDrafter
from pytreellama.engine.calibration import measured_curve
from pytreellama.engine.known_costs import load_curve, save_curve
from pytreellama.engine.sequence import Sequence
from pytreellama.engine.shared_cells import SharedCells
from pytreellama.engine.text_seen import TextSeen
from pytreellama.errors import DraftError, PyTreeLlamaError
from pytreellama.plan import CostCurve, Guesses, PassCost, Plan, Planner, Worth
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
    """Trees chosen for all sequences together, from guesses and costs; see ``Planner``.

    Every sequence's drafter is an ``AutoDrafter``.

    Args:
        context: the target.
        worth: of the drafters that all sequences have.
    """

    def __init__(self, context: Context, worth: Worth) -> None:
        self._context = context
        self._worth = worth
        self.planner: Planner | None = None
        self._is_measured = False
        self._text = TextSeen(context)
        self._seen: dict[Sequence, int] = {}
        self._shared = SharedCells()

    def prepare(self) -> None:
        """See Drafting: what passes cost is read from disk, or measured."""
        if self.planner is not None:
            return
        curve = load_curve(self._context) or _measured(self._context)
        self._is_measured = curve is not None
        self.planner = Planner(curve or _hopeless_curve(), self._context.n_nodes_max)

    def trees(self, ready: Sequence_[Sequence], rooms: Sequence_[int]) -> list[TokenTree]:
        """See Drafting."""
        self._seen = {sequence: self._text.cells(sequence.n_past) for sequence in ready}
        looking = [
            (sequence, room)
            for sequence, room in zip(ready, rooms, strict=True)
            if room > 0 and _auto(sequence).vigilance.looks()
        ]
        resting = set(ready) - {sequence for sequence, _ in looking}
        for sequence in resting:
            _rest(sequence)
        plans = self._plans(looking, ready) if looking else {}
        return [self._tree(sequence, plans.get(sequence)) for sequence in ready]

    def _plans(
        self, looking: Sequence_[tuple[Sequence, int]], ready: Sequence_[Sequence]
    ) -> dict[Sequence, Plan]:
        planner = self._known_planner()
        seen = [self._seen[sequence] for sequence, _ in looking]
        beside = set(ready).difference(sequence for sequence, _ in looking)
        seen_by_all = [*seen, *(self._seen[sequence] for sequence in beside)]
        min_p = planner.least_p(seen_by_all)
        for sequence, _ in looking:
            _wake(sequence)
        started_s = time.perf_counter()
        guesses = [_guesses(sequence, room, min_p) for sequence, room in looking]
        spent_s = time.perf_counter() - started_s
        rooms = [room for _, room in looking]
        n_shared = self._n_shared_cells(ready)
        plans = planner.plan(guesses, seen_by_all, spent_s, rooms, n_shared)
        planned_s = (time.perf_counter() - started_s - spent_s) / len(looking)
        for (sequence, _), plan, n_seen in zip(looking, plans, seen, strict=True):
            sequence.stats.plan_s += planned_s
            drafter = _auto(sequence)
            drafter.judge(partial(planner.gain_s, plan.guesses, n_read=n_seen))
            drafting_s = sequence.stats.draft_s + sequence.stats.plan_s
            drafter.vigilance.learn(plan.saved_s, drafting_s)
        return {sequence: plan for (sequence, _), plan in zip(looking, plans, strict=True)}

    def _tree(self, sequence: Sequence, plan: Plan | None) -> TokenTree:
        sequence.plan = plan
        root = sequence.last_token
        if plan is None or not plan.nodes or sequence.is_finished:
            return EMPTY_TREE.with_root(root)

        def made() -> TokenTree:
            tree = plan.tree(root)
            _check_tree(tree, len(plan.nodes) + 1, self._context.n_vocab, sequence)
            return tree

        return _asked(sequence, made) or EMPTY_TREE.with_root(root)

    def learn(self, drafted: Sequence_[Sequence], n_nodes: Sequence_[int], seconds: float) -> None:
        """See Drafting."""
        seen = [self._seen[sequence] for sequence in drafted]
        n_attended = sum(n * cells for n, cells in zip(n_nodes, seen, strict=True))
        n_read = sum(seen) - self._n_shared_cells(drafted)
        done = PassCost(sum(n_nodes), n_read, seconds, n_attended, len(seen))
        self._known_planner().learn(done)
        self._worth.pass_time(seconds)

    def close(self) -> None:
        """See Drafting: what passes cost is kept for the next engine."""
        if self.planner is not None and self._is_measured:
            save_curve(self._context, self.planner.curve)

    def _n_shared_cells(self, sequences: Sequence_[Sequence]) -> int:
        """Of the cells that these see, those that a pass reads once for several."""
        n_seen = sum(self._seen[sequence] for sequence in sequences)
        n_past = sum(sequence.n_past for sequence in sequences)
        # behind a window a cell counts for some of the layers
        return round(self._shared.count(sequences) * n_seen / max(n_past, 1))

    def _known_planner(self) -> Planner:
        assert self.planner is not None
        return self.planner


def _measured(context: Context) -> CostCurve | None:
    try:
        return measured_curve(context, share=TextSeen(context).share())
    except PyTreeLlamaError:
        _log.warning("what passes cost cannot be measured; text is written plainly", exc_info=True)
        return None


def _hopeless_curve() -> CostCurve:
    """Every node costs as much as a pass, so no guess ever pays."""
    return CostCurve.fit([PassCost(1, 0, 1.0)])


def _rest(sequence: Sequence) -> None:
    _auto(sequence).rest()
    sequence.n_top = 0


def _wake(sequence: Sequence) -> None:
    """What it takes to catch up with the text is not what this look costs."""
    drafter = _auto(sequence)
    _asked(sequence, drafter.wake)
    sequence.n_top = drafter.n_top
    drafter.vigilance.rest(sequence.stats.draft_s + sequence.stats.plan_s)


def _guesses(sequence: Sequence, room: int, min_p: float) -> Guesses:
    drafter = _auto(sequence)
    return _asked(sequence, lambda: drafter.guess(room, min_p)) or Guesses.of([])


def _auto(sequence: Sequence) -> AutoDrafter:
    assert isinstance(sequence.drafter, AutoDrafter)
    return sequence.drafter


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
    if len(tree) and int(tree.tokens.max()) >= n_vocab:
        raise DraftError(
            f"the drafter {sequence.drafter.name!r} proposed token {int(tree.tokens.max())}, "
            f"but the vocabulary ends at {n_vocab - 1}"
        )
