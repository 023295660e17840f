"""Hidden states of the tokens whose logits are asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pytreellama import Batch, Context, Engine, Model, TokenTree
from pytreellama.errors import ContextError
from tiny_models import BRANCHING_KINDS, KINDS

TinyModel = Callable[..., Model]

TEXT = [1, *(261 + i * 7 % 59 for i in range(30))]
FLAGGED = [3, 4, 17, 29]


def make(model: Model, **options: Any) -> Context:
    return Context(model, n_ctx=256, n_batch=64, n_threads=1, **options)


def decode(context: Context, flags: list[int]) -> None:
    batch = Batch(len(TEXT))
    batch.add(TEXT, np.arange(len(TEXT)), logits=[i in flags for i in range(len(TEXT))])
    context.decode(batch)


@pytest.mark.parametrize("kind", KINDS)
def test_states_of_flagged_tokens_are_those_of_a_context_that_keeps_all(
    tiny_model: TinyModel, kind: str
) -> None:
    model = tiny_model(kind)
    with make(model, embeddings=True) as every, make(model) as flagged:
        flagged.outputs.keep_hidden()
        decode(every, list(range(len(TEXT))))
        decode(flagged, FLAGGED)
        assert flagged.outputs.n_rows == len(FLAGGED)
        states = flagged.outputs.hidden(range(len(FLAGGED)))
        assert states.dtype == np.float32
        expected = np.stack([every.outputs.embedding(i) for i in FLAGGED])
        np.testing.assert_allclose(states, expected, atol=2e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_keeping_states_changes_no_bit_of_the_logits(tiny_model: TinyModel, kind: str) -> None:
    model = tiny_model(kind)
    with make(model) as plain, make(model) as keeping:
        keeping.outputs.keep_hidden()
        for context in (plain, keeping):
            decode(context, FLAGGED)
        assert np.array_equal(plain.outputs.logits, keeping.outputs.logits)


def test_a_prompt_makes_no_outputs(tiny_model: TinyModel) -> None:
    with make(tiny_model("rope")) as context:
        context.outputs.keep_hidden()
        context.prefill(TEXT)
        assert context.outputs.n_rows == 0
        assert context.outputs.hidden([]).shape == (0, context.model.n_embd_out)


@pytest.mark.parametrize("kind", BRANCHING_KINDS)
def test_nodes_of_trees_have_the_states_of_their_texts(tiny_model: TinyModel, kind: str) -> None:
    tree = TokenTree.from_paths([[261, 262, 263], [261, 270], [280]])
    with make(tiny_model(kind)) as context:
        context.outputs.keep_hidden()
        seq = context.prefill(TEXT)
        context.decode(tree, seq=seq)
        states = context.outputs.hidden(range(len(tree)))
        context.discard(seq)
        for leaf in range(len(tree)):
            for node in tree.path(leaf):
                context.decode(int(tree.tokens[node]), seq=seq)
            np.testing.assert_allclose(context.outputs.hidden([0])[0], states[leaf], atol=5e-3)
            context.memory.rm(seq, len(TEXT))


def test_states_can_be_asked_for_in_any_order(tiny_model: TinyModel) -> None:
    with make(tiny_model("rope")) as context:
        context.outputs.keep_hidden()
        decode(context, FLAGGED)
        states = context.outputs.hidden(range(4))
        assert np.array_equal(context.outputs.hidden([2, 0, 2]), states[[2, 0, 2]])


def test_without_keep_hidden_there_are_no_states(tiny_model: TinyModel) -> None:
    with make(tiny_model("rope")) as context:
        decode(context, FLAGGED)
        with pytest.raises(ContextError, match="keep_hidden"):
            context.outputs.hidden([0])


@pytest.mark.parametrize("rows", [[4], [-1], [0, 9]])
def test_rows_that_the_pass_did_not_leave_are_refused(
    tiny_model: TinyModel, rows: list[int]
) -> None:
    with make(tiny_model("rope")) as context:
        context.outputs.keep_hidden()
        decode(context, FLAGGED)
        with pytest.raises(ContextError, match="the last pass left 4"):
            context.outputs.hidden(rows)


def test_a_context_of_embeddings_has_them_all_anyway(tiny_model: TinyModel) -> None:
    with (
        make(tiny_model("rope"), embeddings=True) as context,
        pytest.raises(ContextError, match="without embeddings=True"),
    ):
        context.outputs.keep_hidden()


@pytest.mark.parametrize("kind", ["qwen4exp", "deepseek4"])
def test_states_that_llama_cpp_cannot_return_are_refused(
    tiny_model: Callable[..., Model], kind: str
) -> None:
    with pytest.raises(ContextError, match=f"cannot return the hidden states of {kind}"):
        Context(tiny_model(kind), n_ctx=256, embeddings=True)
    with Context(tiny_model(kind), n_ctx=256) as context:
        with pytest.raises(ContextError, match="cannot return the hidden states"):
            context.outputs.keep_hidden()
        context.decode(5, seq=0)
    with (
        Engine(tiny_model(kind), n_ctx=256) as engine,
        pytest.raises(ContextError, match="cannot return the hidden states"),
    ):
        engine.embed([[5, 6, 7]])
