"""Scheduler: who runs next, and one pass over the trees of all who run."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

import numpy as np

from pytreellama.core.batch import Batch
from pytreellama.core.context import Context
from pytreellama.draft import EMPTY_TREE
from pytreellama.engine.completion import Step
from pytreellama.engine.sequence import Sequence
from pytreellama.errors import DraftError, RequestError, SamplerError
from pytreellama.tree import TokenTree
from pytreellama.verify import Verdict, match, match_greedy

OnStep = Callable[[Step], None]
OnPrefill = Callable[[float], None]


class Scheduler:
    """Runs sequences on a context: each step is one pass over all their trees.

    A sequence is admitted once a sequence id is free and the cache has room for its prompt, its
    answer and its trees, so a running sequence never finds the cache full.

    Args:
        context: the target; its sequences belong to the scheduler.
        n_draft: most drafted nodes of a tree; with 0, drafters are not asked at all.
        on_step: told of every verified tree.
        on_prefill: told of the share of a prompt that is in the cache.
    """

    def __init__(
        self,
        context: Context,
        n_draft: int,
        on_step: OnStep | None = None,
        on_prefill: OnPrefill | None = None,
    ) -> None:
        self._context = context
        self._n_draft = n_draft
        self._n_text_max = min(context.n_ctx, context.model.n_positions or context.n_ctx)
        self._on_step = on_step
        self._on_prefill = on_prefill
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []
        self._batch = Batch(context.n_nodes_max)

    @property
    def is_idle(self) -> bool:
        return not self._waiting and not self._running

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence.

        Raises:
            RequestError: its prompt fills the context.
        """
        n_prompt, n_ctx = len(sequence.request.prompt), self._n_text_max
        if n_prompt >= n_ctx:
            raise RequestError(
                f"the prompt has {n_prompt} tokens, and the context of {n_ctx} must hold it and "
                "the answer; shorten it, or make the engine with a larger n_ctx"
            )
        self._waiting.append(sequence)

    def step(self) -> list[Sequence]:
        """One pass; returns the sequences that wrote something, finished ones included."""
        self._admit()
        rooms = {sequence: self._n_cells_left(sequence) for sequence in self._running}
        for sequence, room in rooms.items():
            if room < 1:
                sequence.finish("context")
        ready = [s for s in self._running if not s.is_finished]
        trees = [self._draft(s, rooms[s], len(ready)) for s in ready]
        if len(ready) == 1 and len(trees[0]) == 0:
            self._advance_plainly(ready[0])
        elif ready:
            self._advance(
                ready, [t.with_root(s.last_token) for t, s in zip(trees, ready, strict=True)]
            )
        stepped, self._running = self._running, [s for s in self._running if not s.is_finished]
        for sequence in stepped:
            if sequence.is_finished:
                self._release(sequence)
        return stepped

    def cancel_all(self) -> None:
        """Free what all sequences hold; none of them finishes."""
        self._waiting.clear()
        for sequence in self._running:
            self._release(sequence)
        self._running.clear()

    # -- admission

    def _admit(self) -> None:
        while self._waiting and self._has_room(self._waiting[0]):
            sequence = self._waiting.popleft()
            sequence.start()
            sequence.seq_id = self._context.new_sequence()
            self._running.append(sequence)
            self._prefill(sequence)

    def _has_room(self, sequence: Sequence) -> bool:
        if not self._running:
            return True
        if len(self._running) >= self._context.n_seq_max:
            return False
        return sum(map(self._reserved, [*self._running, sequence])) <= self._context.n_ctx

    def _reserved(self, sequence: Sequence) -> int:
        request = sequence.request
        return len(request.prompt) + request.max_tokens + self._n_draft

    def _prefill(self, sequence: Sequence) -> None:
        """All of the prompt but its last token, which is the first tree's root.

        One sequence alone in a pass, cut at multiples of n_ubatch: what a prompt's keys and
        values come out as then depends on the prompt and on nothing beside it.
        """
        started_s = time.perf_counter()
        prompt = np.array(sequence.request.prompt, dtype=np.int32)
        body = prompt[:-1]
        for begin in range(0, len(body), self._context.n_ubatch):
            part = body[begin : begin + self._context.n_ubatch]
            self._context.prefill(part, sequence.seq_id)
            if self._on_prefill is not None:
                self._on_prefill((begin + len(part)) / len(body))
        sequence.sampler.accept_prompt(prompt)
        sequence.stats.prefill_s += time.perf_counter() - started_s
        started_s = time.perf_counter()
        sequence.drafter.observe(prompt)
        sequence.stats.draft_s += time.perf_counter() - started_s

    def _release(self, sequence: Sequence) -> None:
        if sequence.seq_id is not None and not self._context.closed:
            self._context.free_sequence(sequence.seq_id)
            sequence.seq_id = None
        sequence.sampler.close()

    # -- one step

    def _advance_plainly(self, sequence: Sequence) -> None:
        """One sequence without a guess: a step of plain decoding, without a batch or a tree."""
        root = sequence.last_token
        started_s = time.perf_counter()
        self._context.decode_one(_id_of(sequence), root)
        decoded_s = time.perf_counter()
        token = sequence.sampler.sample(self._context, 0)
        sequence.stats.target_s += decoded_s - started_s
        sequence.stats.verify_s += time.perf_counter() - decoded_s
        sequence.stats.count_step(1, 0)
        self._take(sequence, (token,))
        if self._on_step is not None:
            self._on_step(Step(sequence.index, TokenTree.chain([root]), (0,), (token,)))

    def _advance(self, sequences: list[Sequence], trees: list[TokenTree]) -> None:
        places = self._pass(sequences, trees)
        greedy_rows = self._greedy_rows(sequences)
        for sequence, tree, place in zip(sequences, trees, places, strict=True):
            self._verify(sequence, tree, place, greedy_rows)

    def _draft(self, sequence: Sequence, n_cells_left: int, n_running: int) -> TokenTree:
        # the last token that may be written needs no tree: nothing is drawn after it
        if self._n_draft == 0 or sequence.n_left == 1:
            return EMPTY_TREE
        started_s = time.perf_counter()
        room = min(
            self._n_draft,
            n_cells_left - 1,
            self._batch.capacity // n_running - 1,
            # n nodes have n leaves at most, and the first needs no id of its own
            1 + self._context.n_spare_leaves // n_running,
        )
        n_nodes = max(room, 0)
        tree = sequence.drafter.propose(n_nodes)
        self._check_draft(tree, n_nodes, sequence)
        sequence.stats.draft_s += time.perf_counter() - started_s
        return tree

    def _check_draft(self, tree: TokenTree, n_nodes: int, sequence: Sequence) -> None:
        if len(tree) > n_nodes:
            raise DraftError(
                f"the drafter {sequence.drafter.name!r} proposed {len(tree)} nodes, but was asked "
                f"for at most {n_nodes}"
            )
        if len(tree) and int(tree.tokens.max()) >= self._context.n_vocab:
            raise DraftError(
                f"the drafter {sequence.drafter.name!r} proposed token {int(tree.tokens.max())}, "
                f"but the vocabulary ends at {self._context.n_vocab - 1}"
            )

    def _pass(self, sequences: list[Sequence], trees: list[TokenTree]) -> list[slice]:
        started_s = time.perf_counter()
        self._batch.clear()
        places = [self._place(s, tree) for s, tree in zip(sequences, trees, strict=True)]
        branching = [_id_of(s) for s, tree in zip(sequences, trees, strict=True) if len(tree) > 1]
        self._context.decode_trees(self._batch, branching)
        spent_s = time.perf_counter() - started_s
        for sequence, tree in zip(sequences, trees, strict=True):
            sequence.stats.target_s += spent_s * len(tree) / len(self._batch)
        return places

    def _place(self, sequence: Sequence, tree: TokenTree) -> slice:
        seq_id = _id_of(sequence)
        if len(tree) > 1:
            return self._context.add_tree(self._batch, seq_id, tree)
        # the root is text already: alone it is a plain step, with nothing to commit or take back
        return self._batch.add(tree.tokens, sequence.n_past, seq_id, logits=True)

    def _greedy_rows(self, sequences: list[Sequence]) -> np.ndarray | None:
        return self._context.argmax() if any(s.sampler.is_argmax for s in sequences) else None

    def _verify(
        self, sequence: Sequence, tree: TokenTree, place: slice, greedy_rows: np.ndarray | None
    ) -> None:
        started_s = time.perf_counter()
        verdict = self._match(sequence, tree, place, greedy_rows)
        if len(tree) > 1:
            self._context.commit(_id_of(sequence), verdict.path)
        sequence.stats.count_step(len(tree), verdict.n_accepted)
        sequence.stats.verify_s += time.perf_counter() - started_s
        self._take(sequence, verdict.tokens)
        if self._on_step is not None:
            self._on_step(Step(sequence.index, tree, verdict.path, verdict.tokens))

    def _match(
        self, sequence: Sequence, tree: TokenTree, place: slice, greedy_rows: np.ndarray | None
    ) -> Verdict:
        n_drawn = 0

        def stop(token: int) -> bool:
            nonlocal n_drawn
            n_drawn += 1
            return sequence.ends_at(token, n_drawn)

        if sequence.sampler.is_argmax and greedy_rows is not None:
            verdict = match_greedy(tree, greedy_rows[place], stop)
            self._require_numbers(place.start + verdict.path[-1], verdict.next_token)
            return verdict
        return match(
            tree, lambda node: sequence.sampler.sample(self._context, place.start + node), stop
        )

    def _require_numbers(self, row: int, token: int) -> None:
        """An argmax over NaN is a token like any other; a sampler would refuse it."""
        if not self._context.logits_pointer(row)[token] > -np.inf:
            raise SamplerError(
                "no token to choose from: every logit of the row is NaN or -infinity"
            )

    def _take(self, sequence: Sequence, tokens: tuple[int, ...]) -> None:
        if self._n_draft > 0:
            started_s = time.perf_counter()
            sequence.drafter.observe(tokens)
            sequence.stats.draft_s += time.perf_counter() - started_s
        sequence.accept(tokens)

    def _n_cells_left(self, sequence: Sequence) -> int:
        """Cells for this sequence's next tree."""
        others = (s for s in self._running if s is not sequence and not s.is_finished)
        n_cells = self._context.n_ctx - sum(map(self._reserved, others))
        return min(n_cells, self._n_text_max) - sequence.n_past


def _id_of(sequence: Sequence) -> int:
    assert sequence.seq_id is not None
    return sequence.seq_id
