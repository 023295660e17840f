"""Chains over recurrent states, rolled back: the text after them has the bits of plain decoding."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import psutil
import pytest

from chain_kinds import FEW, KINDS, N_CHAIN, N_CTX
from exactness import logits_of_plain_steps, needs_exact
from pytreellama import Batch, Context, Model, TokenTree
from pytreellama.engine.calibration import TimedPasses
from pytreellama.errors import (
    BatchError,
    CacheFullError,
    ContextError,
    DecodeError,
    MemoryStateError,
    TreeError,
)
from pytreellama.native.context import AbortFlag
from random_texts import text_of

pytestmark = needs_exact

TOKENS = [40, 41, 42, 41, 43, 44, 45, 46]

ContextOf = Callable[..., Context]
TinyModel = Callable[..., Model]


@pytest.fixture
def context_of(new_context: ContextOf) -> ContextOf:
    """Contexts of a kind, for three texts and chains of up to 8 tokens."""
    return partial(new_context, n_ctx=N_CTX, n_seq_max=3, n_rs_seq=N_CHAIN)


@pytest.mark.parametrize("kind", KINDS)
def test_any_part_of_a_chain_becomes_text(context_of: ContextOf, kind: str) -> None:
    context, alone = context_of(kind), context_of(kind, n_rs_seq=0)
    seq, other = context.prefill(text_of(40)), alone.prefill(text_of(40))
    for n_tokens in range(1, N_CHAIN + 1):
        for n_kept in range(n_tokens + 1):
            rows = context.decode(TokenTree.chain(TOKENS[:n_tokens]), seq=seq).logits
            context.commit(seq, range(n_kept))
            for row, token in zip(rows, TOKENS[:n_kept], strict=False):
                alone.decode(token, seq=other)
                assert (row == alone.outputs.logits[0]).all(), (n_tokens, n_kept)
    assert context.sequences.n_past(seq) == alone.sequences.n_past(other)
    rows = logits_of_plain_steps(context, seq, [60, 61])
    assert (rows == logits_of_plain_steps(alone, other, [60, 61])).all()


@pytest.mark.parametrize("kv_unified", [True, False])
@pytest.mark.parametrize("kind", FEW)
def test_chains_of_several_sequences_share_a_pass_with_text(
    context_of: ContextOf, kind: str, kv_unified: bool
) -> None:
    context, alone = context_of(kind, kv_unified=kv_unified), context_of(kind, n_rs_seq=0)
    texts = [text_of(20 + seed, seed) for seed in range(3)]
    seqs = [context.prefill(text) for text in texts]
    others = [alone.prefill(text) for text in texts]
    batch = Batch(64)
    for n_tokens, n_kept in ((5, 3), (2, 0), (8, 7), (8, 1)):
        batch.clear()
        batch.add([55], [context.sequences.n_past(seqs[1])], seqs[1], logits=True)
        places = [slice(0, 1)]
        for seq, n in ((seqs[0], n_tokens), (seqs[2], 4)):
            places.append(context.place(batch, seq, TokenTree.chain(TOKENS[:n])))
        rows = context.decode(batch).logits
        context.commit(seqs[2], range(2))
        context.commit(seqs[0], range(n_kept))
        kept = ([55], TOKENS[:n_kept], TOKENS[:2])
        for place, other, tokens in zip(
            places, (others[1], others[0], others[2]), kept, strict=True
        ):
            for row, token in zip(rows[place], tokens, strict=False):
                assert (row == alone.decode(token, seq=other).logits[0]).all()
    for seq, other in zip(seqs, others, strict=True):
        rows = logits_of_plain_steps(context, seq, [5, 6])
        assert (rows == logits_of_plain_steps(alone, other, [5, 6])).all()


@pytest.mark.parametrize("kind", ["mamba2", "qwen35", "lfm2"])
def test_chains_of_all_lengths_share_a_pass(context_of: ContextOf, kind: str) -> None:
    context, alone = context_of(kind), context_of(kind, n_rs_seq=0)
    texts = [text_of(10 + seed, seed) for seed in range(3)]
    seqs = [context.prefill(text) for text in texts]
    others = [alone.prefill(text) for text in texts]
    batch = Batch(64)
    everything = itertools.product(
        itertools.product((2, 4), repeat=3), itertools.permutations(range(3))
    )
    for round_, (sizes, order) in enumerate(everything):
        batch.clear()
        places = {
            i: context.place(batch, seqs[i], TokenTree.chain(TOKENS[: sizes[i]])) for i in order
        }
        rows = context.decode(batch).logits
        for i in range(3):
            n_kept = (sizes[i] + round_ % 2) // 2
            context.commit(seqs[i], range(n_kept))
            for row, token in zip(rows[places[i]], TOKENS[:n_kept], strict=False):
                assert (row == alone.decode(token, seq=others[i]).logits[0]).all(), sizes


@pytest.mark.parametrize("n_kept", [0, 1, 3, 4])
@pytest.mark.parametrize("kind", FEW)
def test_a_chain_stays_pending_over_passes_that_move_its_state(
    context_of: ContextOf, kind: str, n_kept: int
) -> None:
    context, alone = context_of(kind), context_of(kind, n_rs_seq=0)
    seqs = [context.prefill(text_of(20 + seed, seed)) for seed in range(3)]
    other = alone.prefill(text_of(21, 1))
    context.decode(TokenTree.chain(TOKENS[:4]), seq=seqs[1])
    batch = Batch(64)
    for seq in (seqs[0], seqs[2]):  # the state between theirs makes place
        context.place(batch, seq, TokenTree.chain(TOKENS))
    context.decode(batch)
    context.commit(seqs[1], range(n_kept))
    logits_of_plain_steps(alone, other, TOKENS[:n_kept])
    rows = logits_of_plain_steps(context, seqs[1], [5, 6])
    assert (rows == logits_of_plain_steps(alone, other, [5, 6])).all()


@pytest.mark.parametrize("kind", FEW)
def test_a_discarded_chain_leaves_the_state_as_it_was(context_of: ContextOf, kind: str) -> None:
    context = context_of(kind)
    seq = context.prefill(text_of(30))
    for n_tokens in (1, 3, N_CHAIN):
        before = context.memory.save(seq)
        context.decode(TokenTree.chain(TOKENS[:n_tokens]), seq=seq)
        context.discard(seq)
        assert context.memory.save(seq) == before
        context.decode(TokenTree.chain(TOKENS), seq=seq)
        context.commit(seq, range(n_tokens))


@pytest.mark.parametrize("kind", FEW)
def test_a_chain_may_begin_a_text(context_of: ContextOf, kind: str) -> None:
    context, alone = context_of(kind), context_of(kind, n_rs_seq=0)
    # a row that another text has left behind is no state of a new one
    context.sequences.free(context.prefill(text_of(20)))
    seq, other = context.sequences.new(), alone.sequences.new()
    context.decode(TokenTree.chain(TOKENS), seq=seq)
    context.discard(seq)
    assert context.sequences.n_past(seq) == 0
    context.decode(TokenTree.chain(TOKENS), seq=seq)
    context.commit(seq, range(3))
    logits_of_plain_steps(alone, other, TOKENS[:3])
    rows = logits_of_plain_steps(context, seq, [5, 6])
    assert (rows == logits_of_plain_steps(alone, other, [5, 6])).all()


@pytest.mark.parametrize("kind", FEW)
def test_a_rolled_back_text_is_copied_saved_and_loaded(context_of: ContextOf, kind: str) -> None:
    context, alone = context_of(kind), context_of(kind, n_rs_seq=0)
    seq, other = context.prefill(text_of(25)), alone.prefill(text_of(25))
    context.decode(TokenTree.chain(TOKENS), seq=seq)
    context.commit(seq, range(3))
    expected = logits_of_plain_steps(alone, other, [*TOKENS[:3], 90, 91])[3:]
    copy, loaded = context.sequences.new(), context.sequences.new()
    context.memory.cp(seq, copy)
    context.memory.load(context.memory.save(seq), loaded)
    alone.memory.load(context.memory.save(seq), 2)  # the bytes of a context without room for chains
    assert (logits_of_plain_steps(alone, 2, [90, 91]) == expected).all()
    context.decode(TokenTree.chain(TOKENS), seq=copy)  # leaves the original alone
    context.discard(copy)
    for one in (seq, copy, loaded):
        assert (logits_of_plain_steps(context, one, [90, 91]) == expected).all()


@pytest.mark.parametrize("kind", FEW)
def test_an_aborted_chain_leaves_all_texts_of_its_pass(
    context_of: ContextOf, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = context_of(kind)
    seqs = [context.prefill(text_of(25, seed)) for seed in (1, 2)]
    before = [context.memory.save(seq) for seq in seqs]
    batch = Batch(64)
    batch.add([55], [25], seqs[0], logits=True)
    context.place(batch, seqs[1], TokenTree.chain(TOKENS))
    with monkeypatch.context() as patch:
        patch.setattr(AbortFlag, "clear", lambda flag: None)  # the pass ends at its first op
        context.abort()
        with pytest.raises(DecodeError, match="aborted"):
            context.decode(batch)
    assert [context.memory.save(seq) for seq in seqs] == before
    assert not context.sequences.is_pending(seqs[1])


@pytest.mark.parametrize("kind", FEW)
def test_a_pass_without_room_leaves_the_text(context_of: ContextOf, kind: str) -> None:
    context = context_of(kind, n_ctx=256, n_seq_max=1)
    seq = context.prefill(text_of(250))
    before = context.memory.save(seq)
    if kind == "mamba2":  # no cells to run out of
        return
    with pytest.raises(CacheFullError):
        context.decode(TokenTree.chain(TOKENS), seq=seq)
    assert context.memory.save(seq) == before


@pytest.mark.parametrize("kind", FEW)
def test_text_cannot_be_rolled_back(context_of: ContextOf, kind: str) -> None:
    context = context_of(kind)
    seq = context.prefill(text_of(25))
    context.decode(TokenTree.chain(TOKENS), seq=seq)
    context.commit(seq, range(6))
    with pytest.raises(MemoryStateError):
        context.memory.rm(seq, 29)  # llama.cpp's own rollback would say that it can
    assert context.sequences.n_past(seq) == 31


@pytest.mark.parametrize("kind", FEW)
def test_longer_chains_fall_back_to_a_copy(context_of: ContextOf, kind: str) -> None:
    context, alone = context_of(kind), context_of(kind, n_rs_seq=0)
    seq, other = context.prefill(text_of(25)), alone.prefill(text_of(25))
    rows = context.decode(TokenTree.chain(TOKENS * 2), seq=seq).logits
    context.commit(seq, range(11))
    expected = logits_of_plain_steps(alone, other, (TOKENS * 2)[:11])
    assert (rows[:11] == expected).all()
    rows = logits_of_plain_steps(context, seq, [5, 6])
    assert (rows == logits_of_plain_steps(alone, other, [5, 6])).all()


def test_chains_take_no_branches_and_no_shared_tokens(context_of: ContextOf) -> None:
    context = context_of("qwen35")
    assert (context.can_branch, context.can_roll_back) == (False, True)
    assert (context.draft_shape, context.n_tree_max) == ("chains", N_CHAIN)
    seq = context.prefill(text_of(10))
    with pytest.raises(TreeError, match="cannot branch"):
        context.decode(TokenTree.from_parents([5, 6], [-1, -1]), seq=seq)
    batch = Batch(16)
    batch.add([55], [0], [[1, 2]], logits=True)
    context.place(batch, seq, TokenTree.chain(TOKENS))
    with pytest.raises(BatchError, match="one sequence"):
        context.decode(batch)
    assert context.sequences.n_past(seq) == 10


def test_states_are_kept_where_trees_do_not_reach(tiny_model: TinyModel) -> None:
    model = tiny_model("qwen35")
    for options, shape, n_tree_max in (
        ({}, "trees", 64),
        ({"kv_unified": False}, "chains", 8),
        ({"kv_unified": False, "n_rs_seq": 3}, "chains", 3),
        ({"kv_unified": False, "n_rs_seq": 0}, "plain", 64),
    ):
        with Context(model, n_ctx=N_CTX, n_batch=64, n_seq_max=2, **options) as context:
            assert (context.draft_shape, context.n_tree_max) == (shape, n_tree_max)


@pytest.mark.parametrize("kind", ["rope", "rwkv7", "recurrent", "deepseek4"])
def test_other_models_have_no_states_to_keep(tiny_model: TinyModel, kind: str) -> None:
    with pytest.raises(ContextError, match="n_rs_seq=8"):
        Context(tiny_model(kind), n_ctx=N_CTX, n_rs_seq=8)


@pytest.mark.parametrize(
    ("kind", "options", "why_not"),
    [
        ("qwen35", {"n_rs_seq": 8, "n_ubatch": 8}, "n_rs_seq = 8 was asked for with"),
        ("qwen35", {"n_rs_seq": 65}, "invalid n_rs_seq=65"),
        ("qwen35", {"n_rs_seq": 2.0}, "invalid n_rs_seq"),
        ("lfm2-swa", {"n_rs_seq": 8, "swa_full": False}, "without swa_full"),
    ],
)
def test_room_that_cannot_be_is_refused(
    tiny_model: TinyModel, kind: str, options: dict[str, Any], why_not: str
) -> None:
    with pytest.raises(ContextError, match=why_not):
        Context(tiny_model(kind), n_ctx=N_CTX, **options)


def test_states_that_do_not_fit_into_memory_are_not_kept(
    tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model("mamba2")  # whose cache needs no memory otherwise

    class Little:
        available = 1

    monkeypatch.setattr(psutil, "virtual_memory", Little)
    with Context(model, n_ctx=N_CTX, kv_unified=False) as context:
        assert context.n_tree_max == context.n_batch
    with pytest.raises(ContextError, match="GiB are available"):
        Context(model, n_ctx=N_CTX, n_rs_seq=8)


def test_a_node_holds_a_state_in_a_chain_and_less_in_a_tree(context_of: ContextOf) -> None:
    chains, trees = context_of("qwen35"), context_of("qwen35", n_rs_seq=0)
    seq = trees.prefill(text_of(20))
    assert trees.node_bytes == 0
    trees.decode(TokenTree.chain(TOKENS), seq=seq)
    assert 0 < trees.node_bytes < chains.node_bytes
    assert chains.node_bytes < len(chains.memory.save(chains.prefill(text_of(20))))


@pytest.mark.parametrize("n_rs_seq", [N_CHAIN, 0], ids=["chains", "trees"])
def test_the_cost_of_a_tree_has_its_commit_in_it(
    context_of: ContextOf, n_rs_seq: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = context_of("qwen35", n_rs_seq=n_rs_seq)
    commit, slow_s = context.commit, 0.5

    def slow(seq: int, path: Sequence[int]) -> None:
        time.sleep(slow_s)
        commit(seq, path)

    monkeypatch.setattr(context, "commit", slow)
    passes = TimedPasses(context, 16)
    assert passes.n_nodes_max >= N_CHAIN
    assert passes.time(1) < slow_s / 8
    assert passes.time(N_CHAIN) > slow_s
    assert slow_s / 4 < passes.time(2) < slow_s
    passes.close()
