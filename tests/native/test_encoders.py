"""Encoders: embeddings and ranks of texts that share passes, and what such a model refuses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from plain_bert import PlainBert
from pytreellama import AsyncEngine, Context, ContextParams, Engine, Model
from pytreellama.context.encoder_context import EncoderContext
from pytreellama.engine.jobs.pooling import POOLINGS, Pooling
from pytreellama.errors import BatchError, ContextError, RequestError
from tiny_vocabularies import write_model

TinyModel = Callable[..., Model]

KINDS = (
    *("bert", "nomic-bert", "jina-bert-v2", "eurobert", "modern-bert", "neo-bert"),
    *("gemma-embedding", "llama-embed"),
)
TEXTS = ["the cat", "a", "another text, which is longer than the others are", "on the mat", "he is"]


@pytest.fixture(scope="module")
def bert(tiny_model: TinyModel) -> Model:
    return tiny_model("bert")


def tokens_of(rng: np.random.Generator, n_tokens: int) -> NDArray[np.int32]:
    return rng.integers(3, 300, n_tokens, dtype=np.int32)


def test_hidden_states_are_those_of_bert(bert: Model, tiny_model_path: Callable[..., Path]) -> None:
    plain = PlainBert(tiny_model_path("bert"), n_head=2)
    rng = np.random.default_rng(1)
    texts = [tokens_of(rng, n) for n in (1, 2, 17, 70, 300)]
    with EncoderContext(bert, ContextParams(n_ctx=512)) as context:
        found = context.encode(texts)
    for text, states in zip(texts, found, strict=True):
        # keys and values are rounded to 11 bits
        np.testing.assert_allclose(states, plain.states(text.tolist()), atol=0.02)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_an_embedding_is_the_pooled_states_at_length_one(
    pooling: Pooling, bert: Model, tiny_model_path: Callable[..., Path]
) -> None:
    ids = bert.vocab.encode("the cat on the mat", add_special=True)
    states = PlainBert(tiny_model_path("bert"), n_head=2).states(ids)
    expected = {"mean": states.mean(axis=0), "cls": states[0], "last": states[-1]}[pooling]
    with Engine(bert) as engine:
        (found,) = engine.embed(["the cat on the mat"], pooling)
        assert np.linalg.norm(found) == pytest.approx(1.0, abs=1e-6)
        assert float(found @ expected) / np.linalg.norm(expected) > 0.9999
        if pooling == "cls":  # which its file asks for
            assert (engine.embed(["the cat on the mat"])[0] == found).all()


def test_a_rank_is_what_the_classifier_says_of_the_pair(
    bert: Model, tiny_model_path: Callable[..., Path]
) -> None:
    plain = PlainBert(tiny_model_path("bert"), n_head=2)
    expected = [plain.score(bert.vocab.encode_pair("is it", text).tolist()) for text in TEXTS]
    with Engine(bert) as engine:
        together = engine.rank("is it", TEXTS)
        alone = [engine.rank("is it", [text])[0] for text in TEXTS]
    np.testing.assert_allclose(together, expected, atol=0.02)
    assert together.tolist() == alone
    assert np.std(expected) > 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_a_texts_states_do_not_depend_on_the_texts_beside_it(
    kind: str, tiny_model: TinyModel
) -> None:
    rng = np.random.default_rng(2)
    texts = [tokens_of(rng, n) for n in (5, 64, 1, 130, 65, 3, 200, 31)]
    with EncoderContext(tiny_model(kind), ContextParams(n_ctx=512)) as context:
        together = context.encode(texts)
        backwards = context.encode(texts[::-1])[::-1]
        alone = [context.encode([text])[0] for text in texts]
        for states, other, single in zip(together, backwards, alone, strict=True):
            assert np.isfinite(single).all()
            assert states.tobytes() == single.tobytes() == other.tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_every_state_depends_on_every_token(kind: str, tiny_model: TinyModel) -> None:
    text = tokens_of(np.random.default_rng(3), 8)  # all within a sliding window
    other = text.copy()
    other[5] += 1
    with EncoderContext(tiny_model(kind), ContextParams(n_ctx=64)) as context:
        before, after = context.encode([text, other])
    assert (np.abs(before - after).max(axis=1) > 1e-4).all()


@settings(max_examples=20)
@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=12), seed=st.integers(0, 99))
def test_passes_cut_anywhere_leave_the_same_bits(
    lengths: list[int], seed: int, bert: Model
) -> None:
    rng = np.random.default_rng(seed)
    texts = [tokens_of(rng, n) for n in lengths]
    with (
        EncoderContext(bert, ContextParams(n_ctx=64)) as small,
        EncoderContext(bert, ContextParams(n_ctx=512)) as large,
    ):
        cut = [states.tobytes() for states in small.encode(texts)]
        assert cut == [states.tobytes() for states in large.encode(texts)]


def test_bits_do_not_depend_on_threads(bert: Model) -> None:
    text = tokens_of(np.random.default_rng(4), 200)
    found = set()
    for n_threads in (1, 2, 3):
        params = ContextParams(n_ctx=256, n_threads=n_threads)
        with EncoderContext(bert, params) as context:
            found.add(context.encode([text])[0].tobytes())
    assert len(found) == 1


def test_many_texts_share_a_pass(bert: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    with Engine(bert) as engine:
        engine.embed(TEXTS[:1])
        sizes: list[int] = []
        encode = EncoderContext.encode

        def counted(self: EncoderContext, texts: Any) -> Any:
            sizes.append(len(texts))
            return encode(self, texts)

        monkeypatch.setattr(EncoderContext, "encode", counted)
        vectors = engine.embed(TEXTS * 60)
        assert sum(sizes) == 300
        assert len(sizes) < 100
        assert (vectors[: len(TEXTS)] == vectors[-len(TEXTS) :]).all()


def test_an_async_engine_embeds_and_ranks_the_same(bert: Model) -> None:
    async def run() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        async with AsyncEngine(bert) as engine:
            return await engine.embed(TEXTS), await engine.rank("is it", TEXTS)

    embedded, ranks = asyncio.run(run())
    with Engine(bert) as engine:
        assert (engine.embed(TEXTS) == embedded).all()
        assert (engine.rank("is it", TEXTS) == ranks).all()


def test_an_encoder_generates_and_scores_nothing(bert: Model) -> None:
    with Engine(bert) as engine:
        for ask in (
            lambda: engine.generate("the cat"),
            lambda: engine.submit("the cat"),
            lambda: engine.score("the cat", [" on"]),
        ):
            with pytest.raises(RequestError, match="is an encoder, which embeds texts and gen"):
                ask()
        with pytest.raises(ContextError, match="is an encoder, whose texts are in no KV cache"):
            _ = engine.context
        with pytest.raises(ContextError, match="no prefix cache"):
            engine.clear_prefix_cache()
        assert "an encoder" in repr(engine)
    with pytest.raises(ContextError, match="generates no text: it is an encoder"):
        Context(bert)


def test_a_model_without_a_classifier_ranks_nothing(tiny_model: TinyModel) -> None:
    for kind in ("nomic-bert", "rope"):
        with (
            Engine(tiny_model(kind)) as engine,
            pytest.raises(RequestError, match="no classifier over pairs of texts"),
        ):
            engine.rank("is it", ["a"])
    with (
        EncoderContext(tiny_model("nomic-bert"), ContextParams(n_ctx=64)) as context,
        pytest.raises(ContextError, match="has no classifier"),
    ):
        context.class_scores([np.array([3], np.int32)])


def test_a_decoder_is_no_encoder(tiny_model: TinyModel) -> None:
    assert not tiny_model("rope").is_encoder
    with pytest.raises(ContextError, match="is not a loaded encoder"):
        EncoderContext(tiny_model("rope"), ContextParams(n_ctx=64))


def test_texts_that_no_pass_can_hold_are_refused(bert: Model) -> None:
    rng = np.random.default_rng(5)
    with EncoderContext(bert, ContextParams(n_ctx=1024)) as context:
        assert context.n_text_max == 512  # positions that the model has learned
        with pytest.raises(BatchError, match="an encoder reads 1 to 512"):
            context.encode([tokens_of(rng, 513)])
        with pytest.raises(BatchError, match="an encoder reads 1 to 512"):
            context.encode([tokens_of(rng, 0)])
        with pytest.raises(BatchError, match="ids are from 0 to 319"):
            context.encode([np.array([320], np.int32)])
        assert len(context.encode([tokens_of(rng, 512)])[0]) == 512
    with (
        Engine(bert, n_ctx=64) as engine,
        pytest.raises(RequestError, match="has 65 tokens, and this encoder reads at most 64"),
    ):
        engine.embed([tokens_of(rng, 65).tolist()])


def test_a_closed_encoder_refuses_every_use(bert: Model) -> None:
    context = EncoderContext(bert, ContextParams(n_ctx=64))
    context.close()
    context.close()
    assert context.closed
    with pytest.raises(ContextError, match="closed"):
        context.encode([np.array([3], np.int32)])


def test_a_pass_over_a_large_vocabulary_takes_no_room_for_logits(tiny_model: TinyModel) -> None:
    model = tiny_model("nomic-bert", n_vocab=60_000, n_ctx_train=4096)
    with EncoderContext(model, ContextParams(n_ctx=2048, n_threads=1)) as context:
        before = psutil.Process().memory_info().rss
        context.encode([tokens_of(np.random.default_rng(6), 1900)])
        grown = psutil.Process().memory_info().rss - before
    assert grown < 200 << 20  # logits would be 456 MB


def test_a_pair_is_joined_as_a_word_piece_vocabulary_does(tmp_path: Path) -> None:
    specials = ("[CLS]", "[SEP]")

    def change(g: Any) -> None:
        g.add_bos_token_id(1)
        g.add_sep_token_id(2)

    path = write_model(tmp_path / "wpm.gguf", "bert", specials=specials, change=change)
    with Model(path, vocab_only=True) as model:
        first, second = (model.vocab.encode(text, add_special=False) for text in ("a", "b a"))
        (cls, sep) = model.vocab.encode("", add_special=True)
        expected = [cls, *first, sep, *second, sep]
        assert model.vocab.encode_pair("a", "b a").tolist() == expected
