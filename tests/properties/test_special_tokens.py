"""Special tokens in text: found by precedence, as a search for one after the other finds them."""

from __future__ import annotations

import pytest
from gguf import GGUFWriter
from hypothesis import given, settings
from hypothesis import strategies as st

from pytreellama import Model
from pytreellama.model.vocab import Vocab
from tiny_vocabularies import write_bpe

KEPT = ("<s>", "<unk>", "<|endoftext|>")  # swallow no white space, unlike the others of phi-3
# equally long ones have no order, so none of these overlap
NAMES = (
    *("</s>", "<x>", "<x><x>", "<x", "ab", "abc", "bcda", "cd", "aaaaa", "\n\n"),
    "> \n \n <",
)

texts = st.lists(
    st.sampled_from([*KEPT, *NAMES, *"abcd<>x", " ", "  ", "\n", "\t", "é"]), max_size=25
).map("".join)


@pytest.fixture(scope="module", params=["tiny", "tiny phi-3"])
def vocab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Vocab:
    def named(writer: GGUFWriter) -> None:
        writer.add_name(request.param)

    path = tmp_path_factory.mktemp("specials") / "model.gguf"
    write_bpe(path, specials=[*KEPT, *NAMES], change=named)
    return Model(path, vocab_only=True).vocab


def one_after_the_other(vocab: Vocab, text: str, *, swallows: bool) -> list[int]:
    """Each token, the longest first, takes its leftmost places in what others left."""
    parts: list[str | int] = [text]
    for token in sorted(range(len(KEPT) + len(NAMES)), key=lambda i: -len(vocab.pieces[i])):
        name = vocab.pieces[token].decode()
        strips = swallows and name not in KEPT
        parts = [
            piece
            for part in parts
            for piece in ([part] if isinstance(part, int) else _cut(part, name, token, strips))
        ]
    ids: list[int] = []
    for part in parts:
        ids += [part] if isinstance(part, int) else vocab.encode(part, add_special=False)
    return ids


def _cut(text: str, name: str, token: int, strips: bool) -> list[str | int]:
    found: list[str | int] = []
    while name in text:
        before, _, text = text.partition(name)
        text = text.lstrip(" \t\n") if strips else text
        found += [before, token] if before else [token]
    return [*found, text] if text else found


@settings(max_examples=300)
@given(text=texts)
def test_any_text_has_its_special_tokens(vocab: Vocab, text: str) -> None:
    swallows = vocab.encode("</s>  a", add_special=False, parse_special=True) == [
        *vocab.encode("</s>", add_special=False, parse_special=True),
        *vocab.encode("a", add_special=False),
    ]
    found = vocab.encode(text, add_special=False, parse_special=True)
    assert found == one_after_the_other(vocab, text, swallows=swallows)


@given(text=texts)
def test_names_of_control_tokens_are_text_unless_they_are_asked_for(
    vocab: Vocab, text: str
) -> None:
    assert vocab.decode_bytes(vocab.encode(text, add_special=False)) == text.encode()
