"""The corpus, and the suffix drafter beside one, against brute force on small alphabets."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytreellama.draft import Corpus, SuffixDrafter, SuffixOptions
from pytreellama.draft.corpus_file import map_corpus
from pytreellama.errors import DraftError
from pytreellama.tree import TokenTree
from strategies import suffix_options

MANY_PLACES = 64


@st.composite
def texts(draw: st.DrawFn, min_size: int = 0, max_size: int = 50) -> list[int]:
    """Tokens over one to four letters; half of them built of repeated pieces."""
    letters = st.integers(0, draw(st.integers(0, 3)))
    if draw(st.booleans()):
        return draw(st.lists(letters, min_size=min_size, max_size=max_size))
    piece = draw(st.lists(letters, min_size=1, max_size=6))
    n_times = st.integers(-(-min_size // len(piece)), max(min_size, max_size // len(piece)))
    return (piece * draw(n_times))[:max_size]


corpora = st.tuples(texts(min_size=2), st.lists(texts(), max_size=3)).map(lambda c: [c[0], *c[1]])


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("corpora") / "corpus.bin"


def followers_by_scan(corpus: list[list[int]], ending: list[int]) -> Counter[int]:
    """What comes behind all occurrences of `ending`, in each text by itself."""
    n = len(ending)
    return Counter(
        text[end] for text in corpus for end in range(n, len(text)) if text[end - n : end] == ending
    )


def longest_by_scan(corpus: list[list[int]], text: list[int], max_length: int) -> int:
    for length in range(min(max_length, len(text)), 0, -1):
        if followers_by_scan(corpus, text[-length:]):
            return length
    return 0


def n_occurrences(text: list[int], piece: list[int]) -> int:
    return sum(
        text[begin : begin + len(piece)] == piece for begin in range(len(text) - len(piece) + 1)
    )


# --- the corpus by itself -------------------------------------------------------------------


@given(corpus=corpora, text=texts(), max_length=st.integers(1, 80))
def test_the_longest_match_and_what_follows_are_those_that_a_scan_finds(
    path: Path, corpus: list[list[int]], text: list[int], max_length: int
) -> None:
    found = Corpus.build(corpus, path).longest_match(text, max_length)
    length = longest_by_scan(corpus, text, max_length)
    assert (0 if found is None else found.length) == length
    if found is not None:
        by_scan = followers_by_scan(corpus, text[-length:])
        counts = Counter({token: len(places) for token, places in found.following().items()})
        if by_scan.total() <= MANY_PLACES:
            assert counts == by_scan
        else:
            assert counts <= by_scan
            assert MANY_PLACES / 2 <= counts.total() <= MANY_PLACES


@given(corpus=corpora, text=texts(), data=st.data())
def test_places_move_on_to_where_a_token_comes(
    path: Path, corpus: list[list[int]], text: list[int], data: st.DataObject
) -> None:
    found = Corpus.build(corpus, path).longest_match(text, 8)
    ending = text[len(text) - found.length :] if found else []
    is_sampled = followers_by_scan(corpus, ending).total() > MANY_PLACES
    while found is not None and found.following():
        assert found.length == len(ending)
        token = data.draw(st.integers(0, 3))
        found = found.after(token)
        ending.append(token)
        by_scan = followers_by_scan(corpus, ending)
        following = {} if found is None else found.following()
        counts = Counter({t: len(places) for t, places in following.items()})
        assert counts <= by_scan if is_sampled else counts == by_scan
        assert found is None or found.n_continued == counts.total()


@given(corpus=corpora, n_times=st.integers(1, 4))
def test_places_are_in_the_order_of_what_stands_before_them(
    path: Path, corpus: list[list[int]], n_times: int
) -> None:
    Corpus.build([text * n_times for text in corpus], path)
    _, tokens, places = map_corpus(path)
    everything = tokens.tolist()
    begins = [i for i in range(1, len(everything)) if everything[i - 1] >= 0 and everything[i] >= 0]
    in_order = sorted(begins, key=lambda i: everything[max(i - 64, 0) : i][::-1])
    assert places.tolist() == in_order


@given(corpus=corpora, vocab=st.none() | st.text(max_size=20))
def test_an_opened_corpus_is_the_one_that_was_built(
    path: Path, corpus: list[list[int]], vocab: str | None
) -> None:
    Corpus.build((np.array(text, np.int64) for text in corpus), path, vocab=vocab)
    opened = Corpus(path, vocab=vocab)
    assert (opened.n_texts, opened.n_tokens) == (len(corpus), sum(map(len, corpus)))
    assert opened.vocab == vocab
    opened.verify()
    tokens = map_corpus(path)[1]
    assert tokens.tolist() == [token for text in corpus for token in [*text, -1]]


@given(corpus=corpora, text=texts(), data=st.data())
def test_a_damaged_corpus_is_found_out_and_crashes_nothing(
    path: Path, corpus: list[list[int]], text: list[int], data: st.DataObject
) -> None:
    Corpus.build(corpus, path)
    header, tokens, places = map_corpus(path)
    content = (header, tokens.tolist(), places.tolist())
    damaged = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    path.unlink()  # the mapped file stays as it was
    path.write_bytes(damaged)
    try:
        opened = Corpus(path)
    except DraftError:
        return
    drafter = SuffixDrafter(corpus=opened)
    drafter.observe(text)
    drafter.propose(8)
    header, tokens, places = map_corpus(path)
    if (header, tokens.tolist(), places.tolist()) == content:
        opened.verify()
    else:
        with pytest.raises(DraftError, match="damaged"):
            opened.verify()


# --- the drafter beside a corpus ------------------------------------------------------------


def drafter_beside(
    path: Path, corpus: list[list[int]], text: list[int], chosen: SuffixOptions
) -> SuffixDrafter:
    drafter = SuffixDrafter(chosen, Corpus.build(corpus, path))
    drafter.observe(text)
    return drafter


@given(corpus=corpora, text=texts(), chosen=suffix_options, n_nodes=st.integers(0, 24))
def test_a_proposal_is_a_valid_tree_within_its_bounds(
    path: Path, corpus: list[list[int]], text: list[int], chosen: SuffixOptions, n_nodes: int
) -> None:
    tree = drafter_beside(path, corpus, text, chosen).propose(n_nodes)
    TokenTree(tree.tokens, tree.parents, p=tree.p)
    assert len(tree) <= n_nodes
    assert tree.p is not None
    assert ((tree.p >= np.float32(chosen.min_p)) & (tree.p > 0) & (tree.p < 1)).all()
    assert len(tree) == 0 or tree.depths.max() < chosen.max_depth


@given(corpus=corpora, text=texts(), chosen=suffix_options)
def test_alternatives_never_claim_more_than_their_parent(
    path: Path, corpus: list[list[int]], text: list[int], chosen: SuffixOptions
) -> None:
    tree = drafter_beside(path, corpus, text, chosen).propose(64)
    assert tree.p is not None
    for parent in range(-1, len(tree)):
        p_parent = 1.0 if parent < 0 else tree.p[parent]
        assert tree.p[tree.parents == parent].sum() <= p_parent + 1e-6


@given(corpus=corpora, text=texts(), chosen=suffix_options)
def test_every_proposed_path_followed_a_suffix_of_the_text_here_or_in_the_corpus(
    path: Path, corpus: list[list[int]], text: list[int], chosen: SuffixOptions
) -> None:
    tree = drafter_beside(path, corpus, text, chosen).propose(24)
    for node in range(len(tree)):
        piece = text[-chosen.min_match :] + tree.tokens[tree.path(node)].tolist()
        assert any(n_occurrences(known, piece) for known in (text, *corpus))


@given(corpus=corpora, text=texts(), chosen=suffix_options)
def test_what_the_corpus_offers_at_a_longer_match_is_proposed(
    path: Path, corpus: list[list[int]], text: list[int], chosen: SuffixOptions
) -> None:
    eager = SuffixOptions(chosen.min_match, chosen.max_match, chosen.max_depth, min_p=0.0)
    drafter = drafter_beside(path, corpus, text, eager)
    length = longest_by_scan(corpus, text, eager.max_match)
    if length >= eager.min_match and length > drafter.match_length:
        tree = drafter.propose(1000)
        roots = set(tree.tokens[tree.parents == -1].tolist())
        assert roots >= set(followers_by_scan(corpus, text[-length:]))


@given(corpus=corpora, text=texts(), chosen=suffix_options)
def test_a_corpus_of_other_tokens_changes_nothing_at_all(
    path: Path, corpus: list[list[int]], text: list[int], chosen: SuffixOptions
) -> None:
    foreign = [[token + 10 for token in other] for other in corpus]
    alone = SuffixDrafter(chosen)
    alone.observe(text)
    assert drafter_beside(path, foreign, text, chosen).propose(16) == alone.propose(16)


@given(corpus=corpora, text=texts(), chosen=suffix_options, data=st.data())
def test_observing_in_pieces_equals_observing_at_once(
    path: Path, corpus: list[list[int]], text: list[int], chosen: SuffixOptions, data: st.DataObject
) -> None:
    at_once = drafter_beside(path, corpus, text, chosen)
    in_pieces = SuffixDrafter(chosen, Corpus(path))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        in_pieces.observe(text[begin:end])
        assert in_pieces.propose(4) == in_pieces.propose(4)
    assert at_once.propose(16) == in_pieces.propose(16)


@given(corpus=corpora, before=texts(), after=texts())
def test_reset_forgets(
    path: Path, corpus: list[list[int]], before: list[int], after: list[int]
) -> None:
    reused = drafter_beside(path, corpus, before, SuffixOptions())
    reused.reset()
    assert len(reused.propose(16)) == 0
    reused.observe(after)
    fresh = SuffixDrafter(corpus=Corpus(path))
    fresh.observe(after)
    assert reused.propose(16) == fresh.propose(16)
