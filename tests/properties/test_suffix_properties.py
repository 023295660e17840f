"""The suffix drafter and its automaton against brute force, on small alphabets."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pytreellama.draft import SuffixDrafter, SuffixOptions
from pytreellama.draft.automaton import ROOT, SuffixAutomaton
from pytreellama.tree import TokenTree
from strategies import suffix_options, texts_of_pieces

COUNTED_LENGTH = 6


def texts(max_size: int = 60) -> st.SearchStrategy[list[int]]:
    return texts_of_pieces((1, 4), max_size)


def n_occurrences(text: list[int], piece: list[int]) -> int:
    return sum(
        text[begin : begin + len(piece)] == piece for begin in range(len(text) - len(piece) + 1)
    )


def longest_match_by_scan(text: list[int], max_length: int) -> int:
    for length in range(min(max_length, len(text) - 1), 0, -1):
        if n_occurrences(text, text[-length:]) > 1:
            return length
    return 0


def automaton_of(text: list[int]) -> SuffixAutomaton:
    automaton = SuffixAutomaton(COUNTED_LENGTH)
    for token in text:
        automaton.append(token)
    return automaton


def state_of(automaton: SuffixAutomaton, piece: list[int]) -> int | None:
    state = ROOT
    for token in piece:
        following = automaton.following(state)
        if token not in following:
            return None
        state = following[token]
    return state


def described(tree: TokenTree) -> tuple[list[int], list[int], list[float]]:
    assert tree.p is not None
    return tree.tokens.tolist(), tree.parents.tolist(), tree.p.tolist()


@given(texts(), st.lists(st.integers(0, 4), min_size=1, max_size=5))
def test_the_automaton_knows_exactly_the_substrings_of_the_text(
    text: list[int], piece: list[int]
) -> None:
    automaton = automaton_of(text)
    assert (state_of(automaton, piece) is not None) == (n_occurrences(text, piece) > 0)


@given(texts())
def test_counts_are_exact_up_to_the_counted_length(text: list[int]) -> None:
    automaton = automaton_of(text)
    for begin in range(len(text)):
        for length in range(1, min(COUNTED_LENGTH, len(text) - begin) + 1):
            piece = text[begin : begin + length]
            state = state_of(automaton, piece)
            assert state is not None
            assert automaton.count(state) == n_occurrences(text, piece)


@given(texts())
def test_the_automaton_stays_within_two_states_a_token(text: list[int]) -> None:
    automaton = automaton_of(text)
    assert automaton.n_tokens == len(text)
    assert automaton.n_states <= max(2, 2 * len(text))


@given(texts(), st.integers(1, COUNTED_LENGTH))
def test_the_longest_match_is_the_one_a_scan_finds(text: list[int], max_length: int) -> None:
    automaton = automaton_of(text)
    state, length = automaton.longest_match(max_length)
    assert length == longest_match_by_scan(text, max_length)
    assert state == state_of(automaton, text[len(text) - length :])


@given(texts())
def test_the_ending_states_are_those_of_the_text_s_suffixes(text: list[int]) -> None:
    automaton = automaton_of(text)
    longest = min(COUNTED_LENGTH, len(text))
    by_scan = {state_of(automaton, text[-length:]) for length in range(1, longest + 1)}
    assert automaton.ending_states() == by_scan


@given(texts(), suffix_options)
def test_the_match_length_is_the_one_a_scan_finds(text: list[int], chosen: SuffixOptions) -> None:
    drafter = SuffixDrafter(chosen)
    drafter.observe(text)
    assert drafter.match_length == longest_match_by_scan(text, chosen.max_match)


@given(texts(), suffix_options, st.integers(0, 24))
def test_a_proposal_is_a_valid_tree_within_its_bounds(
    text: list[int], chosen: SuffixOptions, n_nodes: int
) -> None:
    drafter = SuffixDrafter(chosen)
    drafter.observe(text)
    tree = drafter.propose(n_nodes)
    TokenTree(tree.tokens, tree.parents, p=tree.p)
    assert len(tree) <= n_nodes
    assert tree.p is not None
    assert tree.p.dtype == np.float32
    assert ((tree.p >= np.float32(chosen.min_p)) & (tree.p > 0) & (tree.p < 1)).all()
    assert len(tree) == 0 or tree.depths.max() < chosen.max_depth
    below = tree.parents >= 0
    assert (tree.p[below] <= tree.p[tree.parents[below]]).all()


@given(texts(), suffix_options)
def test_alternatives_never_claim_more_than_their_parent(
    text: list[int], chosen: SuffixOptions
) -> None:
    drafter = SuffixDrafter(chosen)
    drafter.observe(text)
    tree = drafter.propose(64)
    assert tree.p is not None
    for parent in range(-1, len(tree)):
        p_parent = 1.0 if parent < 0 else tree.p[parent]
        assert tree.p[tree.parents == parent].sum() <= p_parent + 1e-6


@given(texts(), suffix_options)
def test_every_proposed_path_followed_a_suffix_of_the_text_before(
    text: list[int], chosen: SuffixOptions
) -> None:
    drafter = SuffixDrafter(chosen)
    drafter.observe(text)
    tree = drafter.propose(24)
    for node in range(len(tree)):
        path = tree.tokens[tree.path(node)].tolist()
        assert n_occurrences(text, text[-chosen.min_match :] + path) > 0


@given(texts(), st.integers(1, 3))
def test_without_a_threshold_everything_that_followed_is_proposed(
    text: list[int], min_match: int
) -> None:
    drafter = SuffixDrafter(SuffixOptions(min_match=min_match, min_p=0.0))
    drafter.observe(text)
    tree = drafter.propose(1000)
    ending = text[-min_match:]
    followed = {
        text[end]
        for end in range(min_match, len(text))
        if len(ending) == min_match and text[end - min_match : end] == ending
    }
    assert set(tree.tokens[tree.parents == -1].tolist()) == followed


@given(texts(), st.data())
def test_observing_in_pieces_equals_observing_at_once(text: list[int], data: st.DataObject) -> None:
    at_once, in_pieces = SuffixDrafter(), SuffixDrafter()
    at_once.observe(text)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        in_pieces.observe(text[begin:end])
        in_pieces.propose(4)
    assert described(at_once.propose(16)) == described(in_pieces.propose(16))


@given(texts(), texts())
def test_reset_forgets(before: list[int], after: list[int]) -> None:
    reused, fresh = SuffixDrafter(), SuffixDrafter()
    reused.observe(before)
    reused.reset()
    assert len(reused.propose(16)) == 0
    reused.observe(after)
    fresh.observe(after)
    assert described(reused.propose(16)) == described(fresh.propose(16))
