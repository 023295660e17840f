"""Drafting: the tree that each request verifies in the next pass."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from pytreellama.context.context import Context
from pytreellama.draft import EMPTY_TREE, SharesPasses
from pytreellama.draft.auto import AutoDrafter
from pytreellama.engine.calibration import measured_curve
from pytreellama.engine.jobs import GenerateJob
from pytreellama.engine.known_costs import load_curve, save_curve
from pytreellama.engine.kv.shared_cells import SharedCells
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
from pytreellama.tree.chains import likeliest_chain

_log = logging.getLogger(__name__)

_T = TypeVar("_T")


class Drafting(Protocol):
    """Chooses trees for jobs that are ready to decode."""

    def prepare(self) -> None:
        """Prepare for requests; called before the first, while the KV cache is empty."""
        ...

    def trees(self, ready: Sequence[GenerateJob], rooms: Sequence[int]) -> list[TokenTree]:
        """The tree of each job; node 0 is its last token. A drafter that raises fails its job.

        Args:
            rooms: maximum number of draft nodes of each, excluding the root; -1 to skip drafting.
        """
        ...

    def learn(self, drafted: Sequence[GenerateJob], n_nodes: Sequence[int], seconds: float) -> None:
        """Learn what a pass took.

        Args:
            drafted: its jobs.
            n_nodes: of each tree, the root included.
            seconds: of the pass, verification included.
        """
        ...

    def close(self) -> None:
        """Save what was learned; the context is still open."""
        ...


class FixedDrafting:
    """Each drafter's tree as proposed, as large as there is room.

    Args:
        chains_only: the target can verify chains alone: of each tree, its likeliest path.
    """

    def __init__(self, n_vocab: int, chains_only: bool = False) -> None:
        self._n_vocab = n_vocab
        self._chains_only = chains_only

    def trees(self, ready: Sequence[GenerateJob], rooms: Sequence[int]) -> list[TokenTree]:
        """See Drafting."""
        for job, room in zip(ready, rooms, strict=True):
            if room > 0 and isinstance(job.drafter, SharesPasses):
                job.drafter.announce(room)
        return [self._tree(s, room) for s, room in zip(ready, rooms, strict=True)]

    def _tree(self, job: GenerateJob, room: int) -> TokenTree:
        if room < 0:
            return EMPTY_TREE.with_root(job.state.last)

        def propose() -> TokenTree:
            tree = job.drafter.propose(room)
            _check_tree(tree, room, self._n_vocab, job)
            return tree

        tree = _asked(job, propose) or EMPTY_TREE
        if self._chains_only:
            tree = _likeliest_chain(tree)
        return tree.with_root(job.state.last)

    def prepare(self) -> None:
        """See Drafting: there is nothing to prepare."""

    def learn(self, drafted: Sequence[GenerateJob], n_nodes: Sequence[int], seconds: float) -> None:
        """See Drafting: costs are not used."""

    def close(self) -> None:
        """See Drafting: there is nothing to save."""


class PlannedDrafting:
    """Trees that a ``DraftPolicy`` chooses for all jobs together.

    The drafter of every job must be an ``AutoDrafter``.

    Args:
        context: the target.
        n_drafters: of each ``AutoDrafter``.

    Attributes:
        budget: cost and benefit of each drafter.
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
        """The planner, once the cost of passes is known."""
        return None if self._policy is None else self._policy.planner

    def prepare(self) -> None:
        """See Drafting: the cost curve is read from disk, or measured."""
        if self._policy is not None:
            return
        curve = load_curve(self._context) or _measured(self._context)
        self._is_measured = curve is not None
        chains_only = not self._context.can_branch
        planner = Planner(curve or _hopeless_curve(), self._context.n_nodes_max, chains_only)
        self._policy = DraftPolicy(planner, self.budget)

    def trees(self, ready: Sequence[GenerateJob], rooms: Sequence[int]) -> list[TokenTree]:
        """See Drafting."""
        requests = [self._request(job) for job in ready]
        n_shared = self._n_shared_cells(requests, ready)
        trees = self._known_policy().step(requests, rooms, n_shared)
        for job, request, tree in zip(ready, requests, trees, strict=True):
            self._take(job, request, tree)
        return trees

    def _request(self, job: GenerateJob) -> PlannedRequest:
        """The policy's view of a job, updated to its present tokens."""
        request = job.planned
        if request is None:
            assert isinstance(job.drafter, AutoDrafter)
            request = job.planned = PlannedRequest(job.drafter, excluded=_excluded(job))
        request.root = job.state.last
        request.n_cells = self._text.cells(job.state.n_past)
        return request

    def _take(self, job: GenerateJob, request: PlannedRequest, tree: TokenTree) -> None:
        job.plan = request.plan
        job.n_top = request.n_top
        job.stats.draft_s += request.draft_s
        job.stats.plan_s += request.plan_s
        if request.error is not None:
            job.fail(request.error)
        elif len(tree) > 1:
            _asked(job, lambda: _check_tokens(tree, self._context.n_vocab, job))

    def learn(self, drafted: Sequence[GenerateJob], n_nodes: Sequence[int], seconds: float) -> None:
        """See Drafting."""
        requests = [job.planned for job in drafted if job.planned is not None]
        n_shared = self._n_shared_cells(requests, drafted)
        self._known_policy().learn(requests, n_nodes, seconds, n_shared)

    def close(self) -> None:
        """See Drafting: the cost curve is saved for the next engine."""
        if self.planner is not None and self._is_measured:
            save_curve(self._context, self.planner.curve)

    def _n_shared_cells(
        self, requests: Sequence[PlannedRequest], jobs: Sequence[GenerateJob]
    ) -> int:
        """Of the cells that these attend to, those that a pass reads once for several."""
        n_seen = sum(request.n_cells for request in requests)
        n_past = sum(job.state.n_past for job in jobs)
        # beyond a sliding window, a cell counts for some of the layers
        return round(self._shared.count(jobs) * n_seen / max(n_past, 1))

    def _known_policy(self) -> DraftPolicy:
        assert self._policy is not None
        return self._policy


def _excluded(job: GenerateJob) -> frozenset[int]:
    """The drafters that a request does not want to be asked."""
    wanted = job.request.drafters
    assert isinstance(job.drafter, AutoDrafter)
    names = () if wanted is None else job.drafter.names
    return frozenset(i for i, name in enumerate(names) if wanted and name not in wanted)


def _measured(context: Context) -> CostCurve | None:
    try:
        return measured_curve(context, share=TextSeen(context).share())
    except PyTreeLlamaError:
        _log.warning("the cost of passes cannot be measured; no drafting", exc_info=True)
        return None


def _likeliest_chain(tree: TokenTree) -> TokenTree:
    p = [1.0] * len(tree) if tree.p is None else tree.p.tolist()  # the longest path
    chain = likeliest_chain(tree.parents.tolist(), p, len(tree))
    return TokenTree.chain(tree.tokens[chain], None if tree.p is None else tree.p[chain])


def _hopeless_curve() -> CostCurve:
    """A curve on which a node costs as much as a pass, so that nothing is drafted."""
    return CostCurve.fit([PassCost(1, 0, 1.0)])


def _asked(job: GenerateJob, act: Callable[[], _T]) -> _T | None:
    """Call a drafter and count its time; None if it raised, which fails the job."""
    started_s = time.perf_counter()
    try:
        return act()
    except BaseException as error:  # it belongs to this request only
        job.fail(error)
        return None
    finally:
        job.stats.draft_s += time.perf_counter() - started_s


def _check_tree(tree: TokenTree, n_nodes: int, n_vocab: int, job: GenerateJob) -> None:
    if not isinstance(tree, TokenTree):
        raise DraftError(
            f"the drafter {job.drafter.name!r} proposed a {type(tree).__name__}; propose a "
            "TokenTree"
        )
    if len(tree) > n_nodes:
        raise DraftError(
            f"the drafter {job.drafter.name!r} proposed {len(tree)} nodes, but was asked "
            f"for at most {n_nodes}"
        )
    _check_tokens(tree, n_vocab, job)


def _check_tokens(tree: TokenTree, n_vocab: int, job: GenerateJob) -> None:
    if len(tree) and int(tree.tokens.max()) >= n_vocab:
        raise DraftError(
            f"the drafter {job.drafter.name!r} proposed token {int(tree.tokens.max())}, "
            f"but the vocabulary ends at {n_vocab - 1}"
        )
