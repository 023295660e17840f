"""Chains over recurrent states, rolled back: the text after them has the bits of plain decoding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from exactness import logits_of_plain_steps, needs_exact
from pytreellama import Context, Model, TokenTree

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
    "kimi-k3",
    "bailingmoe3",
    "glm5-next",
    "lfm2",
    "lfm2-swa",
    "lfm2moe",
)
"""Kinds whose passes can keep the state behind each of their last tokens."""
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
