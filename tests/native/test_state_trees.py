"""Trees of models with a recurrent state: each node has the bits of its path decoded alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exactness import logits_of_plain_steps, needs_exact
from pytreellama import Batch, Context, Engine, Model, TokenTree, TreeEncoding
from pytreellama.errors import BatchError, DecodeError, TreeError
from pytreellama.native.context import AbortFlag
from random_texts import text_of
from tiny_architectures import kda
from tiny_models import write_tiny_model

pytestmark = needs_exact

KINDS = (
    "recurrent",
    "hybrid",
    "mamba2",
    "falcon-h1",
    "granitehybrid",
    "nemotron_h",
    "nemotron_h_moe",
    "qwen35",
    "qwen35moe",
    "qwen3next",
    "kimi-linear",
    "kimi-k3",
    "bailingmoe3",
    "lfm2",
    "lfm2-swa",
    "lfm2moe",
    "rwkv6",
    "rwkv6qwen2",
    "rwkv7",
    "arwkv7",
)
"""Kinds that hold trees on states."""
CHAINS = {
    "qwen4exp": "indexer pools",
    "glm5-next": "indexer pools",
    "minimax-01": "knows no parents",
    "deepseek4": "compressors",
}
"""Kinds that take chains alone, and why."""
FEW = ("mamba2", "qwen35", "kimi-k3", "lfm2", "rwkv6", "rwkv6qwen2", "rwkv7")
"""One for each op, and one with three convolutions a layer."""

PARENTS = [-1, 0, 0, 1, 1, 2, 3, 3, 5, 6]
TOKENS = [40, 41, 42, 41, 43, 41, 44, 45, 46, 47]  # 41 stands below three parents
N_CTX = 1024

ContextOf = Callable[..., Context]
TinyModel = Callable[..., Model]


@pytest.fixture
def context_of(new_context: ContextOf) -> ContextOf:
    """Contexts of a kind, for three texts."""
    return partial(new_context, n_ctx=N_CTX, n_seq_max=3)


def path_to(node: int, parents: Sequence[int] = PARENTS) -> list[int]:
    path = []
    while node >= 0:
        path.append(node)
        node = parents[node]
    return path[::-1]


def rows_of_paths(
    context: Context, text: list[int], tokens: Sequence[int], parents: Sequence[int]
) -> np.ndarray:
    """The logits of each node by plain steps over its path alone."""
    seq = context.prefill(text) if text else context.sequences.new()
    state = context.memory.save(seq) if text else b""
    rows = []
    for node in range(len(tokens)):
        path = [tokens[i] for i in path_to(node, parents)]
        rows.append(logits_of_plain_steps(context, seq, path)[-1])
        context.sequences.free(seq)
        seq = context.sequences.new()
        if text:
            context.memory.load(state, seq)
    context.sequences.free(seq)
    return np.array(rows)


@pytest.mark.parametrize("dtype", ["f32", "q8_0"])
@pytest.mark.parametrize(("n_text", "n_threads"), [(40, 1), (600, 2)])
@pytest.mark.parametrize("kind", KINDS)
def test_each_node_has_the_bits_of_its_path(
    context_of: ContextOf, kind: str, n_text: int, n_threads: int, dtype: str
) -> None:
    context, alone = (context_of(kind, dtype, n_threads=n_threads) for _ in range(2))
    text = text_of(n_text)
    expected = rows_of_paths(alone, text, TOKENS, PARENTS)
    assert context.tree_encoding is TreeEncoding.ANCESTORS
    seq = context.prefill(text)
    rows = context.decode(TokenTree(TOKENS, PARENTS), seq=seq).logits
    assert (rows == expected).all()
    same_token = [node for node, token in enumerate(TOKENS) if token == 41]
    for a, b in pairwise(same_token):
        assert np.abs(rows[a] - rows[b]).max() > 0.05  # history shows


def test_decays_by_channel_have_the_bits_of_paths_in_heads_of_whole_vectors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kda, "D_HEAD", 64)  # of real models: 128; the tiny ones have 32
    write_tiny_model(tmp_path / "model.gguf", "kimi-linear", n_ctx_train=1024)
    with (
        Model(tmp_path / "model.gguf") as model,
        Context(model, n_ctx=N_CTX, n_seq_max=3) as context,
        Context(model, n_ctx=N_CTX, n_seq_max=3) as alone,
    ):
        text = text_of(40)
        expected = rows_of_paths(alone, text, TOKENS, PARENTS)
        rows = context.decode(TokenTree(TOKENS, PARENTS), seq=context.prefill(text)).logits
        assert (rows == expected).all()


@pytest.mark.parametrize("kind", KINDS)
def test_text_goes_on_from_a_committed_path(context_of: ContextOf, kind: str) -> None:
    context, alone = context_of(kind), context_of(kind)
    text = text_of(50)
    seq, other = context.prefill(text), alone.prefill(text)
    for node in (9, 4, 0):
        context.decode(TokenTree(TOKENS, PARENTS), seq=seq)
        path = path_to(node)
        context.commit(seq, path)
        logits_of_plain_steps(alone, other, [TOKENS[i] for i in path])
        assert context.sequences.n_past(seq) == alone.sequences.n_past(other)
        more = [60 + node, 61]
        rows = logits_of_plain_steps(context, seq, more)
        assert (rows == logits_of_plain_steps(alone, other, more)).all()


@pytest.mark.parametrize("kind", FEW)
def test_a_discarded_tree_leaves_the_state_as_it_was(context_of: ContextOf, kind: str) -> None:
    context = context_of(kind)
    seq = context.prefill(text_of(30))
    before = context.memory.save(seq)
    context.decode(TokenTree(TOKENS, PARENTS), seq=seq)
    context.discard(seq)
    assert context.memory.save(seq) == before


@pytest.mark.parametrize("kind", KINDS)
def test_a_tree_grows_by_levels(context_of: ContextOf, kind: str) -> None:
    context, alone = context_of(kind), context_of(kind)
    text = text_of(33)
    expected = rows_of_paths(alone, text, TOKENS, PARENTS)
    seq = context.prefill(text)
    rows = [context.decode(TokenTree(TOKENS[:3], PARENTS[:3]), seq=seq).logits]
    for begin, end in ((3, 6), (6, 8), (8, 10)):
        rows.append(context.grow(seq, TOKENS[begin:end], PARENTS[begin:end]).logits)
    assert (np.concatenate(rows) == expected).all()
    path = path_to(9)
    context.commit(seq, path)
    other = alone.prefill(text)
    logits_of_plain_steps(alone, other, [TOKENS[i] for i in path])
    assert (
        logits_of_plain_steps(context, seq, [9, 8]) == logits_of_plain_steps(alone, other, [9, 8])
    ).all()


@pytest.mark.parametrize("kind", FEW)
def test_a_pruned_tree_grows_on(context_of: ContextOf, kind: str) -> None:
    context, alone = context_of(kind), context_of(kind)
    text = text_of(20)
    seq = context.prefill(text)
    context.decode(TokenTree(TOKENS, PARENTS), seq=seq)
    numbers = context.prune(seq, [8])
    kept = [node for node in range(len(TOKENS)) if numbers[node] >= 0]
    assert kept == [0, 2, 5, 8]
    rows = context.grow(seq, [70, 71], [numbers[8], numbers[2]]).logits
    tokens = [TOKENS[i] for i in kept] + [70, 71]
    parents = [-1, 0, 1, 2, 3, 1]
    assert (rows == rows_of_paths(alone, text, tokens, parents)[-2:]).all()


@pytest.mark.parametrize("kind", FEW)
def test_unequal_trees_and_text_share_a_pass(context_of: ContextOf, kind: str) -> None:
    context, alone = context_of(kind), context_of(kind)
    texts = [text_of(30, seed) for seed in (1, 2, 3)]
    seqs = [context.prefill(text) for text in texts]
    batch = Batch(64)
    batch.add([55], [30], seqs[2], logits=True)
    small = TokenTree(TOKENS[:4], PARENTS[:4])
    where = [context.place(batch, seqs[0], TokenTree(TOKENS, PARENTS))]
    where.append(context.place(batch, seqs[1], small))
    rows = context.decode(batch).logits
    expected = [
        rows_of_paths(alone, texts[0], TOKENS, PARENTS),
        rows_of_paths(alone, texts[1], TOKENS[:4], PARENTS[:4]),
        rows_of_paths(alone, texts[2], [55], [-1]),
    ]
    for place, those in zip((*where, slice(0, 1)), expected, strict=True):
        assert (rows[place] == those).all()
    context.commit(seqs[0], path_to(6))
    context.commit(seqs[1], path_to(3))
    assert [context.sequences.n_past(seq) for seq in seqs] == [34, 33, 31]
    for seq, text, more in zip(
        seqs,
        texts,
        ([TOKENS[i] for i in path_to(6)], [TOKENS[i] for i in path_to(3)], [55]),
        strict=True,
    ):
        other = alone.prefill(text)
        logits_of_plain_steps(alone, other, more)
        assert (
            logits_of_plain_steps(context, seq, [5]) == logits_of_plain_steps(alone, other, [5])
        ).all()
        alone.sequences.free(other)


@pytest.mark.parametrize("n_tokens", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_texts_that_share_passes_leave_states_of_their_own(
    context_of: ContextOf, kind: str, n_tokens: int
) -> None:
    context, alone = context_of(kind), context_of(kind)
    texts = [text_of(4 * n_tokens, seed) for seed in (1, 2, 3)]
    for begin in range(0, 4 * n_tokens, n_tokens):
        batch = Batch(64)
        for seq, text in enumerate(texts):
            batch.add(text[begin : begin + n_tokens], range(begin, begin + n_tokens), seq)
        context.decode(batch)
    for seq, text in enumerate(texts):
        other = alone.prefill(text)
        rows = logits_of_plain_steps(context, seq, [5])
        assert (rows == logits_of_plain_steps(alone, other, [5])).all()
        alone.sequences.free(other)


@pytest.mark.parametrize("kind", FEW)
def test_a_tree_may_begin_a_text(context_of: ContextOf, kind: str) -> None:
    context, alone = context_of(kind), context_of(kind)
    # a row that another text has left behind is no state of a new one
    context.sequences.free(context.prefill(text_of(20)))
    expected = rows_of_paths(alone, [], TOKENS, PARENTS)
    seq = context.sequences.new()
    assert (context.decode(TokenTree(TOKENS, PARENTS), seq=seq).logits == expected).all()
    context.commit(seq, path_to(9))
    other = alone.sequences.new()
    logits_of_plain_steps(alone, other, [TOKENS[i] for i in path_to(9)])
    assert (
        logits_of_plain_steps(context, seq, [5]) == logits_of_plain_steps(alone, other, [5])
    ).all()


@pytest.mark.parametrize("kind", FEW)
def test_a_copy_of_a_text_keeps_its_own_state(context_of: ContextOf, kind: str) -> None:
    context, alone = context_of(kind), context_of(kind)
    text = text_of(25)
    seq, other = context.prefill(text), alone.prefill(text)
    copy = context.sequences.new()
    context.memory.cp(seq, copy)
    context.decode(TokenTree(TOKENS, PARENTS), seq=copy)
    context.commit(copy, path_to(7))
    rows = logits_of_plain_steps(context, seq, [90, 91])
    assert (rows == logits_of_plain_steps(alone, other, [90, 91])).all()


@pytest.mark.parametrize("kind", FEW)
def test_an_aborted_pass_leaves_text_and_earlier_nodes(
    context_of: ContextOf, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, alone = context_of(kind), context_of(kind)
    text = text_of(25)
    seq = context.prefill(text)
    context.decode(TokenTree(TOKENS[:3], PARENTS[:3]), seq=seq)
    with monkeypatch.context() as patch:
        patch.setattr(AbortFlag, "clear", lambda flag: None)  # the pass ends at its first op
        context.abort()
        with pytest.raises(DecodeError, match="aborted"):
            context.grow(seq, TOKENS[3:6], PARENTS[3:6])
    rows = context.grow(seq, TOKENS[3:6], PARENTS[3:6]).logits
    assert (rows == rows_of_paths(alone, text, TOKENS[:6], PARENTS[:6])[3:]).all()


@pytest.mark.parametrize("kind", FEW)
def test_more_nodes_than_a_pass_takes_are_refused(context_of: ContextOf, kind: str) -> None:
    context = context_of(kind, n_batch=128, n_ubatch=64)
    assert context.n_nodes_max == 64
    seq = context.prefill(text_of(20))
    with pytest.raises(TreeError, match="n_ubatch"):
        context.decode(TokenTree.chain([5] * 65), seq=seq)
    rows = context.decode(TokenTree.chain([5] * 64), seq=seq).logits
    assert np.isfinite(rows).all()
    with pytest.raises(TreeError, match="64 nodes that are pending"):
        context.grow(seq, [6], [0])
    context.discard(seq)
    context.decode(TokenTree(TOKENS, PARENTS), seq=seq)


@pytest.mark.parametrize(("kind", "reason"), CHAINS.items())
def test_other_models_take_chains_alone_and_say_why(
    context_of: ContextOf, kind: str, reason: str
) -> None:
    context = context_of(kind)
    seq = context.prefill(text_of(20))
    assert context.can_roll_back == (context.draft_shape == "chains")
    with pytest.raises(TreeError, match=f"cannot branch: .*{reason}"):
        context.decode(TokenTree(TOKENS, PARENTS), seq=seq)
    context.decode(TokenTree.chain(TOKENS[:4]), seq=seq)
    context.commit(seq, [0, 1])


@pytest.mark.parametrize("drafter", ["suffix", "recycling", "auto"])
@pytest.mark.parametrize("kind", KINDS)
def test_planned_and_drafted_text_is_plain_text(
    tiny_model: TinyModel, kind: str, drafter: str
) -> None:
    model = tiny_model(kind)
    prompts = [text_of(40, seed) * 2 for seed in (4, 5)]
    with Engine(model, "none", n_ctx=N_CTX, n_seq_max=2) as plain:
        expected = [plain.generate(p, max_tokens=48, ignore_eos=True).tokens for p in prompts]
    with Engine(model, drafter, n_ctx=N_CTX, n_seq_max=2) as engine:
        found = engine.generate(prompts, max_tokens=48, ignore_eos=True)
    assert [one.tokens for one in found] == expected
    if drafter == "suffix":
        assert sum(one.stats.n_drafted for one in found) > 0


def test_no_state_row_is_written_by_a_pass_over_nodes(
    context_of: ContextOf, tmp_path: Path
) -> None:
    context = context_of("qwen35")
    seqs = [context.prefill(text_of(20, seed)) for seed in (1, 2)]
    before = [context.memory.save(seq) for seq in seqs]
    context.decode(TokenTree(TOKENS, PARENTS), seq=seqs[0])
    assert context.memory.save(seqs[1]) == before[1]
    context.discard(seqs[0])
    assert context.memory.save(seqs[0]) == before[0]


@pytest.mark.parametrize("kind", FEW)
def test_an_abort_that_comes_too_late_for_a_pass_ends_no_commit(
    context_of: ContextOf, kind: str
) -> None:
    context, alone = context_of(kind), context_of(kind)
    seq, other = context.prefill(text_of(20)), alone.prefill(text_of(20))
    context.decode(TokenTree(TOKENS, PARENTS), seq=seq)
    context.abort()
    context.commit(seq, path_to(9))
    logits_of_plain_steps(alone, other, [TOKENS[i] for i in path_to(9)])
    assert (
        logits_of_plain_steps(context, seq, [5]) == logits_of_plain_steps(alone, other, [5])
    ).all()


@pytest.mark.parametrize("kind", FEW)
def test_a_token_of_two_texts_goes_with_no_nodes(context_of: ContextOf, kind: str) -> None:
    context = context_of(kind)
    context.prefill(text_of(10), 0)
    context.memory.cp(0, 1)
    batch = Batch(64)
    batch.add([55], [10], [[0, 1]], logits=True)
    context.place(batch, 2, TokenTree(TOKENS, PARENTS))
    with pytest.raises(BatchError, match="belongs to 2 sequences"):
        context.decode(batch)
    assert [context.sequences.n_past(seq) for seq in range(3)] == [10, 10, 0]
    assert not context.sequences.is_pending(2)


@pytest.mark.parametrize("kind", ["qwen35", "lfm2-swa", "qwen4exp"])
def test_a_hybrid_counts_the_cells_of_its_cache(context_of: ContextOf, kind: str) -> None:
    context = context_of(kind)
    assert context.memory.n_cells_used == 0
    context.prefill(text_of(20))
    assert context.memory.n_cells_used == 20


@pytest.mark.parametrize(
    "options",
    [
        {"n_ctx": 256, "n_seq_max": 4},  # far less than all texts need
        {"n_ubatch": 4, "n_batch": 64, "n_seq_max": 8},
        {"n_ubatch": 1, "n_batch": 64, "n_seq_max": 3},
    ],
    ids=["few cells", "few nodes", "one node"],
)
@pytest.mark.parametrize("kind", ["qwen35", "mamba2", "rwkv7"])
def test_requests_share_a_context_with_little_room(
    tiny_model: TinyModel, kind: str, options: dict[str, Any]
) -> None:
    model = tiny_model(kind)
    prompts = [text_of(n_tokens, n_tokens) * 2 for n_tokens in (5, 9, 30, 14, 3, 50, 20, 11)]
    with Engine(model, "none", n_ctx=N_CTX, n_seq_max=1) as plain:
        expected = [plain.generate(p, max_tokens=32, ignore_eos=True).tokens for p in prompts]
    with Engine(model, "suffix", **options) as engine:
        found = engine.generate(prompts, max_tokens=32, ignore_eos=True)
    assert [one.tokens for one in found] == expected


@pytest.mark.parametrize("kind", ["mamba2", "falcon-h1", "lfm2-swa"])
def test_a_state_that_is_moved_below_0_is_gone(context_of: ContextOf, kind: str) -> None:
    context, alone = context_of(kind), context_of(kind)
    context.prefill(text_of(10), 0)
    context.memory.cp(0, 1)
    assert context.memory.is_shared(0)
    context.memory.add(0, 0, -1, -20)
    assert [context.memory.pos_min(seq) for seq in range(2)] == [-1, -1]
    rows = logits_of_plain_steps(context, 0, [5, 6])
    assert (rows == logits_of_plain_steps(alone, 0, [5, 6])).all()
    assert not context.memory.is_shared(0)
