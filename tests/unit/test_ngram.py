"""The n-gram drafter on texts whose right guess can be told by eye; its files; its calibration."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from claims import Claims, claims_along, n_calibrated, token_paths
from pytreellama.draft import NGram, NGramDrafter, NGramOptions, NGramTable, make_drafter
from pytreellama.errors import DraftError


def drafter_after(factory: NGram, tokens: list[int]) -> NGramDrafter:
    drafter = factory()
    drafter.observe(tokens)
    return drafter


def likeliest(drafter: NGramDrafter) -> int:
    return int(drafter.propose(1).tokens[0])


# --- proposals ------------------------------------------------------------------------------


def test_repeated_text_comes_out_as_a_chain() -> None:
    drafter = drafter_after(NGram(), [5, 6, 7, 8, 9] * 6)
    assert drafter.propose(8).tokens.tolist() == [5, 6, 7, 8, 9, 5, 6, 7]


def test_another_request_s_text_is_guessed_from_where_it_goes_the_same_way() -> None:
    factory = NGram()
    factory().observe([1, 2, 3, 4, 5, 6, 7, 8])
    paths = token_paths(drafter_after(factory, [90, 91, 2, 3, 4]).propose(4))
    assert max(paths, key=paths.__getitem__) == (5,)
    assert (5, 6) in paths


def test_drafters_of_two_factories_share_nothing() -> None:
    NGram()().observe([1, 2, 3, 4] * 5)
    assert len(drafter_after(NGram(), [1, 2]).propose(8)) == 0
    make_drafter("ngram").observe([1, 2, 3, 4] * 5)
    stranger = make_drafter("ngram")
    stranger.observe([1, 2])
    assert len(stranger.propose(8)) == 0


def test_a_drafter_needs_no_other_table_than_its_own() -> None:
    drafter = NGramDrafter()
    drafter.observe([1, 2, 3, 1, 2])
    assert likeliest(drafter) == 3


def test_the_static_table_is_read_and_not_written() -> None:
    static = NGramTable.from_text([1, 2, 3, 4, 5])
    n_entries = len(static)
    drafter = drafter_after(NGram(static=static, min_p=0.0), [2, 3])
    assert likeliest(drafter) == 4
    drafter.observe([9, 9, 9])
    assert len(static) == n_entries


def test_the_text_itself_outweighs_any_number_of_earlier_texts() -> None:
    factory = NGram(min_p=0.0, dynamic_worth=2.0)
    for _ in range(50):
        factory().observe([1, 2, 30])
    own = [token for i in range(4) for token in (1, 2, 40, 100 + i)]
    assert likeliest(drafter_after(factory, [1, 2])) == 30
    assert likeliest(drafter_after(factory, [*own, 1, 2])) == 40


def test_earlier_texts_outweigh_the_corpus() -> None:
    static = NGramTable.from_text([1, 2, 30, 9, 8] * 50)
    factory = NGram(min_p=0.0, static=static)
    assert likeliest(drafter_after(factory, [1, 2])) == 30
    for _ in range(4):
        factory().observe([1, 2, 40])
    assert likeliest(drafter_after(factory, [1, 2])) == 40


def test_tables_that_agree_are_believed_more_than_one() -> None:
    static = NGramTable.from_text([1, 2, 30, 1, 2, 30])
    alone = drafter_after(NGram(min_p=0.0), [1, 2, 30, 1, 2, 40, 1, 2]).propose(8)
    together = drafter_after(NGram(min_p=0.0, static=static), [1, 2, 30, 1, 2, 40, 1, 2]).propose(8)
    ratios = [p[(30,)] / p[(40,)] for p in map(token_paths, (alone, together))]
    assert ratios[0] == pytest.approx(1.0)
    assert ratios[1] > 1.2


def test_a_longer_context_outweighs_a_commoner_shorter_one() -> None:
    text = [9, 1, 2, 50, *([8, 2, 60] * 3), 9, 1, 2]
    paths = token_paths(drafter_after(NGram(min_p=0.0), text).propose(32))
    assert paths[(50,)] > paths[(60,)] > 0


def test_an_escape_never_returns_to_what_a_longer_context_offered() -> None:
    text = [9, 1, 50, *([8, 1, 50] * 20), 8, 1, 60, 9, 1]
    paths = token_paths(drafter_after(NGram(min_p=0.0), text).propose(64))
    p_escape = 1 - paths[(50,)]
    assert 0.5 * p_escape < paths[(60,)] < p_escape


def test_min_n_ignores_shorter_contexts() -> None:
    text = [1, 2, 3, 4, 5, 9, 3]
    assert likeliest(drafter_after(NGram(min_n=1, min_p=0.0), text)) == 4
    assert len(drafter_after(NGram(min_n=2, min_p=0.0), text).propose(1)) == 0


def test_max_depth_ends_every_path() -> None:
    tree = drafter_after(NGram(max_depth=4, min_p=0.0), [1, 2, 3] * 20).propose(64)
    assert tree.depths.max() == 3


def test_max_fanout_keeps_the_latest_continuations() -> None:
    text = [token for follower in range(100, 200) for token in (1, follower)]
    roots = drafter_after(NGram(max_fanout=5, min_p=0.0, max_depth=1), [*text, 1]).propose(64)
    assert set(roots.tokens.tolist()) == {195, 196, 197, 198, 199}
    text += [1, 100, 1]
    roots = drafter_after(NGram(max_fanout=5, min_p=0.0, max_depth=1), text).propose(64)
    assert 100 in roots.tokens


def test_a_refused_observation_changes_neither_text_nor_table() -> None:
    factory = NGram()
    drafter = drafter_after(factory, [1, 2, 3, 1, 2])
    before, n_entries = drafter.propose(8), len(factory.dynamic)
    with pytest.raises(DraftError):
        drafter.observe([3, -5])
    assert drafter.propose(8) == before
    assert len(factory.dynamic) == n_entries


@pytest.mark.parametrize(
    "options",
    [
        {"min_n": 0},
        {"max_n": 2, "min_n": 3},
        {"max_depth": 0},
        {"max_fanout": 0},
        {"max_entries": 0},
        {"min_p": 1.5},
        {"min_p": float("nan")},
        {"dynamic_worth": 0.0},
        {"static_worth": float("nan")},
    ],
)
def test_options_out_of_range_are_refused_by_name(options: dict[str, Any]) -> None:
    with pytest.raises(DraftError, match=next(iter(options))):
        NGram(**options)


def test_a_factory_takes_options_whole_with_changes() -> None:
    factory = NGram(NGramOptions(max_n=7, min_p=0.3), min_p=0.2)
    assert factory().options == NGramOptions(max_n=7, min_p=0.2)
    assert (factory.dynamic.min_n, factory.dynamic.max_n) == (1, 7)


# --- tables ---------------------------------------------------------------------------------


def test_of_too_many_entries_the_old_and_rare_go_and_the_common_stay() -> None:
    table = NGramTable(min_n=1, max_n=1, max_entries=20)
    table.add_text([1, 2] * 50)
    for token in range(100, 200):
        table.add_text([token, token + 1])
    contexts = set(table.contexts())
    assert len(table) == 20
    assert (1,) in contexts
    assert (199,) in contexts
    assert (100,) not in contexts


def test_a_common_entry_fades_when_it_does_not_come_again() -> None:
    table = NGramTable(min_n=1, max_n=1, max_entries=4)
    table.add_text([1, 2] * 4)
    for token in range(100, 200):
        table.add_text([token, token + 1])
    assert table.following((1,)) is None
    assert table.n_seen((1,)) == 0


@pytest.mark.parametrize(("min_n", "max_n", "max_entries"), [(0, 4, 9), (3, 2, 9), (1, 4, 0)])
def test_a_table_of_no_size_is_refused(min_n: int, max_n: int, max_entries: int) -> None:
    with pytest.raises(DraftError, match="must be 1 or more"):
        NGramTable(min_n, max_n, max_entries)


def test_a_table_of_what_is_no_token_is_refused() -> None:
    with pytest.raises(DraftError, match="from -1 to 2"):
        NGramTable.from_text([2, -1])


# --- files ----------------------------------------------------------------------------------


def saved_table(path: Path) -> Path:
    rng = random.Random(3)
    NGramTable.from_text([rng.randrange(9) for _ in range(300)]).save(path)
    return path


def contents_of(table: NGramTable) -> list[tuple[object, ...]]:
    sizes = (table.min_n, table.max_n, table.max_entries)
    return [sizes, *((c, tuple((table.following(c) or {}).items())) for c in table.contexts())]


def test_a_static_table_is_loaded_from_its_path(tmp_path: Path) -> None:
    path = tmp_path / "static.npz"
    NGramTable.from_text([1, 2, 3, 4, 5]).save(path)
    assert likeliest(drafter_after(NGram(static=path), [2, 3, 4])) == 5
    assert likeliest(drafter_after(NGram(static=str(path)), [2, 3, 4])) == 5


def test_what_was_learned_can_be_kept_for_the_next_time(tmp_path: Path) -> None:
    path = tmp_path / "dynamic.npz"
    factory = NGram()
    factory().observe([1, 2, 3, 4, 5])
    factory.dynamic.save(path)
    assert likeliest(drafter_after(NGram(dynamic=NGramTable.load(path)), [3, 4])) == 5


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(DraftError, match="nowhere"):
        NGram(static=tmp_path / "nowhere.npz")


def test_a_table_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = saved_table(tmp_path / "table.npz")
    whole = path.read_bytes()
    for size in range(0, len(whole), 37):
        path.write_bytes(whole[:size])
        with pytest.raises(DraftError, match=r"table\.npz"):
            NGramTable.load(path)


def test_a_table_with_a_wrong_bit_anywhere_is_refused_or_whole(tmp_path: Path) -> None:
    path = saved_table(tmp_path / "table.npz")
    whole, contents = path.read_bytes(), contents_of(NGramTable.load(path))
    rng = random.Random(4)
    n_refused = 0
    for index in range(0, len(whole), 11):
        damaged = bytearray(whole)
        damaged[index] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            assert contents_of(NGramTable.load(path)) == contents
        except DraftError as error:
            assert "table.npz" in str(error)
            n_refused += 1
    assert n_refused > 100


@pytest.mark.parametrize(
    "content", [b"", b"n-grams", b"PK\x03\x04" + bytes(100), b"\x93NUMPY\x01\x00" + bytes(64)]
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "table.npz"
    path.write_bytes(content)
    with pytest.raises(DraftError, match=r"table\.npz"):
        NGramTable.load(path)


def test_an_array_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.npz"
    np.savez(path, tokens=np.arange(3))
    with pytest.raises(DraftError, match="does not hold a table of n-grams"):
        NGramTable.load(path)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("sizes", np.array([0, 4, 100])),
        ("sizes", np.array([1])),
        ("contexts", np.array([[-1, -1, 1, 2], [-1, -1, -1, -1]])),
        ("contexts", np.array([[-1, -1, -1, 1], [1, -1, -1, 2]])),
        ("contexts", np.array([[1, 2], [2, 1]])),
        ("n_followers", np.array([1, 0])),
        ("n_followers", np.array([2, 1])),
        ("tokens", np.array([2, -1])),
        ("counts", np.array([1, 0])),
        ("counts", np.array([1])),
        ("tokens", np.array([2.0, 1.0])),
    ],
)
def test_arrays_that_make_no_table_are_refused(
    tmp_path: Path, name: str, array: np.ndarray
) -> None:
    path = tmp_path / "table.npz"
    NGramTable.from_text([1, 2, 1], min_n=1, max_n=4).save(path)
    with np.load(path) as file:
        arrays: dict[str, Any] = {key: file[key] for key in file.files}
    assert {key: a.tolist() for key, a in arrays.items() if key != "kind"} == {
        "sizes": [1, 4, 1 << 17],
        "contexts": [[-1, -1, -1, 1], [-1, -1, -1, 2], [-1, -1, 1, 2]],
        "n_followers": [1, 1, 1],
        "tokens": [2, 1, 1],
        "counts": [1, 1, 1],
    }
    whole: dict[str, Any] = {
        "contexts": np.array([[-1, -1, -1, 1], [-1, -1, -1, 2]]),
        "n_followers": np.array([1, 1]),
        "tokens": np.array([2, 1]),
        "counts": np.array([1, 1]),
    }
    np.savez(path, **{**arrays, **whole})
    assert len(NGramTable.load(path)) == 2
    np.savez(path, **{**arrays, **whole, name: array})
    with pytest.raises(DraftError, match="of this version, or is damaged"):
        NGramTable.load(path)


def test_a_failed_save_leaves_the_old_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved_table(tmp_path / "table.npz")
    before = path.read_bytes()

    def full(*args: object, **options: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(OSError, match="no space"):
        NGramTable.from_text([1, 2, 3]).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


# --- calibration ----------------------------------------------------------------------------


def first_order_texts(seed: int, n_texts: int, n_tokens: int) -> list[list[int]]:
    """Of one source over 50 tokens: each is followed by one of three, at 70, 20 and 10 %."""
    rng = random.Random(seed)
    followers = [rng.sample(range(50), 3) for _ in range(50)]
    texts = []
    for _ in range(n_texts):
        text = [rng.randrange(50)]
        while len(text) < n_tokens:
            text.append(rng.choices(followers[text[-1]], (0.7, 0.2, 0.1))[0])
        texts.append(text)
    return texts


def second_order_texts(seed: int, n_texts: int, n_tokens: int) -> list[list[int]]:
    """Of one source over 12 tokens: two of them decide which two may follow, at 80 and 20 %."""
    rng = random.Random(seed)
    followers = {(a, b): rng.sample(range(12), 2) for a in range(12) for b in range(12)}
    texts = []
    for _ in range(n_texts):
        text = [rng.randrange(12), rng.randrange(12)]
        while len(text) < n_tokens:
            text.append(rng.choices(followers[text[-2], text[-1]], (0.8, 0.2))[0])
        texts.append(text)
    return texts


def drifting_texts(seed: int, n_texts: int, n_tokens: int) -> list[list[int]]:
    """Of first order; every text has followers of its own for four tokens in ten."""
    rng = random.Random(seed)
    common = [rng.sample(range(50), 3) for _ in range(50)]
    texts = []
    for _ in range(n_texts):
        own = [row if rng.random() < 0.6 else rng.sample(range(50), 3) for row in common]
        text = [rng.randrange(50)]
        while len(text) < n_tokens:
            text.append(rng.choices(own[text[-1]], (0.85, 0.1, 0.05))[0])
        texts.append(text)
    return texts


def claims_over(texts: list[list[int]]) -> Claims:
    """In the later two thirds of the texts, all of which one factory hears."""
    factory = NGram(min_p=0.05)
    for text in texts[: len(texts) // 3]:
        factory().observe(text)
    return [claim for text in texts[len(texts) // 3 :] for claim in claims_along(factory(), text)]


@pytest.mark.parametrize("make_texts", [first_order_texts, second_order_texts, drifting_texts])
def test_what_is_called_likely_comes_true_as_often_as_it_is_called(
    make_texts: Callable[[int, int, int], list[list[int]]],
) -> None:
    # Nodes of one path hold or fail together, so one source alone says little about each claim.
    walks = [claims_over(make_texts(seed, 9, 250)) for seed in (11, 12, 13, 14)]
    claims = [claim for walk in walks for claim in walk]
    assert n_calibrated(claims, lowest=0.0, n_least=500, tolerance=0.12) >= 7


def test_random_text_is_nearly_always_met_with_silence() -> None:
    rng = random.Random(12)
    drafter = NGram()()
    n_proposed = 0
    for _ in range(2000):
        n_proposed += len(drafter.propose(8))
        drafter.observe([rng.randrange(1000)])
    assert n_proposed < 0.05 * 2000
