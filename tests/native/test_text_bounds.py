"""Bounds on a text before it is tokenised: what cannot fit is refused, what fits never is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytreellama import Engine, Model
from pytreellama.errors import RequestError, VocabError
from pytreellama.model.vocab import Vocab
from tiny_vocabularies import write_bpe, write_model

TinyModel = Callable[..., Model]
KINDS = ("smollm", "llama", "gpt-2", "gemma4", "rwkv", "bert", "t5", "plamo2")
BOUNDED = KINDS[:5]

texts = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=200),
    st.lists(
        st.sampled_from(["aaaa", "a", " ", "  ", "▁", "▁▁", "\U00040000", "</s>", "<|im_end|>"]),
        max_size=80,
    ).map("".join),
)


@pytest.fixture(scope="module", params=KINDS)
def vocab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Vocab:
    path = tmp_path_factory.mktemp("bounds") / "model.gguf"
    if request.param == "smollm":
        found: Model = request.getfixturevalue("default_model")
        return found.vocab
    write = write_bpe if request.param in ("gpt-2", "gemma4") else write_model
    write(path, request.param)
    return Model(path, vocab_only=True).vocab


@given(text=texts)
def test_no_text_has_fewer_tokens_than_the_bound(vocab: Vocab, text: str) -> None:
    try:
        ids = vocab.encode(text, add_special=False, parse_special=True)
    except VocabError:
        return
    assert vocab.least_tokens(text) <= len(ids)
    vocab.require_fits(text, len(ids))


def test_a_text_that_cannot_fit_is_refused(default_model: Model) -> None:
    text = "the cat and the dog " * 10_000
    with pytest.raises(RequestError, match=r"200000 bytes .* at least \d+ tokens .* holds 16;"):
        default_model.vocab.require_fits(text, 16)
    default_model.vocab.require_fits(text, 200_000)


def test_white_space_and_unknown_bytes_are_not_counted(default_model: Model) -> None:
    assert default_model.vocab.least_tokens(" \n" * 100_000) == 0
    assert default_model.vocab.least_tokens("a\U00040000" * 9) <= 36


def test_tokenizers_that_shorten_text_have_no_bound(tmp_path: Path) -> None:
    for model in ("bert", "t5"):
        path = write_model(tmp_path / f"{model}.gguf", model)
        with Model(path, vocab_only=True) as opened:
            assert opened.vocab.least_tokens("ü" * 1000) == 0


@pytest.fixture
def engine(tiny_model: TinyModel) -> Iterator[Engine]:
    with Engine(tiny_model("rope"), "none", n_ctx=64) as engine:
        yield engine


def test_an_engine_refuses_such_texts_unread(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.require_fits("a" * 64)
    monkeypatch.setattr(Vocab, "encode", lambda *_, **__: pytest.fail("it was read"))
    long = "word " * 100_000
    asked: list[Callable[[], object]] = [
        lambda: engine.generate(long),
        lambda: engine.generate([{"role": "user", "content": long}]),
        lambda: engine.score([1, 2], [long]),
        lambda: engine.embed([long]),
    ]
    for ask in asked:
        with pytest.raises(RequestError, match="larger n_ctx"):
            ask()


@pytest.mark.parametrize("text", ["\ud800" * 100, "a" * 1000 + "\udfff"])
def test_a_long_text_that_is_not_unicode_is_refused_as_such(engine: Engine, text: str) -> None:
    with pytest.raises(VocabError, match="not valid UTF-8"):
        engine.generate(text)
