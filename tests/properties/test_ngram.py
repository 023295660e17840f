"""The n-gram drafter and its tables against brute force, on small alphabets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytreellama.draft import NGram, NGramDrafter, NGramOptions, NGramTable
from pytreellama.draft.ngram_table import Context
from pytreellama.tree import TokenTree
from strategies import texts_of_pieces

Counts = dict[Context, dict[int, int]]

sizes = st.tuples(st.integers(1, 3), st.integers(0, 3)).map(lambda s: (s[0], s[0] + s[1]))


def texts(max_size: int = 50) -> st.SearchStrategy[list[int]]:
    return texts_of_pieces((0, 3), max_size)


@st.composite
def options(draw: st.DrawFn) -> NGramOptions:
    min_n, max_n = draw(sizes)
    return NGramOptions(
        min_n=min_n,
        max_n=max_n,
        max_depth=draw(st.integers(1, 6)),
        max_fanout=draw(st.integers(1, 4)),
        min_p=draw(st.sampled_from([0.0, 0.05, 0.3])),
        dynamic_worth=draw(st.sampled_from([0.5, 8.0])),
        static_worth=draw(st.sampled_from([0.5, 8.0])),
    )


def counted_by_scan(text: Sequence[int], min_n: int, max_n: int) -> Counts:
    counts: Counts = {}
    for end in range(len(text)):
        for n in range(min_n, min(max_n, end) + 1):
            followers = counts.setdefault(tuple(text[end - n : end]), {})
            followers[text[end]] = followers.get(text[end], 0) + 1
    return counts


def counted_by(table: NGramTable) -> Counts:
    """All that a table knows, each context once."""
    contexts = list(table.contexts())
    assert len(set(contexts)) == len(contexts)
    return {context: dict(table.following(context) or {}) for context in contexts}


def sum_of(*all_counts: Counts) -> Counts:
    total: dict[Context, Counter[int]] = {}
    for counts in all_counts:
        for context, followers in counts.items():
            total.setdefault(context, Counter()).update(followers)
    return {context: dict(followers) for context, followers in total.items()}


def described(tree: TokenTree) -> tuple[list[int], list[int], list[float]]:
    assert tree.p is not None
    return tree.tokens.tolist(), tree.parents.tolist(), tree.p.tolist()


def drafter_with(
    chosen: NGramOptions, text: list[int], earlier: list[int], corpus: list[int]
) -> NGramDrafter:
    """After `text`; the dynamic table knows `earlier` too, the static one `corpus`."""
    factory = NGram(chosen, static=NGramTable.from_text(corpus, chosen.min_n, chosen.max_n))
    factory().observe(earlier)
    drafter = factory()
    drafter.observe(text)
    return drafter


# --- tables ---------------------------------------------------------------------------------


@given(st.lists(texts(), max_size=3), sizes)
def test_a_table_counts_what_a_scan_counts(many: list[list[int]], min_max: tuple[int, int]) -> None:
    table = NGramTable(*min_max)
    for text in many:
        table.add_text(text)
    by_scan = sum_of(*(counted_by_scan(text, *min_max) for text in many))
    assert counted_by(table) == by_scan
    assert len(table) == sum(map(len, by_scan.values()))
    for context, followers in by_scan.items():
        assert table.n_seen(context) == sum(followers.values())


@given(texts(), texts(), sizes, sizes)
def test_a_merged_table_has_both_tables_counts(
    text: list[int], other_text: list[int], min_max: tuple[int, int], other_sizes: tuple[int, int]
) -> None:
    table = NGramTable.from_text(text, *min_max)
    other = NGramTable.from_text(other_text, *other_sizes)
    before = counted_by(other)
    table.merge(other)
    shared = {c: f for c, f in before.items() if min_max[0] <= len(c) <= min_max[1]}
    assert counted_by(table) == sum_of(counted_by_scan(text, *min_max), shared)
    assert counted_by(other) == before


@given(texts())
def test_a_table_merged_with_itself_counts_everything_twice(text: list[int]) -> None:
    table = NGramTable.from_text(text)
    table.merge(table)
    once = counted_by_scan(text, 1, 4)
    assert counted_by(table) == sum_of(once, once)


@given(texts(max_size=120), sizes, st.integers(1, 30))
def test_a_bounded_table_never_holds_more_and_never_counts_too_much(
    text: list[int], min_max: tuple[int, int], max_entries: int
) -> None:
    table = NGramTable(*min_max, max_entries)
    context: Context = ()
    for token in text:
        table.learn(context, token)
        context = (*context, token)
        assert len(table) <= max_entries
    by_scan = counted_by_scan(text, *min_max)
    kept = counted_by(table)
    assert len(table) == sum(map(len, kept.values()))
    for kept_context, followers in kept.items():
        assert followers and table.n_seen(kept_context) == sum(followers.values())
        for token, count in followers.items():
            assert 1 <= count <= by_scan[kept_context][token]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tables") / "table.npz"


@given(text=texts(), later=texts(), min_max=sizes, max_entries=st.integers(1, 60))
def test_a_loaded_table_is_the_saved_one_and_goes_on_as_it_would(
    path: Path, text: list[int], later: list[int], min_max: tuple[int, int], max_entries: int
) -> None:
    saved = NGramTable.from_text(text, *min_max, max_entries)
    saved.save(path)
    loaded = NGramTable.load(path)
    assert (loaded.min_n, loaded.max_n, loaded.max_entries) == (*min_max, max_entries)
    for _ in range(2):
        assert list(loaded.contexts()) == list(saved.contexts())
        for context in saved.contexts():
            assert list((loaded.following(context) or {}).items()) == list(
                (saved.following(context) or {}).items()
            )
            assert loaded.n_seen(context) == saved.n_seen(context)
        assert len(loaded) == len(saved)
        saved.add_text(later)
        loaded.add_text(later)


# --- proposals ------------------------------------------------------------------------------


@given(options(), texts(), texts(), texts(), st.integers(0, 24))
def test_a_proposal_is_a_valid_tree_within_its_bounds(
    chosen: NGramOptions, text: list[int], earlier: list[int], corpus: list[int], n_nodes: int
) -> None:
    tree = drafter_with(chosen, text, earlier, corpus).propose(n_nodes)
    TokenTree(tree.tokens, tree.parents, p=tree.p)
    assert len(tree) <= n_nodes
    assert tree.p is not None
    assert tree.p.dtype == np.float32
    assert ((tree.p >= np.float32(chosen.min_p)) & (tree.p > 0) & (tree.p < 1)).all()
    assert len(tree) == 0 or tree.depths.max() < chosen.max_depth
    below = tree.parents >= 0
    assert (tree.p[below] <= tree.p[tree.parents[below]]).all()


@given(options(), texts(), texts(), texts())
def test_alternatives_never_claim_more_than_their_parent(
    chosen: NGramOptions, text: list[int], earlier: list[int], corpus: list[int]
) -> None:
    tree = drafter_with(chosen, text, earlier, corpus).propose(64)
    assert tree.p is not None
    for parent in range(-1, len(tree)):
        p_parent = 1.0 if parent < 0 else tree.p[parent]
        assert tree.p[tree.parents == parent].sum() <= p_parent + 1e-6


@given(options(), texts(), texts(), texts())
def test_every_proposed_token_followed_its_context_in_one_of_the_texts(
    chosen: NGramOptions, text: list[int], earlier: list[int], corpus: list[int]
) -> None:
    sizes_ = (chosen.min_n, chosen.max_n)
    seen = sum_of(*(counted_by_scan(known, *sizes_) for known in (text, earlier, corpus)))
    tree = drafter_with(chosen, text, earlier, corpus).propose(24)
    for node in range(len(tree)):
        *context, token = text + tree.tokens[tree.path(node)].tolist()
        lengths = range(chosen.min_n, min(chosen.max_n, len(context)) + 1)
        assert any(token in seen.get(tuple(context[-n:]), {}) for n in lengths)


@given(sizes, texts(), texts(), texts())
def test_without_a_threshold_everything_that_followed_is_proposed(
    min_max: tuple[int, int], text: list[int], earlier: list[int], corpus: list[int]
) -> None:
    chosen = NGramOptions(min_n=min_max[0], max_n=min_max[1], max_depth=1, min_p=0.0)
    tree = drafter_with(chosen, text, earlier, corpus).propose(1000)
    shortest = tuple(text[-chosen.min_n :])
    seen = sum_of(*(counted_by_scan(known, *min_max) for known in (text, earlier, corpus)))
    assert set(tree.tokens.tolist()) == set(seen.get(shortest, {}))


@given(options(), texts(), texts(), st.integers(0, 20))
def test_a_smaller_tree_is_the_likeliest_part_of_a_larger_one(
    chosen: NGramOptions, text: list[int], earlier: list[int], n_nodes: int
) -> None:
    drafter = drafter_with(chosen, text, earlier, [])
    larger, smaller = drafter.propose(40), drafter.propose(n_nodes)
    assert smaller == larger.truncate(n_nodes)


@given(options(), texts(), texts())
def test_proposing_changes_nothing(
    chosen: NGramOptions, text: list[int], earlier: list[int]
) -> None:
    factory = NGram(chosen)
    factory().observe(earlier)
    drafter = factory()
    drafter.observe(text)
    before = counted_by(factory.dynamic)
    assert drafter.propose(16) == drafter.propose(16)
    assert counted_by(factory.dynamic) == before


@given(options(), texts(), texts(), st.data())
def test_observing_in_pieces_equals_observing_at_once(
    chosen: NGramOptions, text: list[int], earlier: list[int], data: st.DataObject
) -> None:
    at_once = drafter_with(chosen, text, earlier, [])
    in_pieces = drafter_with(chosen, [], earlier, [])
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        in_pieces.observe(text[begin:end])
        in_pieces.propose(4)
    assert described(at_once.propose(16)) == described(in_pieces.propose(16))


@given(options(), texts(), texts())
def test_reset_forgets_the_text_and_keeps_the_dynamic_table(
    chosen: NGramOptions, before: list[int], after: list[int]
) -> None:
    factory, other = NGram(chosen), NGram(chosen)
    reused = factory()
    reused.observe(before)
    learned = counted_by(factory.dynamic)
    reused.reset()
    assert len(reused.propose(16)) == 0
    assert counted_by(factory.dynamic) == learned
    reused.observe(after)
    other().observe(before)
    fresh = other()
    fresh.observe(after)
    assert described(reused.propose(16)) == described(fresh.propose(16))


@given(texts(), texts(), st.data())
def test_the_dynamic_table_learns_from_all_sequences_however_they_take_turns(
    text: list[int], other_text: list[int], data: st.DataObject
) -> None:
    factory = NGram()
    pairs = [(factory(), text), (factory(), other_text)]
    positions = [0, 0]
    while positions != [len(text), len(other_text)]:
        turn = data.draw(st.integers(0, 1))
        drafter, whole = pairs[turn]
        n_tokens = data.draw(st.integers(1, 8))
        drafter.observe(whole[positions[turn] : positions[turn] + n_tokens])
        positions[turn] = min(positions[turn] + n_tokens, len(whole))
        if positions[turn] == len(whole):
            rest, rest_text = pairs[1 - turn]
            rest.observe(rest_text[positions[1 - turn] :])
            positions[1 - turn] = len(rest_text)
    alone = sum_of(counted_by_scan(text, 1, 4), counted_by_scan(other_text, 1, 4))
    assert counted_by(factory.dynamic) == alone
