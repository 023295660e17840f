"""What guesses are called is how often they come true, also while that changes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from planning import drafted_trees, estimated
from pytreellama.draft import EMPTY_TREE, Acceptance
from pytreellama.errors import DraftError
from pytreellama.plan import Candidates
from pytreellama.tree import TokenTree
from strategies import path_to

N_GUESSES, N_LEARNING, WINDOW = 3000, 300, 600
RIGHT, WRONG = 1, 9
UNSHRUNK = (Phase.explicit, Phase.generate)  # no seed is simpler than another

Truth = Callable[[np.ndarray, float], np.ndarray]

# how often a call of p comes true when a share t of the time is over; it changes in the middle
TRUTHS: dict[str, Truth] = {
    "bold, then meek": lambda p, t: p**2 if t < 0.5 else p**0.5,
    "meek, then bold": lambda p, t: p**0.5 if t < 0.5 else p**2.5,
    "half as good": lambda p, t: p if t < 0.5 else 0.5 * p,
    "useless, then good": lambda p, t: np.full_like(p, 0.05) if t < 0.5 else p,
    "ever bolder": lambda p, t: p ** (0.5 + 1.5 * t),
    "ever meeker": lambda p, t: p ** (2.5 - 1.9 * t),
}


def error_of(called: np.ndarray, truth: np.ndarray) -> float:
    """The expected calibration error, over tenths of what was called."""
    tenth = np.minimum((called * 10).astype(int), 9)
    gaps = (called[tenth == i] - truth[tenth == i] for i in range(10))
    return sum(abs(gap.sum()) for gap in gaps) / len(called)


def error_over_time(when: np.ndarray, called: np.ndarray, truth: np.ndarray) -> float:
    """The mean over windows; the first guesses and the first after the change are to learn in."""
    half = N_GUESSES // 2
    starts = [s for h in (0, half) for s in range(h + N_LEARNING, h + half - WINDOW + 1, WINDOW)]
    windows = [(when >= start) & (when < start + WINDOW) for start in starts]
    return float(np.mean([error_of(called[w], truth[w]) for w in windows]))


@pytest.mark.parametrize("truth", TRUTHS.values(), ids=list(TRUTHS))
@settings(max_examples=3, phases=UNSHRUNK)
@given(seed=st.integers(0, 2**32 - 1), spread=st.sampled_from([0.5, 1.0, 2.0]))
def test_a_drifting_drafter_is_called_right(truth: Truth, seed: int, spread: float) -> None:
    """It guesses two tokens at a time; the second is judged if the first came."""
    rng = np.random.default_rng(seed)
    acceptance = Acceptance(1)
    judged: list[tuple[int, float, float, float]] = []
    for i in range(N_GUESSES):
        q = rng.beta(spread, spread, 2)
        q_true = truth(q, i / N_GUESSES)
        candidates = estimated(
            Candidates.of([TokenTree.chain([RIGHT] * 2, q.cumprod())]), acceptance
        )
        came_true = rng.random(2) < q_true
        went_on = [RIGHT if came else WRONG for came in came_true[: 1 + came_true[0]]]
        for node, _ in candidates.outcomes(went_on):
            judged.append((i, candidates.p_token[node], q[node], q_true[node]))
        acceptance.learn(candidates, went_on)
    when, called, said, was = (np.array(column) for column in zip(*judged, strict=True))
    assert error_over_time(when, called, was) < 0.05
    assert error_over_time(when, said, was) > 0.06, "what was said needed no calibration"


# -- drafters that agree


def estimates_when_two_speak(n: int, agree_by_chance: bool, seed: int) -> tuple[float, float]:
    """Of a guess of both and of one of the first alone, each called 0.6, after n steps.

    Each of them is right 6 times in 10. By chance they err independently of each other and never
    in the same way; else the second repeats the first.
    """
    rng = np.random.default_rng(seed)
    acceptance = Acceptance(2)
    for _ in range(n):
        first = RIGHT if rng.random() < 0.6 else 2
        second = (RIGHT if rng.random() < 0.6 else 3) if agree_by_chance else first
        trees = [TokenTree.chain([token], [0.6]) for token in (first, second)]
        acceptance.learn(estimated(Candidates.of(trees), acceptance), [RIGHT])
    one, other = TokenTree.chain([5], [0.6]), TokenTree.chain([6], [0.6])
    (both,) = estimated(Candidates.of([one, one]), acceptance).p
    return both, estimated(Candidates.of([one, other]), acceptance).p[0]


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=10, phases=UNSHRUNK)
def test_agreement_is_worth_what_it_turns_out_to_be(seed: int) -> None:
    both, alone = estimates_when_two_speak(400, agree_by_chance=True, seed=seed)
    assert both > 0.85, "they are right whenever they agree"
    assert alone < 0.55, "3 times in 8"
    both, _ = estimates_when_two_speak(400, agree_by_chance=False, seed=seed)
    assert both == pytest.approx(0.6, abs=0.15), "an echo adds nothing"


def test_agreement_counts_before_anything_is_known() -> None:
    both, alone = estimates_when_two_speak(0, agree_by_chance=True, seed=0)
    assert both > 0.6 > alone > 0.45


# -- what is known at first, and what never holds


@given(st.lists(st.floats(0.0, 1.0), min_size=2, max_size=8), st.integers(0, 15))
def test_a_lone_drafter_is_nearly_taken_at_its_word(p: list[float], who: int) -> None:
    def first_estimate(said: float) -> float:
        trees = [EMPTY_TREE] * who + [TokenTree.chain([1], [said])]
        return estimated(Candidates.of(trees)).p[0]

    called = [first_estimate(said) for said in sorted(p)]
    assert called == sorted(called)
    assert called == pytest.approx(sorted(p), abs=0.15)


texts = st.lists(st.integers(0, 3), max_size=6)
experience = st.lists(st.tuples(drafted_trees(max_nodes=6), texts), max_size=12)


@given(experience, drafted_trees())
def test_estimates_are_probabilities_that_never_rise_with_depth(
    heard: list[tuple[list[TokenTree], list[int]]], trees: list[TokenTree]
) -> None:
    acceptance = Acceptance(3)
    for past, went_on in heard * 8:
        acceptance.learn(estimated(Candidates.of(past), acceptance), went_on)
    candidates = estimated(Candidates.of(trees), acceptance)
    assert len(candidates.p) == len(candidates.p_token) == len(candidates)
    for parent, p, p_token in zip(
        candidates.union.parents, candidates.p, candidates.p_token, strict=True
    ):
        above = candidates.p[parent] if parent >= 0 else 1.0
        assert 0.0 < p_token < 1.0
        assert 0.0 < p <= above
        assert p == pytest.approx(above * p_token)
    order = candidates.by_p()
    assert all(
        order.index(p) < order.index(n) for n, p in enumerate(candidates.union.parents) if p >= 0
    )


@pytest.mark.parametrize("n_drafters", [0, 17])
def test_too_few_or_too_many_drafters_are_refused(n_drafters: int) -> None:
    with pytest.raises(DraftError, match=f"invalid n_drafters={n_drafters}"):
        Acceptance(n_drafters)


# -- who is judged


@given(drafted_trees(), texts)
def test_guesses_are_judged_when_their_turn_came(
    trees: list[TokenTree], went_on: list[int]
) -> None:
    candidates = Candidates.of(trees)
    union = candidates.union
    expected = []
    for node in range(len(candidates)):
        *above, token = (union.tokens[n] for n in path_to(union.parents, node))
        if len(went_on) > len(above) and went_on[: len(above)] == above:
            expected.append((node, went_on[len(above)] == token))
    assert candidates.outcomes(went_on) == expected


@given(experience, drafted_trees(), texts)
def test_a_guess_whose_turn_never_came_teaches_nothing(
    heard: list[tuple[list[TokenTree], list[int]]], trees: list[TokenTree], went_on: list[int]
) -> None:
    acceptance = Acceptance(3)
    for past, text in heard:
        acceptance.learn(estimated(Candidates.of(past), acceptance), text)
    before = estimated(Candidates.of(trees), acceptance)
    acceptance.learn(before, went_on)
    after = estimated(Candidates.of(trees), acceptance)
    judged = {before.kinds[node] for node, _ in before.outcomes(went_on)}
    for kind, was, is_now in zip(before.kinds, before.p_token, after.p_token, strict=True):
        assert kind in judged or was == is_now


@given(st.floats(0.05, 0.95), st.booleans())
def test_a_judged_guess_teaches_in_the_direction_of_what_came(p: float, came: bool) -> None:
    acceptance = Acceptance(1)
    candidates = estimated(Candidates.of([TokenTree.chain([RIGHT], [p])]), acceptance)
    acceptance.learn(candidates, [RIGHT if came else WRONG])
    (after,) = estimated(Candidates.of([TokenTree.chain([RIGHT], [p])]), acceptance).p
    assert (after > candidates.p[0]) is came


def test_first_children_and_others_roots_and_later_ones_are_told_apart() -> None:
    tree = TokenTree([1, 2, 3, 4], [-1, -1, 0, 0], [0.5, 0.5, 0.25, 0.25])
    kinds = estimated(Candidates.of([tree])).kinds
    assert len(set(kinds)) == 4
    (kind,) = estimated(Candidates.of([EMPTY_TREE, TokenTree.chain([1], [0.5])])).kinds
    assert kind not in kinds


def test_probabilities_are_needed_to_weigh_guesses() -> None:
    with pytest.raises(DraftError, match="drafter 1 proposed 2 nodes without probabilities"):
        Candidates.of([TokenTree.chain([1], [0.5]), TokenTree.chain([1, 2])])
