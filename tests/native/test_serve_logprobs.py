"""Log-probabilities in the form of /v1/completions: each token's place and name in the text."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("fastapi", reason="needs the extra: pip install 'pytreellama[serve]'")

from pytreellama import Model
from pytreellama.engine import TokenLogp
from pytreellama.model.vocab import Vocab
from pytreellama.serve.answers import TextLogprobs
from pytreellama.serve.logprobs import TextLogprobWriter

FOX = "\N{FOX FACE}"


def logps_of(vocab: Vocab, text: str) -> list[TokenLogp]:
    return [TokenLogp(token, -1.0) for token in vocab.encode(text, add_special=False)]


def written(vocab: Vocab, text: str, logps: Sequence[TokenLogp]) -> TextLogprobs:
    return TextLogprobWriter(vocab).take(text, logps, is_last=True)


@pytest.mark.parametrize(
    ("text", "offsets"),
    [
        (f"{FOX}a b", [0, 0, 0, 1, 2]),
        ("plain text", [0, 5]),
        (f"{FOX}{FOX}", [0, 0, 0, 1, 1, 1]),
        ("", []),
    ],
)
def test_an_offset_is_the_character_in_which_a_token_begins(
    default_model: Model, text: str, offsets: list[int]
) -> None:
    vocab = default_model.vocab
    told = written(vocab, text, logps_of(vocab, text))
    assert told.text_offset == offsets


def test_a_part_of_a_character_is_named_by_its_bytes(default_model: Model) -> None:
    vocab = default_model.vocab
    told = written(vocab, FOX, logps_of(vocab, FOX))
    assert all(name.startswith("bytes:\\x") for name in told.tokens)
    digits = "".join(name.removeprefix("bytes:").replace("\\x", "") for name in told.tokens)
    assert bytes.fromhex(digits).decode() == FOX


def test_tokens_that_look_alike_have_entries_of_their_own(default_model: Model) -> None:
    """Halves of characters are all U+FFFD; so asked for are told, and the one that came."""
    vocab = default_model.vocab
    halves = [token for token, piece in enumerate(vocab.pieces) if piece[:1] in (b"\xf0", b"\xa6")]
    assert len(halves) >= 2
    came = vocab.encode("a", add_special=False)[0]
    one = TokenLogp(came, -9.0, tuple((token, -1.0 - i) for i, token in enumerate(halves)))
    (top,) = written(vocab, "a", [one]).top_logprobs or [{}]
    assert top is not None
    assert len(top) == len(halves) + 1
    assert list(top.values())[:2] == [-1.0, -2.0]
    assert top["a"] == -9.0


@given(text=st.text(st.sampled_from(f"ab {FOX}é漢\n"), max_size=20), data=st.data())
def test_a_text_in_pieces_has_the_offsets_of_the_whole(
    default_model: Model, text: str, data: st.DataObject
) -> None:
    """Wherever tokens come before their text, as they do where a stop string may begin."""
    vocab = default_model.vocab
    logps = logps_of(vocab, text)
    whole = written(vocab, text, logps)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(logps)), max_size=5)))
    writer, n_sent, pieces = TextLogprobWriter(vocab), 0, []
    for begin, end in pairwise([0, *cuts, len(logps)]):
        n_known = len(vocab.decode_bytes([o.token for o in logps[:end]]).decode(errors="ignore"))
        is_last = end == len(logps) and begin == (cuts[-1] if cuts else 0)
        n_new = len(text) if is_last else data.draw(st.integers(n_sent, max(n_known, n_sent)))
        pieces.append(writer.take(text[n_sent:n_new], logps[begin:end], is_last=is_last))
        n_sent = n_new
    for piece in pieces[:-1]:
        assert all(offset < len(text) for offset in piece.text_offset)
    assert [offset for piece in pieces for offset in piece.text_offset] == whole.text_offset
    assert [name for piece in pieces for name in piece.tokens] == whole.tokens


def test_tokens_behind_a_stop_string_are_at_the_end_of_the_text(default_model: Model) -> None:
    vocab = default_model.vocab
    logps = logps_of(vocab, "one two three four")
    writer = TextLogprobWriter(vocab)
    first = writer.take("one", logps[:2], is_last=False)
    last = writer.take("", logps[2:], is_last=True)
    assert first.text_offset == [0]
    assert last.text_offset == [3, 3, 3]
