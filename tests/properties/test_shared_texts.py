"""Texts that share cells have the logits of each text alone, bit for bit, in one pass over all.

A random forest of forks grows, is cut, loses cells in its middle and guesses trees; each sequence's
logits are those of a context of its own that did the same to this text alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from exactness import needs_exact
from pytreellama import Batch, Context, Model, TokenTree
from strategies import token_trees

N_SEQS, N_VOCAB, N_CTX = 5, 320, 4096
KINDS = ("rope", "rope_mha", "alibi", "swa")
N_STEPS = 12

seqs = st.integers(0, N_SEQS - 1)
lengths = st.sampled_from([1, 2, 20, 64, 100, 256, 300])
trees = token_trees(min_nodes=1, max_nodes=8, n_vocab=N_VOCAB)

Edit = tuple[str, tuple[int, ...]]


class Texts(RuleBasedStateMachine):
    """Sequences of one context, and what was done to each."""

    def __init__(self, shared: Context, alone: Context, can_cut: bool) -> None:
        super().__init__()
        self.shared, self.alone, self.can_cut = shared, alone, can_cut
        self.done: dict[int, tuple[Edit, ...]] = {}
        self.rng = np.random.default_rng(0)
        shared.memory.clear(data=False)
        for seq in range(N_SEQS):
            shared.sequences.free(seq)

    def n_past(self, seq: int) -> int:
        return self.shared.sequences.n_past(seq)

    @rule(seq=seqs, length=lengths)
    def write(self, seq: int, length: int) -> None:
        tokens = tuple(self.rng.integers(3, N_VOCAB, length).tolist())
        if self.n_past(seq) + length > 700:
            return
        self.edit(seq, ("write", tokens))

    @rule(seq=seqs, other=seqs, share=st.floats(0, 1))
    def fork(self, seq: int, other: int, share: float) -> None:
        n_kept = round(share * self.n_past(seq))
        if seq == other or not n_kept:
            return
        n_kept = n_kept if self.can_cut else self.n_past(seq)
        self.shared.memory.rm(other)
        self.shared.memory.cp(seq, other, 0, n_kept)
        self.done[other] = (*self.done[seq], ("rm", (n_kept, -1)))

    @precondition(lambda self: self.can_cut)
    @rule(seq=seqs, share=st.floats(0, 1))
    def cut(self, seq: int, share: float) -> None:
        n_kept = round(share * self.n_past(seq))
        if n_kept:
            self.edit(seq, ("rm", (n_kept, -1)))

    @precondition(lambda self: self.can_cut)
    @rule(seq=seqs, share=st.floats(0, 1), length=lengths)
    def evict(self, seq: int, share: float, length: int) -> None:
        """Out of the middle; what is behind stays where it is."""
        first = round(share * self.n_past(seq))
        if first + length < self.n_past(seq) and first > 0:
            self.edit(seq, ("rm", (first, first + length)))

    @rule(seq=seqs)
    def leave(self, seq: int) -> None:
        self.shared.memory.rm(seq)
        self.done.pop(seq, None)

    @precondition(lambda self: self.done)
    @rule(data=st.data())
    def step(self, data: st.DataObject) -> None:
        """One pass over a tree of every sequence; one of them is asked for alone."""
        ready = [seq for seq in sorted(self.done) if self.n_past(seq) > 0]
        if not ready:
            return
        grown = {seq: data.draw(trees, f"tree of {seq}") for seq in ready}
        batch = Batch(sum(len(tree) for tree in grown.values()))
        rows = {seq: self.shared.place(batch, seq, tree) for seq, tree in grown.items()}
        self.shared.decode(batch)
        found = self.shared.outputs.logits.copy()
        seq = data.draw(st.sampled_from(ready), "asked")
        path = grown[seq].path(len(grown[seq]) - 1).tolist()
        for other in ready:
            self.shared.commit(other, path if other == seq else [])
        expected = self.logits_alone(self.done[seq], grown[seq])
        assert found[rows[seq]].tobytes() == expected.tobytes()
        tokens = tuple(int(grown[seq].tokens[node]) for node in path)
        self.done[seq] = (*self.done[seq], ("write", tokens))

    def edit(self, seq: int, edit: Edit) -> None:
        apply(self.shared, seq, edit)
        self.done[seq] = (*self.done.get(seq, ()), edit)

    def logits_alone(self, edits: tuple[Edit, ...], tree: TokenTree) -> np.ndarray:
        self.alone.memory.clear(data=False)
        for edit in edits:
            apply(self.alone, 0, edit)
        found = self.alone.decode(tree, seq=0).logits.copy()
        self.alone.discard(0)
        return found


def apply(context: Context, seq: int, edit: Edit) -> None:
    what, numbers = edit
    if what == "write":
        context.prefill(list(numbers), seq)
    else:
        context.memory.rm(seq, *numbers)


@pytest.fixture(scope="module")
def contexts_of(
    tiny_model: Callable[..., Model],
) -> Iterator[Callable[[str], tuple[Context, Context]]]:
    """One for many texts, and one for each by itself."""
    made: dict[str, tuple[Context, Context]] = {}

    def get(kind: str) -> tuple[Context, Context]:
        if kind not in made:
            shared, alone = (
                Context(
                    tiny_model(kind),
                    n_ctx=N_CTX,
                    n_seq_max=n_seqs,
                    n_threads=n_threads,
                    flash_attention=True,
                )
                for n_seqs, n_threads in ((N_SEQS, 2), (1, 1))
            )
            made[kind] = shared, alone
        return made[kind]

    yield get
    for pair in made.values():
        for context in pair:
            context.close()


@needs_exact
@pytest.mark.parametrize("kind", KINDS)
def test_texts_that_share_cells_have_the_logits_of_each_alone(
    contexts_of: Callable[[str], tuple[Context, Context]], kind: str
) -> None:
    shared, alone = contexts_of(kind)
    run_state_machine_as_test(
        cast(Any, lambda: Texts(shared, alone, can_cut=kind != "swa")),
        settings=settings(max_examples=8, stateful_step_count=N_STEPS, deadline=None),
    )


@needs_exact
def test_many_texts_behind_one_prompt_have_the_logits_of_each_alone(
    contexts_of: Callable[[str], tuple[Context, Context]],
) -> None:
    shared, alone = contexts_of("rope")
    texts = Texts(shared, alone, can_cut=True)
    texts.edit(0, ("write", tuple(range(3, 303))))
    texts.edit(0, ("write", tuple(range(3, 303))))
    for seq in range(1, N_SEQS):
        shared.memory.cp(0, seq)
        texts.done[seq] = texts.done[0]
        texts.edit(seq, ("write", tuple(range(7 * seq, 9 * seq))))
    tree = TokenTree.from_parents([5, 6, 7], [-1, 0, 0])
    batch = Batch(3 * N_SEQS)
    rows = [shared.place(batch, seq, tree) for seq in range(N_SEQS)]
    shared.decode(batch)
    found = shared.outputs.logits.copy()
    for seq in range(N_SEQS):
        shared.discard(seq)
        assert found[rows[seq]].tobytes() == texts.logits_alone(texts.done[seq], tree).tobytes()
