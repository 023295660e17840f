"""Scheduler: continuous batching with chunked prefill; admits, preempts and finishes jobs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

from pytreellama.context.context import Context
from pytreellama.engine.drafting import Drafting, FixedDrafting
from pytreellama.engine.jobs import EvaluationJob, GenerateJob, Job, JobLimits, ReadyJobs
from pytreellama.engine.kv.checkpoints import Checkpoints
from pytreellama.engine.kv.manager import KVCacheManager
from pytreellama.engine.kv.prefix_cache import PrefixCache
from pytreellama.engine.kv.shift import shift
from pytreellama.engine.load import Load
from pytreellama.engine.prefill import ChunkedPrefill, use_adapters
from pytreellama.engine.tree_pass import Rule, TreePass
from pytreellama.errors import CacheFullError
from pytreellama.model.lora import AdapterSet
from pytreellama.verify import rejection

N_PREFILL = 128
"""Default number of prompt tokens that a step prefills."""

MAX_SWAP_BYTES = 1 << 30
"""Default size of the swap space in host memory."""

MAX_CHECKPOINT_BYTES = 256 << 20
"""Default size of all checkpoints of prefixes in host memory."""

_N_TREE = 8  # cells for a tree that a job needs to be admitted; it uses more if they are free


class Scheduler:
    """Runs jobs on a context. A step prefills some prompt tokens, then decodes all ready jobs.

    Jobs are added and cancelled between any two steps. Prompts are prefilled in chunks that begin
    at multiples of ``n_prefill``, each in a pass of its own, so that keys and values depend on the
    prompt only. A step prefills at most so many tokens, which bounds the time between two decode
    passes. All jobs that are ready to decode share one pass over their trees.

    Ended jobs may leave cached prefixes; these are evicted first when cells are needed, the least
    recently used before others. If the KV cache is still full, the newest job is preempted: its
    keys and values are swapped out to host memory, and swapped in when it resumes, bit for bit.

    It belongs to one thread at a time, as its context does.

    Args:
        context: the target; its sequences belong to the scheduler.
        n_draft: maximum number of draft nodes of a tree; with 0, drafters are not used.
        n_prefill: maximum number of prompt tokens that a step prefills, 1 or more.
        max_swap_bytes: size of the swap space; what does not fit is computed again on resume.
        rule: verification rule; see ``TreePass``.
        drafting: what chooses the trees; by default each is what its drafter proposes.
        n_cached_prefixes: maximum size of the prefix cache. Each cached prefix holds a sequence id
            of the context, so as many fewer jobs run at once.
        max_checkpoint_bytes: host memory for recurrent states and sliding windows of prefixes.
    """

    def __init__(
        self,
        context: Context,
        n_draft: int,
        *,
        n_prefill: int = N_PREFILL,
        max_swap_bytes: int = MAX_SWAP_BYTES,
        rule: Rule = "match",
        drafting: Drafting | None = None,
        n_cached_prefixes: int = 0,
        max_checkpoint_bytes: int = MAX_CHECKPOINT_BYTES,
    ) -> None:
        self._context = context
        self._n_running_max = context.n_seq_max - n_cached_prefixes
        self._n_draft = n_draft
        n_prefill = min(n_prefill, context.n_ubatch)
        self._waiting: list[Job] = []  # in the order of arrival
        self._running: list[Job] = []
        self._n_arrived = 0
        self._load_now = Load()
        self._kv = KVCacheManager(
            context,
            n_chunk=1 if context.is_batch_invariant else n_prefill,
            n_cached_prefixes=n_cached_prefixes,
            max_swap_bytes=max_swap_bytes,
            max_checkpoint_bytes=max_checkpoint_bytes,
        )
        self._prefill = ChunkedPrefill(context, self._kv, n_prefill)
        self._rule: Rule = rule
        self._pass = TreePass(context, rule)
        self._drafting: Drafting = drafting or FixedDrafting(
            context.n_vocab, chains_only=not context.can_branch
        )
        self._limits = JobLimits(
            n_text_max=context.n_text_max,
            n_nodes_max=self._pass.capacity,
            can_shift=context.memory.can_shift,
            greedy_only=rule == "typical",
        )

    @property
    def is_idle(self) -> bool:
        """True if there are no jobs."""
        return not self._waiting and not self._running

    @property
    def n_waiting(self) -> int:
        """Number of jobs without a sequence in the KV cache, preempted jobs included."""
        return len(self._waiting)

    @property
    def load(self) -> Load:
        """Load as of the last step; may be read from any thread."""
        return self._load_now

    @property
    def prefix_cache(self) -> PrefixCache:
        """Prefixes of ended jobs that are still in the KV cache."""
        return self._kv.prefix_cache

    def clear_prefix_cache(self) -> None:
        """Evict all cached prefixes, and their checkpoints."""
        while self._kv.prefix_cache.evict_oldest():
            pass
        self._kv.checkpoints.clear()
        self.update_load()

    @property
    def checkpoints(self) -> Checkpoints:
        """Recurrent states and sliding windows of prefixes, in host memory."""
        return self._kv.checkpoints

    # -- between steps

    def check(self, job: Job) -> None:
        """Raise RequestError for a job that could never run here; may be called on any thread."""
        job.check(self._limits)

    def add(self, job: Job) -> None:
        """Queue a job that passed ``check``."""
        job.stats.is_lossy = self._rule not in ("match", rejection)
        job.arrival = self._n_arrived
        self._n_arrived += 1
        self._waiting.append(job)

    def prepare(self) -> None:
        """Measure what passes cost, if need be, while the KV cache is empty."""
        if self.is_idle:
            self._drafting.prepare()

    def cancel(self, job: Job) -> None:
        """Finish a job with its output so far; the next step frees its resources."""
        if not job.is_finished:
            job.finish("cancelled")

    def cancel_all(self) -> None:
        """Finish all jobs, and free their resources."""
        for job in [*self._waiting, *self._running]:
            self.cancel(job)
        self._remove_finished()
        self.update_load()

    def abort(self) -> None:
        """Abort the pass that is running, as ``Context.abort``; may be called on any thread."""
        self._context.abort()

    def close(self) -> None:
        """Save what drafting has learned; the context is still open."""
        if not self._context.closed:
            self._drafting.close()

    def update_load(self) -> None:
        """Refresh the ``load`` snapshot after work done outside ``step``."""
        kv = self._kv
        self._load_now = Load(
            n_running=len(self._running),
            n_waiting=len(self._waiting),
            n_cached_prefixes=len(kv.prefix_cache),
            n_cells_used=kv.n_used,
            n_checkpoints=len(kv.checkpoints),
            n_checkpoint_bytes=kv.checkpoints.n_bytes,
        )

    # -- a step

    def step(self) -> list[Job]:
        """Prefill and decode once; returns the jobs that progressed, finished ones included."""
        stepped = self._remove_finished()
        try:
            self._admit()
            stepped += self._running
            self._run_prefill()
            ready = self._ready()
            started_s = time.perf_counter()
            self._run_own_passes(ready.for_own_pass)
            self._run_tree_pass(ready.for_tree_pass)
            is_decoding = bool(ready.for_own_pass or ready.for_tree_pass)
            self._prefill.share.decoded(time.perf_counter() - started_s if is_decoding else 0.0)
        except BaseException as error:
            # a failed pass fails every job in it; a failed admission fails the job to be admitted
            for job in self._running or self._waiting[:1]:
                if not job.is_finished:
                    job.fail(error)
        stepped = [*stepped, *self._remove_finished(reported=stepped)]
        if stepped:
            self.update_load()
        return stepped

    def _admit(self) -> None:
        if self._waiting and not self._running:
            self._drafting.prepare()
        while self._waiting and self._has_room(self._waiting[0]):
            job = self._waiting.pop(0)
            self._running.append(job)
            if not job.is_started:
                _guard(job, partial(job.start, self._n_draft > 0))
            # prefixes are shared now: they may be evicted before the job's turn to prefill
            self._kv.allocate(job, self._running)

    def _has_room(self, job: Job) -> bool:
        """True if there are cells for its prompt, for others' prompts, and for a tree of each."""
        if not self._running:
            return True
        if len(self._running) >= self._n_running_max:
            return False
        n_needed = sum(other.n_missing + 1 for other in self._running)
        n_needed += (len(self._running) + 1) * min(self._n_draft, _N_TREE)
        while True:
            n_shared = self._kv.n_shareable(job, self._running)
            if n_needed + len(job.state) - n_shared <= self._kv.n_free:
                return True
            if not self._kv.prefix_cache.evict_oldest():
                return False

    def _preempt(self, job: Job) -> None:
        """Move a running job back to the queue, at the place of its arrival."""
        self._kv.preempt(job)
        self._running.remove(job)
        self._waiting.append(job)
        self._waiting.sort(key=lambda waiting: waiting.arrival)

    def _remove_finished(self, reported: Sequence[Job] = ()) -> list[Job]:
        """Free the resources of finished jobs; returns those that are not in ``reported``."""
        done = [job for job in [*self._running, *self._waiting] if job.is_finished]
        for job in done:
            self._kv.release(job)
            job.close(self._n_draft > 0)
        if done:
            self._running = [job for job in self._running if not job.is_finished]
            self._waiting = [job for job in self._waiting if not job.is_finished]
        return [job for job in done if job not in reported]

    def _make_room(self, error: CacheFullError | None) -> None:
        """Evict a prefix or preempt the newest job; a job that is alone ends, as nothing helps."""
        if self._kv.prefix_cache.evict_oldest():
            return
        if len(self._running) > 1:
            self._preempt(self._newest())
        elif error is None:
            self._running[0].finish("context")
        else:
            self._running[0].fail(error)

    def _newest(self) -> Job:
        return max(self._running, key=lambda job: job.arrival)

    # -- the passes of a step

    def _run_prefill(self) -> None:
        try:
            for job in self._prefill.run(self._running):
                _guard(job, job.report_prefill)
        except CacheFullError as error:
            self._make_room(error)

    def _run_own_passes(self, ready: Sequence[EvaluationJob]) -> None:
        """One pass for each job; without room for one, the rest wait for the next step."""
        for job in ready:
            self._kv.evict_for(job.n_cells)
            try:
                self._context.use_adapters(job.adapters)
                job.run(self._context)
            except CacheFullError as error:
                self._make_room(error)
                return
            except BaseException as error:  # it belongs to this request only
                job.fail(error)

    def _run_tree_pass(self, ready: Sequence[GenerateJob]) -> None:
        # passes before this one may have preempted or failed some of them
        ready = [job for job in ready if job.seq_id is not None and self._has_text_room(job)]
        self._kv.evict_for(len(ready) * (1 + self._n_draft))
        while len(ready) > 1 and self._kv.n_free < len(ready):
            self._preempt(self._newest())
            ready = [job for job in ready if job.seq_id is not None]
        if ready and self._kv.n_free < 1:
            self._make_room(None)
            ready = [job for job in ready if job.seq_id is not None and not job.is_finished]
        for group in self._groups(ready):
            # passes of groups before this one may have preempted or failed some of it
            alive = [job for job in group if job.seq_id is not None and not job.is_finished]
            if alive and use_adapters(self._context, alive):
                self._decode(alive, len(ready))

    def _groups(self, ready: Sequence[GenerateJob]) -> list[list[GenerateJob]]:
        """Jobs by their LoRA adapters, which all tokens of a pass share; those in use first."""
        groups: dict[AdapterSet, list[GenerateJob]] = {self._context.adapters: []}
        for job in ready:
            groups.setdefault(job.adapters, []).append(job)
        return list(groups.values())

    def _ready(self) -> ReadyJobs:
        """Jobs whose tokens are in the KV cache, except for the last."""
        ready = ReadyJobs()
        for job in self._running:
            if job.n_missing == 0 and not job.is_finished:
                job.join(ready)
        return ready

    def _decode(self, ready: Sequence[GenerateJob], n_ready: int) -> None:
        """One pass over the trees of jobs, of ``n_ready`` that have a turn in this step."""
        n_cells = self._kv.n_free // n_ready
        rooms = [self._n_nodes(job, n_cells, len(ready)) for job in ready]
        drafted, trees = [], []
        for job, tree in zip(ready, self._drafting.trees(ready, rooms), strict=True):
            if not job.is_finished:
                drafted.append(job)
                trees.append(tree)
        if not drafted:
            return
        started_s = time.perf_counter()
        try:
            self._pass.run(drafted, trees, self._n_draft > 0)
        except CacheFullError as error:
            self._make_room(error)
            return
        spent_s = time.perf_counter() - started_s
        self._drafting.learn(drafted, [len(tree) for tree in trees], spent_s)

    def _has_text_room(self, job: GenerateJob) -> bool:
        """True if the context has room for one more token, after a context shift if need be."""
        if job.state.n_past >= self._limits.n_text_max:
            if job.request.context_shift:
                _guard(job, lambda: shift(self._context, job, self._limits.n_text_max))
            else:
                job.finish("context")
        return not job.is_finished

    def _n_nodes(self, job: GenerateJob, n_cells: int, n_ready: int) -> int:
        """Maximum number of draft nodes, excluding the root; -1 to skip drafting."""
        n_draft = self._n_draft
        if job.request.n_draft is not None:
            n_draft = min(n_draft, job.request.n_draft)
        # no token is drawn after the last that may be generated
        if n_draft == 0 or job.n_left == 1:
            return -1
        room = min(
            n_draft,
            n_cells - 1,
            self._limits.n_text_max - job.state.n_past - 1,
            self._pass.capacity // n_ready - 1,
            self._context.n_tree_max - 1,
        )
        if self._context.can_branch:
            # n nodes have n leaves at most, and the first needs no id of its own
            room = min(room, 1 + self._context.sequences.n_spare_leaves // n_ready)
        return max(room, 0)


def _guard(job: Job, act: Callable[[], object]) -> None:
    """Let an error in work for one job fail that job only."""
    try:
        act()
    except BaseException as error:
        job.fail(error)
