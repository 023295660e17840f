"""Vocab: text comes back as it went in, and what is not text is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytreellama import Model
from pytreellama.chat.template import encode_chat
from pytreellama.errors import VocabError
from pytreellama.model.vocab import Detokenizer, Vocab
from tiny_models import BOS, EOS, IM_END, IM_START

TinyModel = Callable[..., Model]

# all of Unicode but the surrogates, which no UTF-8 can hold
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)

WRITING = (
    "",
    " ",
    "   three spaces   ",
    "\n\t\r\n",
    "a\0b\0",
    "naïve façade",
    "e\u0301 is not é",  # a combining accent
    "漢字かな交じり文",
    "👩‍👩‍👧 🇫🇷 🤦🏽‍♂️",
    "مرحبا नमस्ते",
    "\u200b\ufeff\u2028",
    "\U0010ffff",
    "<s> </s> <|im_end|> [INST]",
)


@pytest.fixture(scope="module")
def spm(tiny_model: TinyModel) -> Vocab:
    return tiny_model("rope").vocab


@pytest.fixture(scope="module")
def bpe(default_model: Model) -> Vocab:
    return default_model.vocab


@pytest.fixture(params=["spm", "bpe"])
def vocab(request: pytest.FixtureRequest) -> Vocab:
    found: Vocab = request.getfixturevalue(request.param)
    return found


@pytest.mark.parametrize("text", WRITING)
def test_text_comes_back_as_it_went_in(vocab: Vocab, text: str) -> None:
    tokens = vocab.encode(text)
    assert vocab.decode(tokens) == text
    assert vocab.encode(text.encode()) == tokens
    assert all(0 <= token < vocab.n_tokens for token in tokens)


@given(text=texts)
def test_any_text_comes_back_from_sentencepiece(spm: Vocab, text: str) -> None:
    assert spm.decode(spm.encode(text)) == text


@given(text=texts)
def test_text_of_known_bytes_comes_back_from_byte_pairs(bpe: Vocab, text: str) -> None:
    known = {piece[0] for piece in bpe.pieces if len(piece) == 1}
    possible = "".join(char for char in text if known.issuperset(char.encode()))
    assert bpe.decode(bpe.encode(possible)) == possible


def test_a_character_of_unknown_bytes_becomes_another_and_ends_nothing(bpe: Vocab) -> None:
    assert b"\xf1" not in bpe.pieces
    assert "\U00040000" not in bpe.decode(bpe.encode("a\U00040000b"))


def streamed(vocab: Vocab, tokens: list[int]) -> list[str]:
    """What a detokenizer gives token by token, and at the end."""
    detokenizer = Detokenizer(vocab)
    return [*(detokenizer.add([token]) for token in tokens), detokenizer.finish()]


@given(text=texts)
def test_a_detokenizer_never_splits_a_character(spm: Vocab, text: str) -> None:
    parts = streamed(spm, spm.encode(text, add_special=False))
    assert "".join(parts) == spm.decode_bytes(spm.encode(text, add_special=False)).decode()
    assert "\ufffd" in text or all("\ufffd" not in part for part in parts)


@pytest.mark.parametrize("text", [text for text in WRITING if text])
def test_a_detokenizer_gives_each_character_when_it_is_complete(vocab: Vocab, text: str) -> None:
    tokens = vocab.encode(text, add_special=False)
    parts = streamed(vocab, tokens)
    n_bytes = 0
    for token, part in zip(tokens, parts, strict=False):
        n_bytes += len(vocab.piece(token))
        n_bytes -= len(part.encode())
        assert 0 <= n_bytes < 4  # only what is unfinished waits
    assert "".join(parts).lstrip(" ") == text.lstrip(" ")
    assert parts[-1] == ""


@settings(max_examples=200)
@given(tokens=st.lists(st.integers(0, 319), max_size=30))
def test_any_tokens_are_the_same_text_at_once_and_one_by_one(spm: Vocab, tokens: list[int]) -> None:
    assert "".join(streamed(spm, tokens)) == spm.decode_bytes(tokens).decode("utf-8", "replace")


def test_an_unfinished_character_becomes_a_mark_at_the_end(spm: Vocab) -> None:
    first_byte_of_an_emoji = 3 + 0xF0
    detokenizer = Detokenizer(spm)
    assert detokenizer.add([first_byte_of_an_emoji]) == ""
    assert detokenizer.finish() == "\ufffd"
    assert detokenizer.add(spm.encode("a", add_special=False)).strip() == "a"


def test_special_tokens_are_read_from_text_only_on_request(spm: Vocab) -> None:
    text = "<|im_start|>hi<|im_end|>"
    as_text = spm.encode(text, add_special=False)
    as_tokens = spm.encode(text, add_special=False, parse_special=True)
    assert not {IM_START, IM_END} & set(as_text)
    assert as_tokens[0] == IM_START
    assert as_tokens[-1] == IM_END
    assert spm.decode(as_text) == text
    assert spm.decode(as_tokens).strip() == "hi"
    assert spm.decode(as_tokens, special=True).replace(" ", "") == text


@pytest.fixture(scope="module")
def ending(tiny_model: TinyModel) -> Vocab:
    """Of a file that says ``add_eos_token = true``."""
    return tiny_model("rope", add_eos=True).vocab


def test_each_end_of_a_text_has_a_switch(ending: Vocab, spm: Vocab) -> None:
    bare = ending.encode("the cat", add_special=False)
    assert ending.adds_bos and ending.adds_eos and not spm.adds_eos
    assert ending.encode("the cat") == [BOS, *bare, EOS]
    assert ending.encode("the cat", add_eos=False) == [BOS, *bare]
    assert ending.encode("the cat", add_bos=False) == [*bare, EOS]
    assert ending.encode("the cat", add_special=False, add_eos=True) == [*bare, EOS]
    assert ending.encode("", add_special=False) == []
    assert spm.encode("the cat", add_eos=True) == [BOS, *bare]  # its file says that it has none


def test_a_rendered_chat_never_ends_with_eos(ending: Vocab) -> None:
    prompt = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    tokens = encode_chat(ending, prompt)
    assert tokens[:2] == [BOS, IM_START] and EOS not in tokens
    assert encode_chat(ending, "<s>" + prompt) == tokens


def test_special_tokens_are_known(spm: Vocab) -> None:
    assert (spm.bos, spm.eos, spm.eot) == (BOS, EOS, IM_END)
    assert spm.adds_bos
    assert spm.encode("a")[0] == BOS
    assert BOS not in spm.encode("a", add_special=False)
    assert spm.eog_tokens == {EOS, IM_END}
    assert [spm.is_control(token) for token in (BOS, IM_START, 3, 300)] == [
        True,
        True,
        False,
        False,
    ]
    assert spm.pieces[IM_END] == b"<|im_end|>"
    assert spm.piece(IM_END) == b""
    assert spm.piece(IM_END, special=True) == b"<|im_end|>"


def test_a_megabyte_is_tokenized(vocab: Vocab) -> None:
    text = "the cat and the dog 漢字 " * 40_000
    assert len(text.encode()) > 1_000_000
    assert vocab.decode(vocab.encode(text)) == text


def test_no_text_is_no_tokens(vocab: Vocab) -> None:
    assert vocab.encode("", add_special=False) == []
    assert vocab.decode([]) == ""
    assert vocab.decode_bytes([]) == b""


@pytest.mark.parametrize(
    "text",
    ["\ud800", "a\udfffb", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"a\xe2\x82"],
)
def test_what_is_not_unicode_is_refused(spm: Vocab, text: str | bytes) -> None:
    with pytest.raises(VocabError, match=r"not valid UTF-8 .*; decode it first"):
        spm.encode(text)


@pytest.mark.parametrize("token", [-1, 320, 2**31 - 1, 2**31, 2**40, -(2**63)])
def test_ids_out_of_the_vocabulary_are_refused(spm: Vocab, token: int) -> None:
    message = f"token id {token} is not in this vocabulary; ids are from 0 to 319"
    for call in (
        lambda: spm.decode([1, token]),
        lambda: spm.decode_bytes([token]),
        lambda: spm.piece(token),
        lambda: spm.is_control(token),
        lambda: Detokenizer(spm).add([token]),
    ):
        with pytest.raises(VocabError, match=message):
            call()


@pytest.mark.parametrize("token", [1.5, "a", None, 10**30, float("nan")])
def test_what_is_no_id_is_refused(spm: Vocab, token: object) -> None:
    with pytest.raises(VocabError, match="must be integers"):
        spm.decode([token])  # type: ignore[list-item]
