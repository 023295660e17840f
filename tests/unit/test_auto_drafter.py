"""The drafter that a policy asks: what pauses and resumes hears the same text."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest

from pytreellama import TokenTree
from pytreellama.draft import EMPTY_TREE, Auto, AutoDrafter, NGram, Suffix
from pytreellama.errors import DraftError
from pytreellama.tree.guesses import Guesses

TEXT = [5, 6, 7, 8, 9] * 4


def fresh() -> AutoDrafter:
    return Auto(Suffix(), NGram())()


def asked(drafter: AutoDrafter, n_nodes: int, min_p: float) -> Guesses:
    """What all its drafters guess."""
    return drafter.combine([drafter.ask(i, n_nodes, min_p) for i in range(drafter.n_drafters)])


def guessed(drafter: AutoDrafter) -> list[tuple[int, int, float]]:
    drafter.resume()
    guesses = asked(drafter, 16, 0.05)
    return list(zip(guesses.union.tokens, guesses.union.parents, guesses.p, strict=True))


def test_what_was_committed_in_a_pause_is_heard_before_the_next_guess() -> None:
    paused, awake = fresh(), fresh()
    for drafter in (paused, awake):
        drafter.observe(TEXT)
    paused.pause()
    for token in (7, 8, 5, 6):
        paused.observe([token])
        awake.observe([token])
    assert guessed(paused) == guessed(awake)


def test_proposing_in_a_pause_hears_it_too() -> None:
    drafter = fresh()
    drafter.observe(TEXT[:-1])
    drafter.pause()
    drafter.observe(TEXT[-1:])
    assert drafter.propose(2).tokens.tolist() == [5, 6]


def test_a_reset_forgets_what_was_not_heard() -> None:
    drafter = fresh()
    drafter.observe(TEXT)
    drafter.pause()
    drafter.observe([5, 6])
    drafter.reset()
    assert guessed(drafter) == []


class Reader:
    """A drafter that keeps what it hears."""

    name = "reader"
    wants_hidden = True

    def __init__(self) -> None:
        self.heard: list[object] = []

    def observe_hidden(self, states: np.ndarray) -> None:
        self.heard.append(states.tolist())

    def observe(self, tokens: list[int]) -> None:
        self.heard.append(list(tokens))

    def propose(self, n_nodes: int) -> TokenTree:
        return EMPTY_TREE

    def reset(self) -> None:
        self.heard.clear()


def test_hidden_states_are_wanted_in_a_pause_just_before_the_next_draft() -> None:
    drafter = Auto(Suffix(), cast(Any, Reader))()
    assert drafter.wants_hidden
    for drafts_next in (False, False, True, False):
        drafter.pause(drafts_next)
        assert drafter.wants_hidden is drafts_next
    drafter.resume()
    assert drafter.wants_hidden


def test_drafters_that_read_no_states_want_none() -> None:
    assert not fresh().wants_hidden


def test_a_state_that_came_in_a_pause_is_told_before_its_token() -> None:
    reader = Reader()
    drafter = AutoDrafter([cast(Any, reader)])
    drafter.pause()
    drafter.observe([5])
    drafter.observe_hidden(np.ones((1, 2), np.float32))
    drafter.observe([6])
    drafter.resume()
    assert reader.heard == [[[1.0, 1.0]], [5, 6]]


def test_guesses_below_the_given_p_are_not_searched_for() -> None:
    forked = [1, 2, 3, 1, 2, 4, 1, 2, 5, 1, 2, 6, 1, 2]
    for factory in (Suffix(min_p=0.1), NGram(min_p=0.1)):
        drafter = factory()
        drafter.observe(forked)
        eager, wary = drafter.grow_likely(32, 0.001), drafter.grow_likely(32, 0.3)
        assert len(eager.p) > len(drafter.propose(32)) >= len(wary.p)
        assert all(p >= 0.3 for p in wary.p)
        assert np.isclose(sum(eager.p[:1]), np.asarray(drafter.propose(32).p)[:1].sum())


@pytest.mark.parametrize("expects", [False, True])
def test_only_expected_guesses_are_learned_from(expects: bool) -> None:
    drafter = fresh()
    drafter.observe(TEXT)
    drafts = [drafter.ask(i, 4, 0.05) for i in range(drafter.n_drafters)]
    guesses = drafter.combine(drafts)
    if expects:
        drafter.expect(guesses)
    drafter.observe([99])  # refuses them all
    assert (drafter.combine(drafts).p < guesses.p) is expects


class Certain:
    """Proposes one token without saying how likely it is."""

    name = "certain"

    def observe(self, tokens: object) -> None: ...
    def reset(self) -> None: ...
    def propose(self, n_nodes: int) -> TokenTree:
        return TokenTree.chain([7][:n_nodes])


def test_a_drafter_without_probabilities_cannot_be_planned_with() -> None:
    drafter = Auto(Certain)()
    drafter.observe(TEXT)
    with pytest.raises(DraftError, match="'certain' proposed 1 nodes without probabilities"):
        drafter.ask(0, 4, 0.0)


def test_there_must_be_a_drafter() -> None:
    with pytest.raises(DraftError, match="at least one"):
        Auto()
