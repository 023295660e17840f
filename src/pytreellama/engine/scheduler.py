"""Scheduler: who is in the cache, who reads, who writes, and who has to wait."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from collections.abc import Sequence as Sequence_
from dataclasses import dataclass

import numpy as np

from pytreellama.context.context import Context
from pytreellama.engine.drafting import Drafting, FixedDrafting
from pytreellama.engine.evaluation import Evaluation
from pytreellama.engine.kv.prefixes import Prefixes
from pytreellama.engine.kv.shift import shift
from pytreellama.engine.kv.swap import SavedStates
from pytreellama.engine.sequence import Sequence
from pytreellama.engine.tree_pass import Rule, TreePass
from pytreellama.errors import (
    CacheFullError,
    MemoryStateError,
    RequestError,
)

_log = logging.getLogger(__name__)

N_PREFILL = 128
"""Prompt tokens that are read in a step, by default."""

_N_TREE = 8  # cells for a tree that a sequence needs to be let in; more are taken if they are free

MAX_SAVED_BYTES = 1 << 30
"""Of keys and values that are set aside, by default."""


@dataclass(frozen=True, slots=True)
class Load:
    """How busy an engine is.

    Attributes:
        n_running: requests in the cache, reading or writing.
        n_waiting: those that wait for room in it.
        n_kept: ended texts that stay for those that begin alike.
        n_cells_used: tokens in the cache, by all of these; shared ones count once.
    """

    n_running: int = 0
    n_waiting: int = 0
    n_kept: int = 0
    n_cells_used: int = 0


class Scheduler:
    """Runs sequences on a context. A step reads a piece of a prompt, then writes for all that can.

    Sequences come and go at any step. A prompt is read in pieces that begin at multiples of
    ``n_prefill``, alone in their pass, so that what they come out as depends on the prompt and on
    nothing beside it; in a step at most so many tokens are read, so that those who write wait no
    longer. All that are ready to write share one pass over their trees.

    Texts that have ended may stay in the cache for those that begin as they do (``n_kept``); their
    room is given to whoever needs it, the one that was used longest ago first. Where the cache is
    still full, the sequence that arrived last gives way: its keys and values are set aside in host
    memory and come back later, bit for bit. It loses nothing but time.

    It belongs to one thread at a time, as its context does.

    Args:
        context: the target; its sequences belong to the scheduler.
        n_draft: most drafted nodes of a tree; with 0, drafters are not asked at all.
        n_prefill: prompt tokens that are read in a step, 1 or more.
        max_saved_bytes: of keys and values that are set aside; beyond it they are computed again.
        rule: how trees are verified; see ``TreePass``.
        drafting: how trees are found; by default each is what its drafter proposes.
        n_kept: most ended texts that stay; so many fewer of the context's sequences run at once.

    Attributes:
        prefixes: what texts share, and the ended ones that stay.
    """

    def __init__(
        self,
        context: Context,
        n_draft: int,
        *,
        n_prefill: int = N_PREFILL,
        max_saved_bytes: int = MAX_SAVED_BYTES,
        rule: Rule = "match",
        drafting: Drafting | None = None,
        n_kept: int = 0,
    ) -> None:
        self._context = context
        self._n_running_max = context.n_seq_max - n_kept
        self._n_draft = n_draft
        self._n_prefill = min(n_prefill, context.n_ubatch)
        self._n_text_max = context.n_text_max
        self._waiting: list[Sequence] = []  # in the order of arrival
        self._running: list[Sequence] = []
        self._n_arrived = 0
        self._load_now = Load()
        self._saved = SavedStates(max_saved_bytes)
        n_chunk = 1 if context.is_batch_invariant else self._n_prefill
        self.prefixes = Prefixes(context, n_chunk, n_kept)
        self._rule: Rule = rule
        self._pass = TreePass(context, rule)
        self._drafting: Drafting = drafting or FixedDrafting(context.n_vocab)

    @property
    def is_idle(self) -> bool:
        return not self._waiting and not self._running

    @property
    def n_waiting(self) -> int:
        """Sequences that are not in the cache, those that gave way included."""
        return len(self._waiting)

    @property
    def load(self) -> Load:
        """How busy it is after the last step; may be asked from any thread."""
        return self._load_now

    def check(self, sequence: Sequence) -> None:
        """Raise RequestError for a sequence that could never run here."""
        n_prompt, n_ctx = len(sequence.context), self._n_text_max
        if n_prompt >= n_ctx:
            raise RequestError(
                f"the prompt has {n_prompt} tokens, and the context of {n_ctx} must hold it and "
                "the answer; shorten it, or make the engine with a larger n_ctx"
            )
        if isinstance(sequence, Evaluation):
            sequence.check_size(n_ctx, self._pass.capacity)
            return
        if self._rule == "typical" and not sequence.sampler.is_argmax:
            raise RequestError(
                "verify='typical' takes greedy requests alone; leave the sampler's options out, or "
                "make the engine with verify='match', which is exact for every sampler"
            )
        if sequence.request.context_shift and not self._context.memory.can_shift:
            raise RequestError(
                "context_shift was asked for, but this model's positions cannot be moved; leave it "
                "out, or make the engine with a larger n_ctx"
            )

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence that ``check`` has let through."""
        sequence.stats.is_lossy = self._rule != "match"
        sequence.arrival = self._n_arrived
        self._n_arrived += 1
        self._waiting.append(sequence)

    def prepare(self) -> None:
        """Get ready for the first text, while nothing is in the cache."""
        if self.is_idle:
            self._drafting.prepare()

    def cancel(self, sequence: Sequence) -> None:
        """End a sequence where it stands; the next step frees what it holds."""
        if not sequence.is_finished:
            sequence.finish("cancelled")

    def cancel_all(self) -> None:
        """End all sequences, and free what they hold."""
        for sequence in [*self._waiting, *self._running]:
            self.cancel(sequence)
        self._drop_finished()
        self.count_load()

    def abort(self) -> None:
        """End the pass that runs, as ``Context.abort``; may be asked from any thread."""
        self._context.abort()

    def close(self) -> None:
        """Leave what drafting learned; the context is still open."""
        if not self._context.closed:
            self._drafting.close()

    def step(self) -> list[Sequence]:
        """Read and write once; returns the sequences that got further, finished ones included."""
        stepped = self._drop_finished()
        try:
            self._admit()
            stepped += self._running
            self._read()
            self._evaluate()
            self._write()
        except BaseException as error:
            # a pass that fails takes with it all that were in it; a beginning, whoever was to begin
            for sequence in self._running or self._waiting[:1]:
                if not sequence.is_finished:
                    sequence.fail(error)
        stepped = [*stepped, *self._drop_finished(besides=stepped)]
        if stepped:
            self.count_load()
        return stepped

    def count_load(self) -> None:
        """Let ``load`` tell of what was done besides steps."""
        n_used = self._context.memory.n_cells_used or 0
        n_kept = len(self.prefixes.kept)
        self._load_now = Load(len(self._running), len(self._waiting), n_kept, n_used)

    # -- coming and going

    def _admit(self) -> None:
        if self._waiting and not self._running:
            self._drafting.prepare()
        while self._waiting and self._has_room(self._waiting[0]):
            self._enter(self._waiting.pop(0))

    def _has_room(self, sequence: Sequence) -> bool:
        """Room for what it lacks, what others still lack, and a tree for everyone."""
        if not self._running:
            return True
        if len(self._running) >= self._n_running_max:
            return False
        n_needed = sum(other.n_missing + 1 for other in self._running)
        n_needed += (len(self._running) + 1) * min(self._n_draft, _N_TREE)
        while True:
            n_shared = self.prefixes.n_shareable(sequence, self._running)
            if n_needed + len(sequence.context) - n_shared <= self._n_free():
                return True
            if not self.prefixes.kept.drop_oldest():
                return False

    def _enter(self, sequence: Sequence) -> None:
        sequence.seq_id = self._context.sequences.new()
        self._running.append(sequence)
        if not sequence.is_started:
            self._begin(sequence)
        state = self._saved.take(sequence)
        if state is not None:
            self._load(sequence, state)
        # what is kept may have to go before its turn to read comes
        self.prefixes.adopt(sequence, self._running)

    def _begin(self, sequence: Sequence) -> None:
        sequence.start()
        tokens = np.array(sequence.context, dtype=np.int32)
        if not sequence.is_forked:
            self._guard(sequence, lambda: sequence.sampler.accept_prompt(tokens))
        if self._n_draft > 0:
            started_s = time.perf_counter()
            self._guard(sequence, lambda: sequence.drafter.observe(tokens))
            # the drafter reads the prompt as the model does: it is not what a step takes
            sequence.stats.prefill_s += time.perf_counter() - started_s

    def _load(self, sequence: Sequence, state: bytes) -> None:
        try:
            self._context.memory.load(state, sequence.require_id())
        except MemoryStateError:
            return  # no room for it in one piece: it is read again
        sequence.n_past = len(sequence.context) - 1

    def _give_way(self, sequence: Sequence) -> None:
        """Leave the cache, and wait for another turn."""
        if sequence.can_be_set_aside:
            self._saved.put(sequence, self._context.memory.save(sequence.require_id()))
        self._leave(sequence)
        sequence.n_past = 0
        sequence.stats.n_preempted += 1
        self._running.remove(sequence)
        self._waiting.append(sequence)
        self._waiting.sort(key=lambda waiting: waiting.arrival)

    def _leave(self, sequence: Sequence, keeps: bool = False) -> None:
        if sequence.seq_id is not None and not self._context.closed:
            is_kept = keeps and self.prefixes.kept.keep(sequence)
            if not is_kept:
                self._context.sequences.free(sequence.seq_id)
        sequence.seq_id = None

    def _drop_finished(self, besides: Sequence_[Sequence] = ()) -> list[Sequence]:
        """Free what finished sequences hold; returns those that are not among ``besides``."""
        done = [s for s in [*self._running, *self._waiting] if s.is_finished]
        for sequence in done:
            self._leave(sequence, keeps=sequence.error is None)
            self._saved.take(sequence)
            sequence.sampler.close()
            self._let_go(sequence)
        if done:
            self._running = [s for s in self._running if not s.is_finished]
            self._waiting = [s for s in self._waiting if not s.is_finished]
        return [s for s in done if s not in besides]

    def _let_go(self, sequence: Sequence) -> None:
        """A text has ended: its drafter may hold something for it, as cells of a cache."""
        if self._n_draft == 0:
            return
        try:
            sequence.drafter.reset()
        except BaseException:
            _log.warning("the drafter %r fails to reset", sequence.drafter.name, exc_info=True)

    def _n_free(self) -> int:
        """Free cells; where the model has none, its sequences always have room."""
        n_used = self._context.memory.n_cells_used
        return self._context.n_ctx if n_used is None else self._context.n_ctx - n_used

    def _free_up(self, n_cells: int) -> None:
        """Ended texts go, as far as needed for so many free cells."""
        while self._n_free() < n_cells and self.prefixes.kept.drop_oldest():
            pass

    def _guard(self, sequence: Sequence, act: Callable[[], object]) -> None:
        """What goes wrong with one sequence ends that one alone."""
        try:
            act()
        except BaseException as error:
            sequence.fail(error)

    # -- reading

    def _read(self) -> None:
        """The next pieces of prompts, in the order of arrival, up to the budget of a step."""
        n_left = self._n_prefill
        reading = sorted(self._unread(), key=lambda sequence: sequence.arrival)
        for i, sequence in enumerate(reading):
            self.prefixes.adopt(sequence, self._running)
            n_piece = self._n_prefill - sequence.n_past % self._n_prefill
            n_piece = min(n_piece, sequence.n_missing)
            if n_piece and not self.prefixes.is_coming(sequence, reading[:i]):
                if n_piece > n_left:
                    break
                n_left -= n_piece
                if not self._read_piece(sequence, n_piece):
                    break
            self._report_read(sequence)

    def _unread(self) -> list[Sequence]:
        return [s for s in self._running if s.n_missing > 0 and not s.is_finished]

    def _read_piece(self, sequence: Sequence, n_piece: int) -> bool:
        """False if there was no room, and someone had to give way."""
        started_s = time.perf_counter()
        piece = sequence.context[sequence.n_past : sequence.n_past + n_piece]
        self._free_up(n_piece)
        try:
            self._context.prefill(piece, sequence.require_id())
        except CacheFullError as error:
            self._make_room(error)
            return False
        sequence.n_past += n_piece
        sequence.stats.prefill_s += time.perf_counter() - started_s
        return True

    def _report_read(self, sequence: Sequence) -> None:
        report = sequence.request.on_prefill
        if report is not None:
            share = sequence.n_past / max(len(sequence.context) - 1, 1)
            self._guard(sequence, lambda: report(share))

    # -- evaluating

    def _evaluate(self) -> None:
        """A pass for each that is evaluated; what has no room waits, or lets others wait."""
        for sequence in [s for s in self._ready() if isinstance(s, Evaluation)]:
            self._free_up(sequence.n_cells)
            try:
                sequence.evaluate(self._context)
            except CacheFullError as error:
                self._make_room(error)
                return
            except BaseException as error:  # it is this request's own
                sequence.fail(error)

    # -- writing

    def _ready(self) -> list[Sequence]:
        """Those whose text is in the cache but for its last token."""
        return [s for s in self._running if s.n_missing == 0 and not s.is_finished]

    def _write(self) -> None:
        ready = [s for s in self._ready() if not isinstance(s, Evaluation)]
        ready = [s for s in ready if self._has_text_room(s)]
        self._free_up(len(ready) * (1 + self._n_draft))
        while len(ready) > 1 and self._n_free() < len(ready):
            self._give_way(self._youngest())
            ready = [s for s in ready if s.seq_id is not None]
        if ready and self._n_free() < 1:
            self._make_room(None)
            ready = [s for s in ready if s.seq_id is not None and not s.is_finished]
        if ready:
            self._write_for(ready)

    def _write_for(self, ready: list[Sequence]) -> None:
        n_cells = self._n_free() // len(ready)
        trees = self._drafting.trees(ready, [self._room(s, n_cells, len(ready)) for s in ready])
        drafted = [
            (sequence, tree)
            for sequence, tree in zip(ready, trees, strict=True)
            if not sequence.is_finished
        ]
        if not drafted:
            return
        started_s = time.perf_counter()
        try:
            self._pass.run([s for s, _ in drafted], [t for _, t in drafted], self._n_draft > 0)
        except CacheFullError as error:
            self._make_room(error)
            return
        spent_s = time.perf_counter() - started_s
        self._drafting.learn([s for s, _ in drafted], [len(t) for _, t in drafted], spent_s)

    def _has_text_room(self, sequence: Sequence) -> bool:
        """Room for one token more; without it the text is shifted or ends."""
        if sequence.n_past >= self._n_text_max:
            if sequence.request.context_shift:
                self._guard(sequence, lambda: shift(self._context, sequence, self._n_text_max))
            else:
                sequence.finish("context")
        return not sequence.is_finished

    def _make_room(self, error: CacheFullError | None) -> None:
        """Someone must leave; alone in the cache, nobody can."""
        if self.prefixes.kept.drop_oldest():
            return
        if len(self._running) > 1:
            self._give_way(self._youngest())
        elif error is None:
            self._running[0].finish("context")
        else:
            self._running[0].fail(error)

    def _youngest(self) -> Sequence:
        return max(self._running, key=lambda sequence: sequence.arrival)

    def _room(self, sequence: Sequence, n_cells: int, n_ready: int) -> int:
        """Most nodes of a sequence's tree, its root left out; -1 if it is not to be asked."""
        # the last token that may be written needs no tree: nothing is drawn after it
        if self._n_draft == 0 or sequence.n_left == 1:
            return -1
        room = min(
            self._n_draft,
            n_cells - 1,
            self._n_text_max - sequence.n_past - 1,
            self._pass.capacity // n_ready - 1,
            # n nodes have n leaves at most, and the first needs no id of its own
            1 + self._context.sequences.n_spare_leaves // n_ready,
        )
        return max(room, 0)
