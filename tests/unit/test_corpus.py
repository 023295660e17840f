"""A corpus beside the suffix drafter on texts that can be told by eye; its files; calibration."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest

from claims import Claims, claims_along, n_calibrated, token_paths
from pytreellama.draft import (
    Corpus,
    Suffix,
    SuffixDrafter,
    SuffixOptions,
    corpus_file,
    drafter_factory,
    vocab_fingerprint,
)
from pytreellama.draft.escape import EscapeTable
from pytreellama.errors import DraftError

PASSAGE = list(range(100, 140))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "corpus.bin"


def drafter_after(tokens: list[int], corpus: Corpus, **options: float) -> SuffixDrafter:
    drafter = SuffixDrafter(SuffixOptions(**options), corpus)  # type: ignore[arg-type]
    drafter.observe(tokens)
    return drafter


# --- proposals ------------------------------------------------------------------------------


def test_a_text_that_follows_the_corpus_is_continued_from_it(path: Path) -> None:
    corpus = Corpus.build([[1, 2, 3], PASSAGE], path)
    tree = drafter_after([7, 8, *PASSAGE[5:15]], corpus, min_p=0.01).propose(8)
    assert tree.tokens.tolist() == PASSAGE[15:23]
    assert tree.parents.tolist() == list(range(-1, 7))


def test_nothing_is_continued_across_the_end_of_a_text(path: Path) -> None:
    corpus = Corpus.build([PASSAGE[:10], PASSAGE[10:]], path)
    assert len(drafter_after(PASSAGE[5:10], corpus, min_p=0.0).propose(8)) == 0
    tree = drafter_after(PASSAGE[4:9], corpus, min_p=0.0).propose(8)
    assert tree.tokens.tolist() == [PASSAGE[9]]


def test_the_text_s_own_longer_match_is_asked_alone(path: Path) -> None:
    corpus = Corpus.build([[1, 2, 3, 60]], path)
    tree = drafter_after([9, 1, 2, 3, 50, 9, 1, 2, 3], corpus, min_p=0.0).propose(8)
    roots = tree.tokens[tree.parents == -1].tolist()
    assert 50 in roots
    assert 60 not in roots


def test_the_corpus_s_longer_match_comes_first_and_the_text_s_own_has_what_escapes(
    path: Path,
) -> None:
    corpus = Corpus.build([[1, 2, 3, 60]], path)
    paths = token_paths(drafter_after([3, 50, 1, 2, 3], corpus, min_p=0.0).propose(8))
    assert paths[(60,)] > paths[(50,)] > 0
    assert paths[(60,)] + paths[(50,)] < 1


def test_what_text_and_corpus_agree_on_is_offered_once(path: Path) -> None:
    corpus = Corpus.build([[1, 2, 3, 50, 51, 52]], path)
    tree = drafter_after([3, 50, 51, 1, 2, 3], corpus, min_p=0.0).propose(16)
    assert tree.tokens[tree.parents == -1].tolist() == [50]
    assert (50, 51, 52) in token_paths(tree)


def test_escapes_from_the_corpus_are_learned(path: Path) -> None:
    *pairs, last_pair = [(token, token + 1) for token in range(100, 400, 2)]
    corpus = Corpus.build([*pairs, last_pair], path)
    wary = drafter_after([token for first, _ in pairs for token in (first, 7)], corpus, min_p=0.0)
    trusting = drafter_after([token for pair in pairs for token in pair], corpus, min_p=0.0)
    claims = []
    for drafter in (wary, trusting):
        drafter.observe(last_pair[:1])
        claims.append(token_paths(drafter.propose(8))[last_pair[1:]])
    assert claims[0] < 0.2
    assert claims[1] > 0.8


def test_what_the_corpus_knew_teaches_the_text_s_own_contexts_nothing(path: Path) -> None:
    text = [token for follower in range(100, 107) for token in (1, follower)]
    corpus = Corpus.build([text, [999, 1, 777]], path)
    drafter = drafter_after([*text, 999, 1], corpus, min_p=0.0, max_depth=1)
    claims = token_paths(drafter.propose(16))
    p_left = 1 - claims.pop((777,))
    assert sorted(claims) == [(token,) for token in range(100, 107)]
    untaught = EscapeTable().p_escape(1, 7, 7, escaped=True)
    assert sum(claims.values()) == pytest.approx(p_left * (1 - untaught))


def test_a_path_makes_a_drafter_for_each_sequence_that_reads_one_file(path: Path) -> None:
    Corpus.build([PASSAGE], path)
    for corpus in (path, str(path), Corpus(path)):
        factory = Suffix(corpus=corpus, min_p=0.3)
        assert isinstance(factory.corpus, Corpus)
        first, second = drafter_factory(factory)(), factory()
        first.observe(PASSAGE[:10])
        assert len(first.propose(4)) == 4
        assert len(second.propose(4)) == 0


def test_a_long_common_context_is_sampled_evenly(path: Path) -> None:
    rng = random.Random(5)
    text = [token for _ in range(5000) for token in (1, rng.choices((2, 3), (0.7, 0.3))[0])]
    found = Corpus.build([text], path).longest_match([9, 1], 4)
    assert found is not None
    counts = {token: len(places) for token, places in found.following().items()}
    assert found.n_continued <= 64
    assert counts[2] / found.n_continued == pytest.approx(0.7, abs=0.15)


def test_matches_longer_than_what_is_sorted_are_cut(path: Path) -> None:
    corpus = Corpus.build([[5] * 300], path)
    found = corpus.longest_match([5] * 200, 100)
    assert found is not None
    assert found.length == 64


# --- files ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "complaint"),
    [
        ([1, 2, 3], r"text 0 .* shape \(\)"),
        ([[1, 2], [1.5, 2.0]], "text 1 .* float64"),
        ([[1, 2], [3, -1]], "from -1 to 3"),
        ([[2**31, 1]], "from 1 to 2147483648"),
        (["some text"], "text 0"),
        ([[[1], [2, 3]]], "text 0"),
        ([], "two tokens or more"),
        ([[1], [], [2]], "two tokens or more"),
    ],
)
def test_what_makes_no_corpus_is_refused(path: Path, texts: list[Any], complaint: str) -> None:
    with pytest.raises(DraftError, match=complaint):
        Corpus.build(texts, path)
    assert not path.exists()


def test_a_missing_corpus_is_named_where_the_drafter_is_chosen(path: Path) -> None:
    with pytest.raises(DraftError, match=r"no corpus at .*corpus\.bin.*Corpus\.build"):
        Suffix(corpus=path)


def test_options_beside_a_corpus_are_checked_as_ever(path: Path) -> None:
    corpus = Corpus.build([PASSAGE], path)
    with pytest.raises(DraftError, match="max_depth"):
        Suffix(corpus=corpus, max_depth=0)


def test_a_corpus_cut_or_lengthened_anywhere_is_refused(path: Path) -> None:
    Corpus.build([PASSAGE], path, vocab="a" * 32)
    whole = path.read_bytes()
    for size in [*range(0, len(whole), 3), len(whole) - 1, len(whole) + 4]:
        path.write_bytes((whole + bytes(8))[:size])
        with pytest.raises(DraftError, match=r"corpus\.bin is no corpus"):
            Corpus(path)


def test_a_directory_is_no_corpus(tmp_path: Path) -> None:
    with pytest.raises(DraftError, match="is no corpus"):
        Corpus(tmp_path)


@pytest.mark.parametrize(
    "header", [b"", b"[]", b"null", b"{}", b'{"n_texts": 1}', b"\xff\xfe", b"{" * 5000]
)
def test_a_file_with_another_header_is_refused(path: Path, header: bytes) -> None:
    path.write_bytes(corpus_file._MAGIC + header + b"\n" + bytes(200))
    with pytest.raises(DraftError, match="is no corpus"):
        Corpus(path)


@pytest.mark.parametrize("vocab", ["another", "", "mine "])
def test_another_vocabulary_is_refused(path: Path, vocab: str) -> None:
    Corpus.build([PASSAGE], path, vocab="mine")
    assert Corpus(path).vocab == "mine"
    with pytest.raises(DraftError, match=f"vocabulary 'mine', but is to serve '{vocab}'"):
        Corpus(path, vocab=vocab)


def test_an_unknown_vocabulary_is_no_promise(path: Path) -> None:
    Corpus.build([PASSAGE], path)
    with pytest.raises(DraftError, match="no vocabulary, but is to serve 'mine'"):
        Corpus(path, vocab="mine")


def test_a_vocabulary_s_name_is_too_long_for_the_file(path: Path) -> None:
    with pytest.raises(DraftError, match="vocab_fingerprint"):
        Corpus.build([PASSAGE], path, vocab="x" * 5000)
    assert list(path.parent.iterdir()) == []


def test_fingerprints_tell_vocabularies_apart() -> None:
    vocabularies = [[b"a", b"bc"], [b"ab", b"c"], [b"bc", b"a"], [b"a", b"bc", b""], []]
    fingerprints = [vocab_fingerprint(pieces) for pieces in vocabularies]
    assert len(set(fingerprints)) == len(vocabularies)
    assert fingerprints[0] == vocab_fingerprint(iter([b"a", b"bc"]))


def test_a_failed_build_leaves_the_old_corpus(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Corpus.build([PASSAGE], path)
    before = path.read_bytes()

    def full(*args: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        Corpus.build([[1, 2, 3]], path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_corpus_that_is_open_stays_as_it_was_when_another_takes_its_place(path: Path) -> None:
    opened = Corpus.build([PASSAGE], path)
    Corpus.build([[1, 2, 3]], path)
    opened.verify()
    assert opened.n_tokens == len(PASSAGE)
    assert Corpus(path).n_tokens == 3


# --- calibration ----------------------------------------------------------------------------


def markov_texts(seed: int, *lengths: int) -> list[list[int]]:
    """Of one source over 50 tokens: each is followed by one of three, at 70, 20 and 10 %."""
    rng = random.Random(seed)
    followers = [[rng.randrange(50) for _ in range(3)] for _ in range(50)]
    texts = []
    for n_tokens in lengths:
        text = [rng.randrange(50)]
        while len(text) < n_tokens:
            text.append(rng.choices(followers[text[-1]], (0.7, 0.2, 0.1))[0])
        texts.append(text)
    return texts


def quoting_texts(seed: int, *lengths: int) -> list[list[int]]:
    """The first is random; the others quote from it and leave it, at 90 and 95 % a token."""
    rng = random.Random(seed)
    source = [rng.randrange(200) for _ in range(lengths[0])]
    texts = [source]
    for n_tokens in lengths[1:]:
        text: list[int] = []
        at: int | None = None
        while len(text) < n_tokens:
            if at is None and rng.random() < 0.1:
                at = rng.randrange(len(source) - 200)
            elif at is not None and rng.random() < 0.05:
                at = None
            text.append(rng.randrange(200) if at is None else source[at])
            at = None if at is None or at + 1 == len(source) else at + 1
        texts.append(text)
    return texts


@pytest.mark.parametrize("make_texts", [markov_texts, quoting_texts])
def test_what_is_called_likely_comes_true_as_often_as_it_is_called(make_texts, path: Path) -> None:  # type: ignore[no-untyped-def]
    # Nodes of one path hold or fail together, so one text alone says little about each claim.
    claims: Claims = []
    for seed in (11, 12, 13, 14):
        known, text = make_texts(seed, 4000, 2000)
        drafter = drafter_after(text[: len(text) // 2], Corpus.build([known], path))
        claims += claims_along(drafter, text, len(text) // 2)
    assert n_calibrated(claims, lowest=0.1, n_least=300, tolerance=0.12) >= 6
