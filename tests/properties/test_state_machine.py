"""Random operations on trees of models with a recurrent state: each token has plain text's bits."""

from __future__ import annotations

from collections.abc import Callable
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

from exactness import needs_exact
from pytreellama import Batch, Context, Model, TokenTree
from pytreellama.errors import BatchError, CacheFullError, DecodeError, MemoryStateError, TreeError
from pytreellama.native.context import AbortFlag
from strategies import path_to, token_trees

pytestmark = needs_exact

N_VOCAB = 250
N_SEQ_MAX = 3
N_UBATCH = 16

seqs = st.integers(0, N_SEQ_MAX - 1)
tokens = st.integers(3, N_VOCAB - 1)
texts = st.lists(tokens, min_size=1, max_size=12)
trees = token_trees(min_nodes=1, max_nodes=8, n_vocab=N_VOCAB)

Tree = tuple[list[int], list[int]]
"""Tokens and parents."""


class PlainText:
    """The logits behind a text, by plain decoding alone."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.known: dict[tuple[int, ...], np.ndarray] = {}

    def logits(self, text: list[int]) -> np.ndarray:
        key = tuple(text)
        if key not in self.known:
            self.context.memory.clear(data=False)
            if text[:-1]:
                self.context.prefill(text[:-1], 0)
            self.known[key] = self.context.decode(text[-1], seq=0).logits[0].copy()
        return self.known[key]


class StateMachine(RuleBasedStateMachine):
    """Knows the text and the pending tree of each sequence; compares every row it gets."""

    def __init__(self, context: Context, plain: PlainText) -> None:
        super().__init__()
        self.context, self.plain = context, plain
        context.memory.clear()
        self.texts: list[list[int]] = [[] for _ in range(N_SEQ_MAX)]
        self.pending: dict[int, Tree] = {}
        self.saved: dict[int, tuple[bytes, list[int]]] = {}

    def n_free(self) -> int:
        return N_UBATCH - sum(len(nodes) for nodes, _ in self.pending.values())

    def has_cells(self, n_new: int) -> bool:
        """Copies share cells; that there is room is certain where it would be without them."""
        n_text = sum(map(len, self.texts))
        return n_text + N_UBATCH - self.n_free() + n_new <= self.context.n_ctx

    def compare_nodes(self, seq: int, rows: np.ndarray, tree: Tree, first: int = 0) -> None:
        nodes, parents = tree
        for node, row in enumerate(rows, start=first):
            path = [nodes[i] for i in path_to(parents, node)]
            assert (row == self.plain.logits(self.texts[seq] + path)).all()

    @rule(seq=seqs, text=texts)
    def prefill(self, seq: int, text: list[int]) -> None:
        if seq in self.pending:
            with pytest.raises(MemoryStateError):
                self.context.prefill(text, seq)
        elif self.has_cells(len(text)):
            self.context.prefill(text, seq, logits=True)
            self.texts[seq] += text
            assert (self.context.outputs.logits[0] == self.plain.logits(self.texts[seq])).all()

    @rule(seq=seqs, token=tokens)
    def step(self, seq: int, token: int) -> None:
        if seq not in self.pending and self.has_cells(1):
            row = self.context.decode(token, seq=seq).logits[0]
            self.texts[seq].append(token)
            assert (row == self.plain.logits(self.texts[seq])).all()

    @rule(seq=seqs, data=st.data(), aborts=st.sampled_from([False, False, True]))
    def grow(self, seq: int, data: st.DataObject, aborts: bool) -> None:
        nodes, parents = self.pending.get(seq, ([], []))
        n_new = data.draw(st.integers(1, 4), "new nodes")
        more = data.draw(st.lists(tokens, min_size=n_new, max_size=n_new), "tokens")
        over = [data.draw(st.integers(-1, len(nodes) + i - 1), "parent") for i in range(n_new)]
        if n_new > self.n_free():
            with pytest.raises(TreeError):
                self.context.grow(seq, more, over)
        elif not self.has_cells(n_new):
            return
        elif aborts:
            self.abort(lambda: self.context.grow(seq, more, over))
        else:
            rows = self.context.grow(seq, more, over).logits
            self.pending[seq] = nodes + more, parents + over
            self.compare_nodes(seq, rows, self.pending[seq], len(nodes))

    def abort(self, act: Callable[[], object]) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(AbortFlag, "clear", lambda flag: None)
            self.context.abort()
            with pytest.raises(DecodeError, match="aborted"):
                act()

    @rule(
        planted=st.dictionaries(seqs, st.one_of(trees, texts), min_size=1),
        aborts=st.sampled_from([False] * 4 + [True]),
    )
    def trees_and_texts_in_one_pass(
        self, planted: dict[int, TokenTree | list[int]], aborts: bool
    ) -> None:
        self.decode_in_one_pass(planted, aborts)

    def decode_in_one_pass(self, planted: dict[int, TokenTree | list[int]], aborts: bool) -> None:
        if planted.keys() & self.pending.keys():
            return
        n_new = sum(map(len, planted.values()))
        n_nodes = sum(len(one) for one in planted.values() if isinstance(one, TokenTree))
        if n_nodes > self.n_free() or not self.has_cells(n_new):
            return
        batch = Batch(64)
        where = []
        for seq, one in planted.items():
            if isinstance(one, TokenTree):
                where.append(self.context.place(batch, seq, one))
            else:
                n_past = len(self.texts[seq])
                positions = list(range(n_past, n_past + len(one)))
                where.append(batch.add(one, positions, seq, logits=True))
        if n_nodes and n_new > self.n_free() and self.context.can_branch:
            with pytest.raises(BatchError, match="recurrent state"):
                self.context.decode(batch)
        elif aborts and n_nodes:
            self.abort(lambda: self.context.decode(batch))
        else:
            rows = self.context.decode(batch).logits
            for (seq, one), place in zip(planted.items(), where, strict=True):
                self.take(seq, one, rows[place])

    def take(self, seq: int, one: TokenTree | list[int], rows: np.ndarray) -> None:
        if isinstance(one, TokenTree):
            self.pending[seq] = one.tokens.tolist(), one.parents.tolist()
            self.compare_nodes(seq, rows, self.pending[seq])
        else:
            self.compare_nodes(seq, rows, (one, list(range(-1, len(one) - 1))))
            self.texts[seq] += one

    @precondition(lambda self: self.pending)
    @rule(data=st.data(), aborts=st.booleans())
    def commit(self, data: st.DataObject, aborts: bool) -> None:
        seq = data.draw(st.sampled_from(sorted(self.pending)), "sequence")
        nodes, parents = self.pending[seq]
        path = path_to(parents, data.draw(st.integers(-1, len(nodes) - 1), "end of the path"))
        if aborts:
            self.context.abort()  # comes too late for a pass
        self.context.commit(seq, path)
        self.texts[seq] += [nodes[i] for i in path]
        del self.pending[seq]

    @precondition(lambda self: self.pending)
    @rule(data=st.data())
    def prune(self, data: st.DataObject) -> None:
        seq = data.draw(st.sampled_from(sorted(self.pending)), "sequence")
        nodes, parents = self.pending[seq]
        keep = data.draw(st.lists(st.integers(0, len(nodes) - 1), max_size=4), "kept")
        numbers = self.context.prune(seq, keep).tolist()
        kept = [i for i in range(len(nodes)) if numbers[i] >= 0]
        assert set(kept) == {i for node in keep for i in path_to(parents, node)}
        if kept:
            over = [parents[i] if parents[i] < 0 else numbers[parents[i]] for i in kept]
            self.pending[seq] = [nodes[i] for i in kept], over
        else:
            del self.pending[seq]

    @rule(seq=seqs)
    def discard(self, seq: int) -> None:
        self.context.discard(seq)
        self.pending.pop(seq, None)

    @rule(seq=seqs)
    def free(self, seq: int) -> None:
        self.context.sequences.free(seq)
        self.pending.pop(seq, None)
        self.texts[seq] = []

    @rule(source=seqs, other=seqs)
    def copy(self, source: int, other: int) -> None:
        if source == other or {source, other} & self.pending.keys() or self.texts[other]:
            return
        self.context.memory.cp(source, other)
        self.texts[other] = list(self.texts[source])

    @rule(source=seqs)
    def keep(self, source: int) -> None:
        if not self.pending:
            self.context.memory.keep(source)
            self.texts = [t if seq == source else [] for seq, t in enumerate(self.texts)]

    @rule(seq=seqs)
    def save(self, seq: int) -> None:
        if seq not in self.pending:
            self.saved[seq] = self.context.memory.save(seq), list(self.texts[seq])

    @rule(source=seqs, other=seqs)
    def load(self, source: int, other: int) -> None:
        if source not in self.saved or other in self.pending:
            return
        data, text = self.saved[source]
        if self.has_cells(len(text)):
            self.context.memory.load(data, other)
            self.texts[other] = list(text)

    @rule()
    def save_and_load_everything(self) -> None:
        if not self.pending:
            data = self.context.memory.save()
            self.context.memory.clear()
            self.context.memory.load(data)

    @rule(really=st.sampled_from([False] * 9 + [True]), data=st.booleans())
    def clear(self, really: bool, data: bool) -> None:
        if really:
            self.context.memory.clear(data=data)
            self.texts = [[] for _ in range(N_SEQ_MAX)]
            self.pending = {}

    @rule(seq=seqs)
    def a_text_that_does_not_fit_leaves_an_empty_sequence_empty(self, seq: int) -> None:
        has_cells = self.context.memory.n_cells_used is not None  # beside its states
        if has_cells and not self.texts[seq] and seq not in self.pending:
            with pytest.raises(CacheFullError):
                self.context.prefill([5] * (self.context.n_ctx + 1), seq)

    @invariant()
    def sequences_are_what_they_should_be(self) -> None:
        for seq in range(N_SEQ_MAX):
            assert self.context.sequences.n_past(seq) == len(self.texts[seq])
            assert self.context.sequences.is_pending(seq) == (seq in self.pending)

    def teardown(self) -> None:
        for seq in range(N_SEQ_MAX):
            self.discard(seq)
            if self.has_cells(1):
                self.step(seq, 77)


class ChainMachine(StateMachine):
    """The same of chains that are rolled back, or copied where they are too long for that."""

    grow = prune = None  # type: ignore[assignment]  # chains cannot

    def n_free(self) -> int:
        return N_UBATCH

    def has_cells(self, n_new: int) -> bool:
        n_pending = sum(len(nodes) for nodes, _ in self.pending.values())
        return super().has_cells(n_new + n_pending)

    @rule(
        planted=st.dictionaries(seqs, st.one_of(texts.map(TokenTree.chain), texts), min_size=1),
        aborts=st.sampled_from([False] * 4 + [True]),
    )
    def trees_and_texts_in_one_pass(
        self, planted: dict[int, TokenTree | list[int]], aborts: bool
    ) -> None:
        self.decode_in_one_pass(planted, aborts)


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("mamba2", "f32"),
        ("qwen35", "q8_0"),
        ("kimi-k3", "f32"),
        ("lfm2-swa", "f32"),
        ("falcon-h1", "q8_0"),
        ("recurrent", "f32"),
        ("rwkv6", "f32"),
        ("rwkv6qwen2", "q8_0"),
        ("rwkv7", "f32"),
    ],
)
def test_every_row_is_that_of_plain_text(
    tiny_model: Callable[..., Model], kind: str, dtype: str, n_threads: int
) -> None:
    model = tiny_model(kind, **({} if dtype == "f32" else {"dtype": dtype}))
    options: dict[str, Any] = {"n_ubatch": N_UBATCH, "n_batch": 64, "n_threads": n_threads}
    with (
        Context(model, n_ctx=256, n_seq_max=N_SEQ_MAX, **options) as context,
        Context(model, n_ctx=1024, **options) as alone,
    ):
        plain = PlainText(alone)
        run_state_machine_as_test(
            cast(Any, lambda: StateMachine(context, plain)),
            settings=settings(stateful_step_count=40),
        )


@pytest.mark.parametrize(
    ("kind", "n_threads"), [("mamba2", 1), ("qwen35", 2), ("lfm2-swa", 1), ("kimi-k3", 2)]
)
def test_every_row_is_that_of_plain_text_where_chains_are_rolled_back(
    tiny_model: Callable[..., Model], kind: str, n_threads: int
) -> None:
    model = tiny_model(kind)
    options: dict[str, Any] = {"n_ubatch": N_UBATCH, "n_batch": 64, "n_threads": n_threads}
    with (
        Context(model, n_ctx=256, n_seq_max=N_SEQ_MAX, n_rs_seq=6, **options) as context,
        Context(model, n_ctx=1024, **options) as alone,
    ):
        plain = PlainText(alone)
        run_state_machine_as_test(
            cast(Any, lambda: ChainMachine(context, plain)),
            settings=settings(stateful_step_count=40),
        )
