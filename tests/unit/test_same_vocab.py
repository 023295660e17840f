"""Which two vocabularies count as the same, and what is said where they differ."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

import pytest

from pytreellama.draft.same_vocab import check_same_vocab
from pytreellama.errors import DraftError

PIECES = [b"<s>", b"</s>", b"a", b"b", b"\xff"]


@dataclass(frozen=True)
class FakeVocab:
    """What is asked of a ``Vocab``."""

    pieces: list[bytes] = field(default_factory=lambda: list(PIECES))
    bos: int | None = 0
    eos: int | None = 1
    eog_tokens: frozenset[int] = frozenset({1})
    has_text: bool = True

    @property
    def n_tokens(self) -> int:
        return len(self.pieces)


VOCAB = FakeVocab()


def test_equal_vocabularies_pass() -> None:
    check_same_vocab(VOCAB, FakeVocab())  # type: ignore[arg-type]


@pytest.mark.parametrize("swapped", [False, True])
def test_either_may_be_padded(swapped: bool) -> None:
    padded = FakeVocab(pieces=[*PIECES, b"<pad0>", b"<pad1>"], eog_tokens=frozenset({1, 6}))
    target, draft = (padded, VOCAB) if swapped else (VOCAB, padded)
    check_same_vocab(target, draft)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            replace(VOCAB, pieces=[*PIECES[:2], b"x", b"y", PIECES[4]]),
            r"token 2 is b'a' to the target model and b'x' to the draft model \(of 5 and 5 tokens",
        ),
        (
            replace(VOCAB, pieces=[*PIECES[:4], b"c", b"d"]),
            r"token 4 is b'\\xff' .* and b'c' .* \(of 5 and 6 tokens",
        ),
        (replace(VOCAB, bos=None), "BOS token is 0 in the target .* there is no BOS token"),
        (replace(VOCAB, eos=3), "EOS token is 1 .* the EOS token is 3"),
        (
            replace(VOCAB, eog_tokens=frozenset({1, 3})),
            "token 3, b'b', ends a generation to the draft model and not to the target",
        ),
        (
            replace(VOCAB, eog_tokens=frozenset()),
            "token 1, b'</s>', ends a generation to the target model and not to the draft",
        ),
        (replace(VOCAB, has_text=False), "the draft model has none"),
    ],
)
def test_the_first_difference_is_named(other: FakeVocab, message: str) -> None:
    with pytest.raises(DraftError, match=message):
        check_same_vocab(VOCAB, other)  # type: ignore[arg-type]


def test_without_tokenizers_sizes_must_be_equal() -> None:
    bare, longer = (FakeVocab(pieces=[b""] * n, has_text=False) for n in (5, 6))
    check_same_vocab(bare, bare)  # type: ignore[arg-type]
    with pytest.raises(DraftError, match="has 5 tokens, the draft model 6"):
        check_same_vocab(bare, longer)  # type: ignore[arg-type]
    with pytest.raises(DraftError, match="the target model has none"):
        check_same_vocab(bare, VOCAB)  # type: ignore[arg-type]


def test_a_quarter_of_a_million_tokens_take_well_under_a_second() -> None:
    one, other = (FakeVocab(pieces=[b"%d" % i for i in range(2**18)]) for _ in range(2))
    started_s = time.perf_counter()
    check_same_vocab(one, other)  # type: ignore[arg-type]
    assert time.perf_counter() - started_s < 0.5
    with pytest.raises(DraftError, match="token 262143"):
        check_same_vocab(one, replace(other, pieces=[*other.pieces[:-1], b""]))  # type: ignore[arg-type]
