"""The suffix drafter on texts whose right guess can be told by eye, and its calibration."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest

from claims import Claims, claims_along, n_calibrated, token_paths
from pytreellama.draft import SuffixDrafter, SuffixOptions
from pytreellama.draft.automaton import SuffixAutomaton
from pytreellama.draft.escape import EscapeTable
from pytreellama.errors import DraftError


def drafter_after(tokens: list[int], **options: float) -> SuffixDrafter:
    drafter = SuffixDrafter(SuffixOptions(**options))  # type: ignore[arg-type]
    drafter.observe(tokens)
    return drafter


def random_text(seed: int, n_tokens: int, n_vocab: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(n_vocab) for _ in range(n_tokens)]


def test_copied_text_comes_out_as_a_chain() -> None:
    passage = list(range(100, 140))
    tree = drafter_after([*passage, 7, 8, *passage[:10]]).propose(16)
    assert tree.tokens.tolist() == passage[10:26]
    assert tree.parents.tolist() == list(range(-1, 15))


def test_text_without_repetition_gets_no_guess() -> None:
    assert len(drafter_after(list(range(1000))).propose(64)) == 0


def test_two_continuations_come_out_as_two_branches_the_commoner_first() -> None:
    text = [1, 2, 3, 10, 1, 2, 4, 11, 1, 2, 3, 12, 1, 2]
    paths = token_paths(drafter_after(text, min_p=0.0).propose(2))
    assert list(paths) == [(3,), (4,)]
    assert paths[(3,)] == pytest.approx(2 * paths[(4,)])


def test_a_longer_match_outweighs_a_commoner_shorter_one() -> None:
    text = [9, 1, 2, 50, *([8, 2, 60] * 3), 9, 1, 2]
    paths = token_paths(drafter_after(text, min_p=0.0).propose(32))
    assert (50,) in paths
    assert (60,) in paths
    assert paths[(50,)] > paths[(60,)]


def test_what_a_longer_context_offered_takes_no_share_of_a_shorter_one() -> None:
    text = [9, 1, 50, *([8, 1, 50] * 20), 8, 1, 60, 9, 1]
    paths = token_paths(drafter_after(text, min_p=0.0).propose(64))
    p_escape = 1 - paths[(50,)]
    assert 0.5 * p_escape < paths[(60,)] < p_escape


def test_min_match_ignores_shorter_contexts() -> None:
    text = [1, 2, 3, 4, 5, 9, 3]
    assert drafter_after(text, min_match=1, min_p=0.0).propose(1).tokens.tolist() == [4]
    assert len(drafter_after(text, min_match=2, min_p=0.0).propose(1)) == 0


def test_max_match_cuts_the_match() -> None:
    text = [1, 2, 3, 4, 5, 6] * 4
    assert drafter_after(text, max_match=32).match_length == 18
    assert drafter_after(text, max_match=5).match_length == 5


def test_max_depth_ends_every_path() -> None:
    tree = drafter_after([1, 2, 3] * 20, max_depth=4, min_p=0.0).propose(64)
    assert tree.depths.max() == 3


def test_min_p_cuts_the_tree_at_the_threshold() -> None:
    text = random_text(seed=4, n_tokens=200, n_vocab=3)
    everything = drafter_after(text, min_p=0.0).propose(50)
    likely = drafter_after(text, min_p=0.2).propose(50)
    assert everything.p is not None
    expected = {path: p for path, p in token_paths(everything).items() if p >= 0.2}
    assert 0 < len(expected) < len(everything)
    assert token_paths(likely) == expected


def test_a_smaller_tree_holds_the_likeliest_nodes_of_a_larger() -> None:
    drafter = drafter_after(random_text(seed=5, n_tokens=300, n_vocab=4), min_p=0.0)
    larger, smaller = token_paths(drafter.propose(40)), token_paths(drafter.propose(10))
    assert len(smaller) == 10
    assert smaller.items() <= larger.items()
    assert min(smaller.values()) >= max(p for path, p in larger.items() if path not in smaller)


def test_max_fanout_bounds_the_scan_and_keeps_the_latest_continuations() -> None:
    text = [token for follower in range(100, 200) for token in (1, follower)]
    roots = drafter_after([*text, 1], max_fanout=5, min_p=0.0).propose(64)
    assert set(roots.tokens[roots.depths == 0].tolist()) == {195, 196, 197, 198, 199}
    text += [1, 100, 1]
    roots = drafter_after(text, max_fanout=5, min_p=0.0).propose(64)
    assert 100 in roots.tokens[roots.depths == 0]


def test_an_array_is_observed_like_a_list() -> None:
    text = [1, 2, 3, 4] * 5
    from_list, from_array = drafter_after(text), SuffixDrafter()
    from_array.observe(np.array(text, np.int32))
    assert token_paths(from_list.propose(8)) == token_paths(from_array.propose(8))


def test_a_refused_observation_leaves_the_drafter_as_it_was() -> None:
    drafter = drafter_after([1, 2, 3, 1, 2])
    before = token_paths(drafter.propose(8))
    with pytest.raises(DraftError):
        drafter.observe([3, -5])
    assert token_paths(drafter.propose(8)) == before


@pytest.mark.parametrize(
    "options",
    [
        {"min_match": 0},
        {"max_match": 2, "min_match": 3},
        {"max_depth": 0},
        {"max_fanout": 0},
        {"min_p": 1.5},
        {"min_p": float("nan")},
    ],
)
def test_options_out_of_range_are_refused_by_name(options: dict[str, float]) -> None:
    with pytest.raises(DraftError, match=next(iter(options))):
        SuffixOptions(**options)  # type: ignore[arg-type]


def test_an_automaton_that_counts_nothing_is_refused() -> None:
    with pytest.raises(DraftError, match="invalid counted_length=0"):
        SuffixAutomaton(0)


def test_escapes_are_learned_for_their_own_kind_of_context_only() -> None:
    table = EscapeTable()
    kind, other = (4, 1, 1, False), (20, 1, 1, False)
    before, untouched = table.p_escape(*kind), table.p_escape(*other)
    for _ in range(50):
        table.learn(*kind, was_escape=True)
    assert before < 0.9 < table.p_escape(*kind) < 1.0
    assert table.p_escape(*other) == untouched


def test_a_longer_match_is_trusted_more_before_anything_is_learned() -> None:
    table = EscapeTable()
    escapes = [table.p_escape(length, 1, 1, False) for length in (1, 2, 4, 8, 16, 32)]
    assert all(longer < shorter for shorter, longer in pairwise(escapes))


def markov_text(seed: int, n_tokens: int) -> list[int]:
    """First order over 50 tokens: each is followed by one of three, at 70, 20 and 10 %."""
    rng = random.Random(seed)
    followers = [[rng.randrange(50) for _ in range(3)] for _ in range(50)]
    text = [0]
    while len(text) < n_tokens:
        text.append(rng.choices(followers[text[-1]], (0.7, 0.2, 0.1))[0])
    return text


def copying_text(seed: int, n_tokens: int) -> list[int]:
    """Random tokens, now and then a copy from anywhere before, which goes on at 95 % a token."""
    rng = random.Random(seed)
    text = [rng.randrange(1000) for _ in range(300)]
    source = None
    while len(text) < n_tokens:
        if source is None or rng.random() < 0.05:
            source = rng.randrange(len(text)) if rng.random() < 0.1 else None
        if source is None:
            text.append(rng.randrange(1000))
        else:
            text.append(text[source])
            source += 1
    return text


@pytest.mark.parametrize("make_text", [markov_text, copying_text])
def test_what_is_called_likely_comes_true_as_often_as_it_is_called(make_text) -> None:  # type: ignore[no-untyped-def]
    # Nodes of one path hold or fail together, so one text alone says little about each claim.
    claims: Claims = []
    for seed in (11, 12, 13, 14):
        text = make_text(seed, n_tokens=4000)
        claims += claims_along(drafter_after(text[: len(text) // 2]), text, len(text) // 2)
    assert n_calibrated(claims, lowest=0.1, n_least=500, tolerance=0.1) >= 5


def test_random_text_is_nearly_always_met_with_silence() -> None:
    text = random_text(seed=12, n_tokens=3000, n_vocab=1000)
    drafter = drafter_after(text[:500])
    n_proposed = 0
    for token in text[500:]:
        n_proposed += len(drafter.propose(8))
        drafter.observe([token])
    assert n_proposed < 0.02 * 2500
