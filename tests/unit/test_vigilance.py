"""Whether a text is drafted for at all."""

from __future__ import annotations

from pytreellama.plan import Vigilance


def run(vigilance: Vigilance, saved_s: float, cost_s: float, n_steps: int) -> int:
    """How many of so many steps are drafted for, if each look saves and costs so much."""
    n_looks = 0
    spent_s = 0.0
    vigilance.rest(spent_s)
    for _ in range(n_steps):
        if vigilance.looks():
            n_looks += 1
            spent_s += cost_s
            vigilance.learn(saved_s, spent_s)
    return n_looks


def test_a_text_whose_guesses_pay_is_drafted_for_at_every_step() -> None:
    assert run(Vigilance(), saved_s=2e-3, cost_s=1e-3, n_steps=200) == 200


def test_a_text_whose_guesses_do_not_pay_rests_for_most_steps() -> None:
    n_looks = run(Vigilance(), saved_s=0.0, cost_s=1e-4, n_steps=1000)
    assert 1000 / 20 <= n_looks <= 1000 / 8


def test_rests_grow_longer_and_begin_anew_after_waking() -> None:
    vigilance = Vigilance()
    assert run(vigilance, 0.0, 1e-4, 60) < 24
    early = run(vigilance, 0.0, 1e-4, 60)
    assert early <= 6
    assert run(vigilance, 5e-3, 1e-4, 60) > 40
    run(vigilance, -1.0, 1e-4, 4)  # a shock
    assert vigilance.is_resting


def test_a_resting_text_that_changes_is_noticed_within_some_tens_of_steps() -> None:
    vigilance = Vigilance()
    run(vigilance, saved_s=0.0, cost_s=1e-4, n_steps=500)
    assert vigilance.is_resting
    run(vigilance, saved_s=2e-3, cost_s=1e-4, n_steps=40)
    assert not vigilance.is_resting


def test_what_a_look_costs_leaves_out_what_was_spent_before_it() -> None:
    vigilance = Vigilance()
    spent_s = 0.0
    for _ in range(50):
        spent_s += 1.0  # of others' making
        vigilance.rest(spent_s)
        spent_s += 1e-4
        assert vigilance.looks()
        vigilance.learn(1e-3, spent_s)
