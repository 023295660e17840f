"""Own texts: what a model writes to learn from is the same again, and has its states beside it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import islice

import numpy as np
import pytest

from pytreellama import Context, Model
from pytreellama.errors import MedusaError
from pytreellama.training.own_texts import OwnTexts, TextOptions
from pytreellama.training.recorder import answers
from pytreellama.training.text import Text

TinyModel = Callable[..., Model]

OPTIONS = TextOptions(n_parallel=4, n_round=6, n_turn=12, n_answer=16)


def rounds(model: Model, options: TextOptions, n: int, first: int = 0) -> list[list[Text]]:
    own = OwnTexts(model, options)
    try:
        return list(islice(own.rounds(first), n))
    finally:
        own.close()


def tokens_of(texts: list[Text]) -> list[list[int]]:
    return [text.tokens.tolist() for text in texts]


@pytest.mark.parametrize("is_chat", [True, False])
def test_texts_are_the_same_again(tiny_model: TinyModel, is_chat: bool) -> None:
    model = tiny_model("rope" if is_chat else "learned", n_ctx_train=1024)
    first, second = rounds(model, OPTIONS, 2)
    assert first
    assert second
    assert tokens_of(rounds(model, OPTIONS, 1)[0]) == tokens_of(first)
    assert tokens_of(rounds(model, OPTIONS, 1, first=1)[0]) == tokens_of(second)


def test_another_seed_gives_other_texts(tiny_model: TinyModel) -> None:
    model = tiny_model("rope")
    other = dataclasses.replace(OPTIONS, seed=2)
    assert tokens_of(rounds(model, other, 1)[0]) != tokens_of(rounds(model, OPTIONS, 1)[0])


def test_given_prompts_are_answered(tiny_model: TinyModel) -> None:
    model = tiny_model("rope")
    options = dataclasses.replace(OPTIONS, n_round=3, share_sampled=0.0, prompts=("ab", "cd"))
    first, second = rounds(model, options, 2)
    assert len(first) == len(second) == 2  # of three prompts two are one and the same
    assert sorted(tokens_of(first)) == sorted(tokens_of(second))


def test_states_are_those_that_tokens_were_drawn_from(tiny_model: TinyModel) -> None:
    model = tiny_model("rope")
    prompts = [[1, 270, 271, 272], [1, 280]]
    texts = answers(model, prompts, 10)
    with Context(model, n_ctx=256, n_threads=1) as context:
        context.outputs.keep_hidden()
        for prompt, text in zip(prompts, texts, strict=True):
            assert text.states.shape == (len(text.tokens), model.n_embd_out)
            seq = context.prefill(prompt, logits=True)
            for state, token in zip(text.states, text.tokens.tolist(), strict=True):
                np.testing.assert_allclose(context.outputs.hidden([0])[0], state, atol=1e-2)
                assert int(context.outputs.argmax()[0]) == token
                context.decode(token, seq=seq)
            context.sequences.free(seq)


def test_models_that_no_one_drafts_for_are_refused(tiny_model: TinyModel) -> None:
    with pytest.raises(MedusaError, match="cannot be taken back"):
        OwnTexts(tiny_model("minimax-01"), OPTIONS)
