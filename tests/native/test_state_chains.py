"""Chains over recurrent states, rolled back: the text after them has the bits of plain decoding."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import psutil
import pytest

from exactness import logits_of_plain_steps, needs_exact
from pytreellama import Batch, Completion, Context, Engine, Model, TokenTree
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

pytestmark = needs_exact

KINDS = (
    "mamba2",
    "falcon-h1",
    "granitehybrid",
    "nemotron_h",
    "nemotron_h_moe",
    "qwen35",
    "qwen35moe",
    "qwen3next",
    "qwen4exp",
    "qwen4exp-ple",
    "kimi-k3",
    "bailingmoe3",
    "glm5-next",
    "lfm2",
    "lfm2-swa",
    "lfm2moe",
)
"""Kinds whose passes can keep the state behind each of their last tokens."""
ALONE = ("qwen4exp", "qwen4exp-ple", "glm5-next")
"""Kinds whose attention depends on the other texts of a pass."""
FEW = ("mamba2", "qwen35", "kimi-k3", "lfm2", "qwen4exp")
N_CHAIN = 8
N_CTX = 512
TOKENS = [40, 41, 42, 41, 43, 44, 45, 46]

ContextOf = Callable[..., Context]
TinyModel = Callable[..., Model]


@pytest.fixture
def context_of(tiny_model: TinyModel) -> Iterator[ContextOf]:
    """Contexts of a kind with chains of up to 8 tokens, closed at the end of the test."""
    made: list[Context] = []

    def make(kind: str, dtype: str = "f32", **options: Any) -> Context:
        model = tiny_model(kind, **({} if dtype == "f32" else {"dtype": dtype}))
        sizes = {"n_ctx": N_CTX, "n_seq_max": 3, "n_rs_seq": N_CHAIN}
        context = Context(model, **(sizes | options))
        made.append(context)
        return context

    yield make
    for context in made:
        context.close()


def text_of(n_tokens: int, seed: int = 7) -> list[int]:
    return np.random.default_rng(seed).integers(3, 250, n_tokens).tolist()


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


@pytest.mark.parametrize("kind", FEW)
def test_chains_of_several_sequences_share_a_pass_with_text(
    context_of: ContextOf, kind: str
) -> None:
    context, alone = context_of(kind), context_of(kind, n_rs_seq=0)
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


# -- engines


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


class Oracle:
    """Proposes what the model will write, with a wrong token beside each."""

    name = "oracle"

    def __init__(self, texts: Sequence[Sequence[int]]) -> None:
        self._texts = [list(text) for text in texts]  # prompts included
        self._seen: list[int] = []

    def observe(self, tokens: Sequence[int]) -> None:
        self._seen.extend(map(int, tokens))

    def propose(self, n_nodes: int) -> TokenTree:
        n = len(self._seen)
        text = next(text for text in self._texts if text[:n] == self._seen)
        true = text[n : n + 5]
        paths = [[*true[:i], token] for i in range(len(true)) for token in (true[i] ^ 1, true[i])]
        tree = TokenTree.from_paths(paths).truncate(n_nodes) if paths else TokenTree.empty()
        return tree.with_p([0.8 ** (d + 1) * (0.9 if t % 2 else 1) for t, d in _nodes(tree)])

    def reset(self) -> None:
        self._seen = []


def _nodes(tree: TokenTree) -> list[tuple[int, int]]:
    return list(zip(tree.tokens.tolist(), tree.depths.tolist(), strict=True))


def answers_of(
    model: Model, drafter: Any, prompts: list[list[int]], **options: Any
) -> list[Completion]:
    sizes = {"n_ctx": N_CTX, "n_seq_max": 2, "n_rs_seq": N_CHAIN}
    with Engine(model, drafter, **(sizes | options)) as engine:
        return engine.generate(prompts, max_tokens=48, ignore_eos=True)


@pytest.mark.parametrize("kind", KINDS)
def test_drafted_text_is_plain_text(tiny_model: TinyModel, kind: str) -> None:
    model = tiny_model(kind)
    prompts = [text_of(40, seed) * 2 for seed in (4, 5)]
    expected = [one.tokens for one in answers_of(model, "none", prompts, n_rs_seq=0, n_seq_max=1)]
    n_seq_max = 1 if kind in ALONE else 2
    for drafter in ("suffix", "recycling", "auto"):
        found = answers_of(model, drafter, prompts, n_seq_max=n_seq_max)
        assert [one.tokens for one in found] == expected, drafter
        if drafter == "suffix":
            assert sum(one.stats.n_drafted for one in found) > 0
            assert max(n for one in found for n in one.stats.tree_sizes) <= N_CHAIN


@pytest.mark.parametrize("kind", FEW)
def test_a_drafter_that_knows_the_text_gains_tokens_a_pass(
    tiny_model: TinyModel, kind: str
) -> None:
    model = tiny_model(kind)
    prompts = [text_of(40, seed) for seed in (4, 5)]
    expected = [one.tokens for one in answers_of(model, "none", prompts, n_rs_seq=0, n_seq_max=1)]
    texts = [[*prompt, *text] for prompt, text in zip(prompts, expected, strict=True)]
    n_seq_max = 1 if kind in ALONE else 2
    found = answers_of(model, lambda: Oracle(texts), prompts, n_seq_max=n_seq_max)
    assert [one.tokens for one in found] == expected
    assert all(one.stats.tokens_per_step > 1.5 for one in found)


@pytest.mark.parametrize("kind", ["qwen35", "mamba2"])
def test_requests_are_preempted_and_go_on(tiny_model: TinyModel, kind: str) -> None:
    model = tiny_model(kind)
    prompts = [text_of(n_tokens, n_tokens) * 2 for n_tokens in (5, 9, 30, 14, 3, 50, 20, 11)]
    expected = [one.tokens for one in answers_of(model, "none", prompts, n_seq_max=1)]
    found = answers_of(model, "suffix", prompts, n_ctx=256, n_seq_max=4)
    assert [one.tokens for one in found] == expected
