"""Random operations on a KV cache against the model of one in cache_model.py."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from cache_model import CacheModel, FullError, RefusedError
from pytreellama import Batch, Context, Model, TokenTree, TreeEncoding
from pytreellama.errors import (
    BatchError,
    CacheFullError,
    ContextError,
    MemoryStateError,
    TreeError,
)
from pytreellama.native.library import ffi, lib
from pytreellama.testing.cells import read_cells
from pytreellama.testing.probe import Probe, probe_of
from pytreellama.tree import depths
from strategies import path_to, token_trees

N_SEQ_MAX = 3
N_VOCAB = 320
# F32 keys and values without flash attention differ by 1e-5; another token, by 0.16 and more.
TOLERANCE = 2e-3

seqs = st.integers(0, N_SEQ_MAX - 1)
tokens = st.integers(3, N_VOCAB - 1)
trees = st.one_of(
    token_trees(min_nodes=1, max_nodes=12, n_vocab=N_VOCAB),
    st.lists(tokens, min_size=1, max_size=12).map(TokenTree.chain),
)
bounds = st.one_of(st.just(-1), st.integers(0, 30), st.integers(0, 300))


class CacheMachine(RuleBasedStateMachine):
    """Does everything twice, to a context and to the model, and compares what is left."""

    def __init__(self, context: Context, plain: Context) -> None:
        super().__init__()
        self.context, self.plain = context, plain
        self.unified = context.kv_unified
        self.by_ancestors = context.tree_encoding is TreeEncoding.ANCESTORS
        cells = read_cells(context)
        assert cells is not None
        self.model = CacheModel(
            len(cells.positions),
            N_SEQ_MAX,
            unified=self.unified,
            branches=self.unified or self.by_ancestors,
        )
        context.memory.clear(data=False)
        for seq in range(N_SEQ_MAX):
            context.sequences.free(seq)
        self.in_use: set[int] = set()
        self.saved: dict[str, tuple[bytes, Any]] = {}

    def both(
        self, act: Callable[[], object], expect: Callable[[], object], error: type[Exception]
    ) -> bool:
        """Do it to both; where the model refuses, the context must raise `error`."""
        try:
            expect()
        except RefusedError as refusal:
            with pytest.raises(CacheFullError if type(refusal) is FullError else error):
                act()
            return False
        act()
        return True

    # -- sequences

    @rule()
    def new_sequence(self) -> None:
        holds_text = {seq for seq in range(N_SEQ_MAX) if self.model.cells(seq)}
        free = set(range(N_SEQ_MAX)) - self.in_use - holds_text - set(self.model.pending)
        if not free:
            with pytest.raises(ContextError):
                self.context.sequences.new()
            return
        seq = self.context.sequences.new()
        assert seq == min(free)
        self.in_use.add(seq)

    @precondition(lambda self: len(self.in_use) == N_SEQ_MAX)
    @rule(seq=seqs)
    def free_sequence(self, seq: int) -> None:
        self.context.sequences.free(seq)
        self.model.discard(seq)
        self.model.rm(seq, -1, -1)
        self.in_use.discard(seq)

    # -- passes

    @rule(seq=seqs, n_tokens=st.integers(1, 24), first=tokens)
    def prefill(self, seq: int, n_tokens: int, first: int) -> None:
        text = [3 + (first + 7 * i) % (N_VOCAB - 3) for i in range(n_tokens)]
        self._prefill(seq, text)

    @rule(seq=seqs, n_tokens=st.integers(60, 250))
    def prefill_much(self, seq: int, n_tokens: int) -> None:
        self._prefill(seq, [3 + 5 * i % (N_VOCAB - 3) for i in range(n_tokens)])

    def _prefill(self, seq: int, text: list[int]) -> None:
        self.both(
            lambda: self.context.prefill(text, seq),
            lambda: self.model.append(seq, text),
            MemoryStateError,
        )

    @rule(seq=seqs, token=tokens)
    def free_and_retry(self, seq: int, token: int) -> None:
        """A cache that was full has room again for what was freed."""
        if seq in self.model.pending or not self.model.cells(seq):
            return
        n_wanted = self.model.n_free(seq) + 1
        text = [token] * n_wanted
        with pytest.raises(CacheFullError):
            self.context.prefill(text, seq)
        self.compare()
        before = self.model.n_free(seq)
        self.context.memory.rm(seq)
        self.model.rm(seq, -1, -1)
        if self.model.n_free(seq) > before:
            self.context.prefill(text, seq)
            self.model.append(seq, text)

    @rule(seq=seqs, other=seqs, token=tokens)
    def decode_two_sequences(self, seq: int, other: int, token: int) -> None:
        """One token each, in one pass."""
        pair = sorted({seq, other})
        if set(pair) & self.model.pending.keys():
            return
        if any(self.model.n_free(s) < len(pair) for s in pair):
            return
        batch = Batch(2)
        for s in pair:
            batch.add([token], [self.context.sequences.n_past(s)], s)
        self.context.decode(batch)
        for s in pair:
            self.model.append(s, [token])

    @rule(seq=seqs, token=tokens)
    def logits_of_a_plain_text_are_those_of_sequential_decode(self, seq: int, token: int) -> None:
        text = self.model.plain_text(seq)
        if text is None or seq in self.model.pending or self.model.n_free(seq) < 1:
            return
        self.context.prefill([token], seq, logits=True)
        self.model.append(seq, [token])
        self.plain.memory.clear(data=False)
        self.plain.prefill([*text, token], 0, logits=True)
        difference = np.abs(self.context.outputs.logits[0] - self.plain.outputs.logits[0]).max()
        assert difference <= TOLERANCE

    # -- trees

    @rule(seq=seqs, tree=trees)
    def decode_tree(self, seq: int, tree: TokenTree) -> None:
        if seq in self.model.pending:
            with pytest.raises(MemoryStateError):
                self.context.decode(tree, seq=seq)
            return
        self._grow(
            seq,
            lambda: self.context.decode(tree, seq=seq),
            lambda: self.model.grow(seq, tree.tokens.tolist(), tree.parents.tolist()),
        )

    @rule(seq=seqs, data=st.data())
    def grow_tree(self, seq: int, data: st.DataObject) -> None:
        n_old = len(self.model.pending.get(seq, []))
        n_new = data.draw(st.integers(1, 4), "new nodes")
        parents = [n_old + i - 1 for i in range(n_new)]
        if data.draw(st.booleans(), "branches"):
            parents = [data.draw(st.integers(-1, n_old + i - 1), "parent") for i in range(n_new)]
        new = data.draw(st.lists(tokens, min_size=n_new, max_size=n_new), "tokens")
        self._grow(
            seq,
            lambda: self.context.grow(seq, new, parents),
            lambda: self.model.grow(seq, new, parents),
        )

    def _grow(self, seq: int, act: Callable[[], object], expect: Callable[[], object]) -> None:
        probe_of(self.context).reset()
        n_old = len(self.model.pending.get(seq, []))
        if self.both(act, expect, TreeError):
            n_new = len(self.model.pending[seq]) - n_old
            self._compare_masks([(seq, n_old + i) for i in range(n_new)])

    def _compare_masks(self, rows: list[tuple[int, int]]) -> None:
        """Each new node (of a sequence) sees the text, its ancestors and itself.

        A record is a micro-batch, whose rows are the next tokens of the batch.
        """
        records = probe_of(self.context).records()
        visible = [row for record in records for row in record.visible[0]]
        for (seq, node), row in zip(rows, visible[: len(rows)], strict=True):
            self._compare_row(seq, node, np.flatnonzero(row))

    def _compare_row(self, seq: int, node: int, seen: np.ndarray) -> None:
        cells = read_cells(self.context, seq)
        assert cells is not None
        text = [cell.position for cell in self.model.cells(seq)]
        nodes = path_to(self.model.pending[seq], node)
        first = self.model.pos_max(seq) + 1
        expected = [*text, *range(first, first + len(nodes))]
        assert sorted(cells.positions[seen].tolist()) == expected
        if self.by_ancestors:
            assert sorted(cells.nodes[seen].tolist()) == [-1] * len(text) + nodes
            assert cells.members[seen, seq].all()

    @rule(seq=seqs, other=seqs, one=trees, two=trees)
    def decode_two_trees(self, seq: int, other: int, one: TokenTree, two: TokenTree) -> None:
        """In one pass, which finds room for both or leaves nothing of either."""
        if seq == other or {seq, other} & self.model.pending.keys():
            return
        planted = {seq: one, other: two}
        if not self.model.branches:
            planted = {s: TokenTree.chain(tree.tokens.tolist()) for s, tree in planted.items()}
        batch = Batch(64)
        for s, tree in planted.items():
            self.context.place(batch, s, tree)
        if self._fit({s: len(tree) for s, tree in planted.items()}, batch, [seq, other]):
            for s, tree in planted.items():
                self.model.grow(s, tree.tokens.tolist(), tree.parents.tolist())
            if self.unified:
                self._compare_masks([(s, i) for s, t in planted.items() for i in range(len(t))])

    @rule(seq=seqs, other=seqs, tree=trees, token=tokens)
    def decode_a_tree_beside_text(self, seq: int, other: int, tree: TokenTree, token: int) -> None:
        """As a scheduler does whose sequences do not all have guesses."""
        if seq == other or {seq, other} & self.model.pending.keys():
            return
        if not self.model.branches:
            tree = TokenTree.chain(tree.tokens.tolist())
        batch = Batch(64)
        self.context.place(batch, seq, tree)
        batch.add([token], self.context.sequences.n_past(other), other)
        if self._fit({seq: len(tree), other: 1}, batch, [seq]):
            self.model.grow(seq, tree.tokens.tolist(), tree.parents.tolist())
            self.model.append(other, [token])

    def _fit(self, n_new: dict[int, int], batch: Batch, trees_of: list[int]) -> bool:
        """Decode it; where the cache has no room for all of it, that must be refused."""
        probe_of(self.context).reset()
        n_wanted = sum(n_new.values())
        if all(self.model.n_free(s) >= (n_wanted if self.unified else n_new[s]) for s in n_new):
            self.context.decode(batch)
            return True
        with pytest.raises(CacheFullError):
            self.context.decode(batch)
        return False

    @rule(seq=seqs)
    def commit_without_a_tree(self, seq: int) -> None:
        if seq not in self.model.pending:
            with pytest.raises(MemoryStateError):
                self.context.commit(seq, [])

    @precondition(lambda self: self.model.pending)
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        seq = data.draw(st.sampled_from(sorted(self.model.pending)), "sequence")
        parents = self.model.pending[seq]
        node = data.draw(st.integers(-1, len(parents) - 1), "end of the path")
        path = path_to(parents, node)
        self.context.commit(seq, path)
        self.model.commit(seq, path)

    @rule(seq=seqs, path=st.lists(st.integers(-1, 12), min_size=1, max_size=4))
    def commit_any_nodes(self, seq: int, path: list[int]) -> None:
        if seq in self.model.pending:
            self.both(
                lambda: self.context.commit(seq, path),
                lambda: self.model.commit(seq, path),
                TreeError,
            )

    @precondition(lambda self: self.model.pending and self.model.branches)
    @rule(data=st.data())
    def prune(self, data: st.DataObject) -> None:
        seq = data.draw(st.sampled_from(sorted(self.model.pending)), "sequence")
        nodes = st.integers(0, len(self.model.pending[seq]) - 1)
        keep = data.draw(st.lists(nodes, max_size=4), "kept")
        assert self.context.prune(seq, keep).tolist() == self.model.prune(seq, keep)

    @rule(seq=seqs, keep=st.lists(st.integers(-1, 12), min_size=1, max_size=4))
    def prune_to_any_nodes(self, seq: int, keep: list[int]) -> None:
        if seq not in self.model.pending:
            with pytest.raises(MemoryStateError):
                self.context.prune(seq, keep)
        elif self.model.branches:
            self.both(
                lambda: self.context.prune(seq, keep),
                lambda: self.model.prune(seq, keep),
                TreeError,
            )

    @rule(seq=seqs)
    def discard(self, seq: int) -> None:
        self.context.discard(seq)
        self.model.discard(seq)

    # -- memory

    @rule(seq=seqs, p0=bounds, p1=bounds)
    def rm(self, seq: int, p0: int, p1: int) -> None:
        self._memory("rm", seq, p0, p1)

    @rule(source=seqs, other=seqs, p0=bounds, p1=bounds)
    def cp_a_range(self, source: int, other: int, p0: int, p1: int) -> None:
        self._cp(source, other, p0, p1)

    @rule(source=seqs, other=seqs)
    def cp_all(self, source: int, other: int) -> None:
        self._cp(source, other, -1, -1)

    def _cp(self, source: int, other: int, p0: int, p1: int) -> None:
        if self._memory("cp", source, other, p0, p1) and not self.unified:
            self._do_copies_between_streams(other)

    def _do_copies_between_streams(self, seq: int) -> None:
        """llama.cpp queues them for the next pass, even for one that finds no room."""
        try:
            self.context.prefill([5], seq)
        except CacheFullError:
            return
        self.context.memory.rm(seq, self.context.sequences.n_past(seq) - 1)

    @rule(seq=seqs)
    def keep(self, seq: int) -> None:
        self._memory("keep", seq)

    @rule(seq=seqs, p0=bounds, p1=bounds, delta=st.integers(-12, 12))
    def add(self, seq: int, p0: int, p1: int, delta: int) -> None:
        self._memory("add", seq, p0, p1, delta)

    @rule(seq=seqs, p0=bounds, p1=bounds, divisor=st.integers(0, 4))
    def div(self, seq: int, p0: int, p1: int, divisor: int) -> None:
        self._memory("div", seq, p0, p1, divisor)

    def _memory(self, name: str, *arguments: int) -> bool:
        return self.both(
            lambda: getattr(self.context.memory, name)(*arguments),
            lambda: getattr(self.model, name)(*arguments),
            MemoryStateError,
        )

    @rule(really=st.sampled_from([False] * 9 + [True]))
    def clear(self, really: bool) -> None:
        """Seldom: it makes the rest of an example shallow."""
        if really:
            self.context.memory.clear()
            self.model.clear()

    # -- saving

    @rule(seq=seqs)
    def save(self, seq: int) -> None:
        if seq in self.model.pending:
            with pytest.raises(MemoryStateError):
                self.context.memory.save(seq)
            return
        self.saved["one"] = self.context.memory.save(seq), self.model.save(seq)

    @precondition(lambda self: "one" in self.saved)
    @rule(seq=seqs)
    def load(self, seq: int) -> None:
        data, saved = self.saved["one"]
        try:
            self.model.load(saved, seq)
        except RefusedError:
            with pytest.raises(MemoryStateError):
                self.context.memory.load(data, seq)
            return
        self.context.memory.load(data, seq)

    @rule()
    def save_all(self) -> None:
        if self.model.pending:
            with pytest.raises(MemoryStateError):
                self.context.memory.save()
            return
        self.saved["all"] = self.context.memory.save(), self.model.save_all()

    @precondition(lambda self: "all" in self.saved)
    @rule()
    def load_all(self) -> None:
        data, saved = self.saved["all"]
        self.both(
            lambda: self.context.memory.load(data),
            lambda: self.model.load_all(saved),
            MemoryStateError,
        )

    @precondition(lambda self: "one" in self.saved)
    @rule(seq=seqs, share=st.floats(0, 0.99))
    def load_damaged(self, seq: int, share: float) -> None:
        data, _ = self.saved["one"]
        if seq in self.model.pending:
            return
        with pytest.raises(MemoryStateError):
            self.context.memory.load(data[: int(len(data) * share)], seq)
        self.model.rm(seq, -1, -1)

    # -- what is wrong in itself

    @rule(seq=st.sampled_from([-1, N_SEQ_MAX, 255, 256]))
    def ids_out_of_range_are_refused(self, seq: int) -> None:
        memory = self.context.memory
        for act in (
            lambda: memory.rm(seq),
            lambda: memory.cp(0, seq),
            lambda: memory.keep(seq),
            lambda: memory.add(seq, 0, -1, 1),
            lambda: memory.save(seq),
            lambda: memory.pos_max(seq),
            lambda: (self.context.discard(seq), self.context.sequences.free(seq)),  # type: ignore[func-returns-value]
        ):
            with pytest.raises(MemoryStateError):
                act()

    @rule(seq=seqs, gap=st.sampled_from([-1, 1, 5]))
    def positions_that_do_not_go_on_are_refused(self, seq: int, gap: int) -> None:
        if seq in self.model.pending or not self.model.cells(seq):
            return
        batch = Batch(1)
        batch.add([5], [self.model.pos_max(seq) + 1 + gap], seq)
        with pytest.raises(BatchError):
            self.context.decode(batch)

    # -- what must hold after each step

    @invariant()
    def compare(self) -> None:
        for seq in range(N_SEQ_MAX):
            assert self.context.sequences.is_pending(seq) == (seq in self.model.pending)
            if self.by_ancestors:
                assert native_parents(self.context, seq) == self.model.pending.get(seq, [])
            assert self.context.sequences.n_past(seq) == self.model.pos_max(seq) + 1
            if seq not in self.model.pending:
                assert self.context.memory.pos_min(seq) == self.model.pos_min(seq)
                assert self.context.memory.pos_max(seq) == self.model.pos_max(seq)
        for seq in range(1 if self.unified else N_SEQ_MAX):
            self._compare_cells(seq)

    def _compare_cells(self, seq: int) -> None:
        """Positions and owners of all cells; who owns a pending node is the encoding's affair."""
        cells = read_cells(self.context, seq)
        assert cells is not None
        used = np.flatnonzero(cells.positions >= 0)
        held = Counter(
            (
                int(cells.positions[i]),
                frozenset(np.flatnonzero(cells.members[i, :N_SEQ_MAX]).tolist()),
            )
            for i in used
        )
        committed = self.model.committed(seq)
        assert not committed - held
        assert Counter(p for p, _ in (held - committed).elements()) == (
            self.model.pending_positions(seq)
        )
        if self.by_ancestors:
            pending = np.flatnonzero(cells.nodes >= 0)
            assert self.model.pending_nodes(seq) == Counter(
                (int(cells.positions[i]), *np.flatnonzero(cells.members[i]), int(cells.nodes[i]))
                for i in pending
            )
        if self.by_ancestors or not self.model.pending:
            assert not cells.members[:, N_SEQ_MAX:].any(), "a tree's ids are left behind"

    def teardown(self) -> None:
        for seq in range(N_SEQ_MAX):
            self.context.discard(seq)
            self.model.discard(seq)
        for seq in range(N_SEQ_MAX):
            self.logits_of_a_plain_text_are_those_of_sequential_decode(seq, 77)
        self.compare()


def native_parents(context: Context, seq: int) -> list[int]:
    """The parents of the nodes that are pending, as the native side knows them."""
    pointer = context.native.handle.pointer
    count = lib.treellama_tree_nodes(pointer, seq, ffi.NULL, ffi.NULL)
    parents, positions = ffi.new("int32_t[]", count), ffi.new("llama_pos[]", count)
    assert lib.treellama_tree_nodes(pointer, seq, parents, positions) == count
    n_past = context.sequences.n_past(seq)
    assert list(positions) == (n_past + depths(list(parents))).tolist()
    return list(parents)


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., Model]) -> Model:
    return tiny_model("rope")


def make_context(model: Model, **options: Any) -> Context:
    return Context(
        model,
        n_batch=64,
        n_threads=1,
        type_k="f32",
        type_v="f32",
        flash_attention=False,
        **options,
    )


@pytest.fixture
def plain(model: Model) -> Iterator[Context]:
    with make_context(model, n_ctx=256) as context:
        yield context


@pytest.fixture
def streams(model: Model) -> Iterator[Context]:
    """Each sequence in a stream of its own."""
    with make_context(model, n_ctx=256, n_seq_max=N_SEQ_MAX, kv_unified=False) as context:
        yield context


@pytest.mark.parametrize(
    ("unified", "encoding", "n_ubatch"),
    [
        *itertools.product([True, False], TreeEncoding, [64]),
        # a batch of many micro-batches can fail when some of its nodes have found cells
        (True, TreeEncoding.ANCESTORS, 2),
    ],
)
def test_the_cache_is_what_the_model_of_it_says(
    model: Model, unified: bool, encoding: TreeEncoding, n_ubatch: int
) -> None:
    options = {
        "n_seq_max": N_SEQ_MAX,
        "kv_unified": unified,
        "tree_encoding": encoding,
        "n_ubatch": n_ubatch,
    }
    with (
        make_context(model, n_ctx=256, **options) as context,
        make_context(model, n_ctx=1024) as plain,
    ):
        Probe(context)
        run_state_machine_as_test(
            cast(Any, lambda: CacheMachine(context, plain)),
            settings=settings(stateful_step_count=40),
        )


# -- moved positions, and what llama.cpp leaves to the next pass


def next_logits(context: Context, seq: int, token: int) -> np.ndarray:
    context.prefill([token], seq, logits=True)
    return context.outputs.logits[0]


def place_apart(context: Context, seq: int, text: list[int], positions: list[int]) -> None:
    """Each token as if it stood alone at its position; a pass takes no gaps, a copy does."""
    helper = N_SEQ_MAX - 1
    for token, position in zip(text, positions, strict=True):
        batch = Batch(1)
        batch.add([token], [position], helper)
        context.decode(batch)
        context.memory.cp(helper, seq)
        context.memory.rm(helper)


TEXT = list(range(40, 60))


@pytest.mark.parametrize("kind", ["rope", "neox", "alibi", "swa"])
def test_moving_a_whole_text_changes_nothing_that_follows(
    tiny_model: Callable[..., Model], kind: str
) -> None:
    """Positions that matter by their distances alone: the keys must turn with them."""
    with (
        make_context(tiny_model(kind), n_ctx=256) as moved,
        make_context(tiny_model(kind), n_ctx=256) as plain,
    ):
        moved.prefill(TEXT, 0)
        plain.prefill(TEXT, 0)
        for delta in (7, 5, -9):
            moved.memory.add(0, 0, -1, delta)
            difference = np.abs(next_logits(moved, 0, 33) - next_logits(plain, 0, 33)).max()
            assert difference <= TOLERANCE


def test_divided_positions_turn_the_keys_to_where_they_stand(
    tiny_model: Callable[..., Model],
) -> None:
    """One layer: a key then hangs on its own token and position only."""
    options = {"n_ctx": 256, "n_seq_max": N_SEQ_MAX}
    with (
        make_context(tiny_model("rope", n_layer=1), **options) as divided,
        make_context(tiny_model("rope", n_layer=1), **options) as plain,
    ):
        place_apart(divided, 0, [10, 11, 12], [0, 3, 6])
        divided.memory.div(0, 0, -1, 3)
        plain.prefill([10, 11, 12], 0)
        difference = np.abs(next_logits(divided, 0, 33) - next_logits(plain, 0, 33)).max()
        assert difference <= TOLERANCE


def test_a_model_with_sliding_layers_alone_can_shift(tiny_model: Callable[..., Model]) -> None:
    """Its base cache has no layers, hence nothing to turn."""
    with (
        make_context(tiny_model("swa", n_layer=1), n_ctx=256) as moved,
        make_context(tiny_model("swa", n_layer=1), n_ctx=256) as plain,
    ):
        moved.prefill(TEXT, 0)
        plain.prefill(TEXT, 0)
        moved.memory.add(0, 0, -1, 7)
        difference = np.abs(next_logits(moved, 0, 33) - next_logits(plain, 0, 33)).max()
        assert difference <= TOLERANCE


def test_a_text_that_was_moved_and_saved_comes_back_moved(model: Model, plain: Context) -> None:
    with make_context(model, n_ctx=256) as context:
        context.prefill(TEXT, 0)
        context.memory.add(0, 0, -1, 7)
        saved = context.memory.save(0)
        context.memory.clear()
        context.memory.load(saved, 0)
        plain.prefill(TEXT, 0)
        difference = np.abs(next_logits(context, 0, 33) - next_logits(plain, 0, 33)).max()
        assert difference <= TOLERANCE


def test_a_copy_between_streams_can_be_saved_at_once(streams: Context, plain: Context) -> None:
    streams.prefill(TEXT, 0)
    streams.memory.cp(0, 1)
    saved = streams.memory.save(1)
    streams.memory.clear()
    streams.memory.load(saved, 1)
    plain.prefill(TEXT, 0)
    difference = np.abs(next_logits(streams, 1, 33) - next_logits(plain, 0, 33)).max()
    assert difference <= TOLERANCE


def test_a_copy_between_streams_does_not_reach_what_is_loaded_after_it(
    streams: Context, plain: Context
) -> None:
    streams.prefill(TEXT, 0)
    saved = streams.memory.save(0)
    streams.prefill(TEXT[::-1], 1)
    streams.memory.cp(1, 2)
    streams.memory.rm(2)
    streams.memory.load(saved, 2)
    plain.prefill(TEXT, 0)
    difference = np.abs(next_logits(streams, 2, 33) - next_logits(plain, 0, 33)).max()
    assert difference <= TOLERANCE


def test_keep_empties_the_streams_of_all_others(streams: Context) -> None:
    for seq in range(N_SEQ_MAX):
        streams.prefill(TEXT, seq)
    streams.memory.keep(1)
    assert [streams.memory.pos_max(seq) for seq in range(N_SEQ_MAX)] == [-1, len(TEXT) - 1, -1]


def test_a_stream_is_copied_whole_and_onto_an_empty_one_alone(streams: Context) -> None:
    streams.prefill(TEXT, 0)
    streams.memory.cp(0, 1, 0, len(TEXT))
    assert streams.memory.pos_max(1) == len(TEXT) - 1
    with pytest.raises(MemoryStateError, match="cannot be copied alone"):
        streams.memory.cp(0, 2, 0, len(TEXT) - 1)
    with pytest.raises(MemoryStateError, match="remove them first"):
        streams.memory.cp(2, 1)
    assert streams.memory.pos_max(1) == len(TEXT) - 1


def test_the_bytes_of_an_empty_sequence_empty_another(plain: Context) -> None:
    saved = plain.memory.save(0)
    plain.prefill(TEXT, 0)
    plain.memory.load(saved, 0)
    assert plain.memory.pos_max(0) == -1
