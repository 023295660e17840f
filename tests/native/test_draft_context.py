"""The context of drafts that models carry: the target's states, and trees over them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from carried_drafts import CARRIED_KINDS, EAGLE3_TARGET, MTP_KINDS, Carried, Float32, Int32, carried
from pytreellama import Batch, Context, Model, TokenTree
from pytreellama.context.draft_context import DraftContext, Piece
from pytreellama.errors import BatchError, CacheFullError, ContextError, TreeError
from tiny_architectures.heads import DRAFT_TOKEN_STEP

pytest.importorskip("gguf", reason="needs gguf: pip install 'pytreellama[test]'")

Paths = Callable[..., Path]

TEXT = np.array([1, *(261 + i * 7 % 59 for i in range(20))], np.int32)
TREE = TokenTree.from_parents([270, 280, 290, 300, 305], [-1, -1, 0, 0, 2])


def states_of(n: int, n_embd: int, seed: int = 0) -> Float32:
    return np.random.default_rng(seed).standard_normal((n, n_embd), np.float32)


def ids(*tokens: int) -> Int32:
    return np.array(tokens, np.int32)


def grown(both: Carried, seq: int, states: Float32) -> tuple[Float32, Float32]:
    """Logits and states of all nodes of TREE, level by level."""
    logits, own = [], []
    for level in range(int(TREE.depths.max()) + 1):
        nodes = np.flatnonzero(TREE.depths == level)
        piece = Piece(seq, TREE.tokens[nodes], states[nodes], TREE.parents[nodes])
        both.draft.decode([piece])
        logits.append(both.draft.outputs.logits)
        own.append(both.draft.states())
    return np.concatenate(logits), np.concatenate(own)


@pytest.mark.parametrize("kind", CARRIED_KINDS)
def test_every_node_of_a_draft_tree_equals_its_path_alone(
    kind: str, tiny_model_path: Paths
) -> None:
    with carried(kind, tiny_model_path) as both:
        draft = both.draft
        seq = draft.sequences.new()
        draft.decode([both.piece(TEXT, seq)], flagged=False)
        states = states_of(len(TREE), draft.n_embd)
        logits, own = grown(both, seq, states)
        draft.discard(seq)
        for leaf in range(len(TREE)):
            for node in TREE.path(leaf):
                draft.decode([Piece(seq, ids(int(TREE.tokens[node])), states[[node]])])
            assert np.array_equal(draft.outputs.logits[0], logits[leaf])
            assert np.array_equal(draft.states()[0], own[leaf])
            draft.memory.rm(seq, draft.sequences.n_past(seq) - len(TREE.path(leaf)))


@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize("n_nodes", [1, 5])
def test_tokens_outside_the_drafts_vocabulary_have_no_probability(
    n_threads: int, n_nodes: int, tiny_model_path: Paths
) -> None:
    with carried("eagle3-d2t", tiny_model_path, n_threads) as both:
        seq = both.draft.sequences.new()
        states = states_of(n_nodes, both.draft.n_embd)
        both.draft.decode([Piece(seq, TREE.tokens[:n_nodes], states)])
        logits = both.draft.outputs.logits
        known = np.arange(5, logits.shape[1], DRAFT_TOKEN_STEP)
        assert np.isfinite(logits[:, known]).all()
        assert (np.delete(logits, known, axis=1) == -np.inf).all()


@pytest.mark.parametrize("kind", CARRIED_KINDS)
def test_a_node_depends_on_the_state_that_comes_with_it(kind: str, tiny_model_path: Paths) -> None:
    with carried(kind, tiny_model_path) as both:
        seq = both.draft.sequences.new()
        both.draft.decode([both.piece(TEXT, seq)], flagged=False)
        rows = []
        for seed in (1, 2):
            states = states_of(1, both.draft.n_embd, seed)
            both.draft.decode([Piece(seq, ids(270), states, ids(-1))])
            rows.append(both.draft.outputs.logits[0])
            both.draft.discard(seq)
        assert not np.allclose(rows[0], rows[1], atol=0.1)


@pytest.mark.parametrize("kind", CARRIED_KINDS)
def test_what_the_target_leaves_is_that_of_sequential_decoding(
    kind: str, tiny_model_path: Paths
) -> None:
    with carried(kind, tiny_model_path) as both:
        target, layers = both.target, both.layers
        seq = target.prefill(TEXT)
        together = target.outputs.features(range(len(TEXT)), layers)
        other = target.sequences.new()
        for i, token in enumerate(TEXT.tolist()):
            target.decode(token, seq=other)
            assert np.array_equal(target.outputs.features([0], layers)[0], together[i])
        target.decode(TREE, seq=seq)
        nodes = target.outputs.features(range(len(TREE)), layers)
        target.commit(seq, list(TREE.path(4)))
        for node in TREE.path(4):
            target.decode(int(TREE.tokens[node]), seq=other)
            assert np.array_equal(target.outputs.features([0], layers)[0], nodes[node])


@pytest.mark.parametrize("kind", ["deepseek2-mtp", "qwen35-mtp", "eagle3"])
def test_keeping_states_changes_no_bit_of_the_targets_logits(
    kind: str, tiny_model_path: Paths
) -> None:
    with carried(kind, tiny_model_path) as both, Context(both.target.model, n_ctx=256) as plain:
        for context in (both.target, plain):
            context.decode(TREE, seq=context.prefill(TEXT))
        assert np.array_equal(both.target.outputs.logits, plain.outputs.logits)


def test_states_of_the_nextn_layers_are_the_hidden_states_behind_the_norm(
    tiny_model_path: Paths,
) -> None:
    with carried("qwen35-mtp", tiny_model_path) as both:
        both.target.outputs.keep_hidden()
        seq = both.target.prefill(TEXT)
        both.target.decode(TREE, seq=seq)
        hidden = both.target.outputs.hidden(range(len(TREE)))
        rows = both.target.outputs.features(range(len(TREE)), both.layers)
        assert np.array_equal(rows, hidden)


@pytest.mark.parametrize("kind", ["deepseek2-mtp", "qwen3next-mtp", "eagle3"])
def test_states_of_unequal_texts_in_one_pass_are_in_their_order(
    kind: str, tiny_model_path: Paths
) -> None:
    """Models with a recurrent state split such a pass and reorder it."""
    with carried(kind, tiny_model_path) as both:
        batch = Batch(64)
        for seq, n in enumerate((3, 7, 5)):
            batch.add(TEXT[:n], np.arange(n), seq, logits=[i == n - 1 for i in range(n)])
        both.target.decode(batch)
        rows = both.target.outputs.features(range(15), both.layers)
        for seq in range(3):
            both.target.sequences.free(seq)
        seq = both.target.prefill(TEXT)
        alone = both.target.outputs.features(range(len(TEXT)), both.layers)
        assert np.array_equal(rows[:3], alone[:3])
        assert np.array_equal(rows[3:10], alone[:7])
        assert np.array_equal(rows[10:], alone[:5])


@pytest.mark.parametrize("kind", ["deepseek2-mtp", "eagle3"])
def test_sequences_share_a_pass_and_stay_apart(kind: str, tiny_model_path: Paths) -> None:
    with carried(kind, tiny_model_path) as both:
        draft = both.draft
        first, second = draft.sequences.new(), 1
        pieces = [both.piece(TEXT, first), both.piece(TEXT[:9], second)]
        places = draft.decode(pieces)
        together = draft.outputs.logits
        for seq, place, piece in zip((2, 3), places, pieces, strict=True):
            draft.decode([Piece(seq, piece.tokens, piece.states)])
            assert np.array_equal(draft.outputs.logits, together[place])


def test_a_pass_that_fails_leaves_nothing_behind(tiny_model_path: Paths) -> None:
    with carried("deepseek2-mtp", tiny_model_path) as both:
        draft = both.draft
        draft.decode([both.piece(TEXT, 0)], flagged=False)
        states = states_of(2, draft.n_embd)
        good = Piece(0, ids(270, 271), states, ids(-1, 0))
        with pytest.raises(TreeError, match="parent"):
            draft.decode([good, Piece(1, ids(270, 271), states, ids(-1, 5))])
        with pytest.raises(BatchError, match="has id"):
            draft.decode([good, Piece(1, ids(270, 10**6), states)])
        with pytest.raises(BatchError, match="states of shape"):
            draft.decode([good, Piece(1, ids(270), states)])
        with pytest.raises(CacheFullError):
            draft.decode([good, Piece(1, np.full(254, 270, np.int32), states_of(254, 64)[:, :64])])
        assert not draft.sequences.is_pending(0)
        assert draft.sequences.n_past(0) == len(TEXT)
        draft.decode([good])
        assert draft.outputs.n_rows == 2


def test_a_draft_outlives_the_target_that_it_reads(tiny_model_path: Paths) -> None:
    """EAGLE-3 models use their target's embeddings."""
    model = Model(tiny_model_path(EAGLE3_TARGET))
    head = Model(tiny_model_path("eagle3"))
    target = Context(model, n_ctx=64, n_threads=1)
    draft = DraftContext(head, target, n_seq_max=1, is_mtp=False)
    target.close()
    model.close()
    head.close()
    draft.decode([Piece(0, ids(270), states_of(1, draft.n_embd))])
    assert np.isfinite(draft.outputs.logits).any()
    draft.close()


def test_layers_that_a_model_does_not_offer_are_refused(tiny_model_path: Paths) -> None:
    with (
        Model(tiny_model_path("rope")) as model,
        Context(model, n_ctx=64, n_threads=1) as context,
    ):
        for layers in ([-1], [0, 99], [model.n_layer]):
            with pytest.raises(ContextError, match="does not offer"):
                context.outputs.keep_features(layers)
        seq = context.prefill(TEXT)
        with pytest.raises(ContextError, match="keep_features"):
            context.outputs.features([0], [1])
        context.outputs.keep_features([1])
        context.prefill(TEXT, seq)
        with pytest.raises(ContextError, match="the last pass had 21"):
            context.outputs.features([21], [1])


@pytest.mark.parametrize("kind", MTP_KINDS[:2])
def test_nextn_layers_are_loaded_where_they_are_asked_for(
    kind: str, tiny_model_path: Paths
) -> None:
    path = tiny_model_path(kind)
    with Model(path) as without, Model(path, load_mtp=True) as model:
        assert (without.mtp, model.mtp) == ("not loaded", "loaded")
    with Model(tiny_model_path("rope"), load_mtp=True) as other:
        assert other.mtp == "none"


@pytest.mark.parametrize("kind", ["deepseek2-mtp", "qwen3next-mtp", "nemotron_h_moe-mtp", "eagle3"])
def test_passes_in_several_parts_leave_the_states_of_all_tokens(
    kind: str, tiny_model_path: Paths
) -> None:
    n = 150  # more than one part of a draft's pass
    with carried(kind, tiny_model_path) as both:
        draft = both.draft
        tokens = (261 + np.arange(n) * 7 % 59).astype(np.int32)
        states = states_of(n, draft.n_embd)
        draft.decode([Piece(0, tokens, states)])
        logits, own = draft.outputs.logits, draft.states()
        draft.sequences.free(0)
        for begin in range(0, n, 50):
            part = slice(begin, begin + 50)
            draft.decode([Piece(1, tokens[part], states[part])])
            assert np.array_equal(draft.outputs.logits, logits[part])
            assert np.array_equal(draft.states(), own[part])
