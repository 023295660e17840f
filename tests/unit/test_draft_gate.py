"""Whether a request drafts at all."""

from __future__ import annotations

from pytreellama.plan import DraftGate


def run(gate: DraftGate, saved_s: float, cost_s: float, n_steps: int) -> int:
    """How many of so many steps are drafted for, if each draft saves and costs so much."""
    n_drafted = 0
    for _ in range(n_steps):
        if gate.opens():
            n_drafted += 1
            gate.learn(saved_s, cost_s)
    return n_drafted


def test_a_request_whose_drafts_pay_drafts_at_every_step() -> None:
    assert run(DraftGate(), saved_s=2e-3, cost_s=1e-3, n_steps=200) == 200


def test_a_request_whose_drafts_do_not_pay_is_plain_for_most_steps() -> None:
    n_drafted = run(DraftGate(), saved_s=0.0, cost_s=1e-4, n_steps=1000)
    assert 1000 / 20 <= n_drafted <= 1000 / 8


def test_the_backoff_grows_and_starts_again_after_the_gate_has_opened() -> None:
    gate = DraftGate()
    assert run(gate, 0.0, 1e-4, 60) < 24
    early = run(gate, 0.0, 1e-4, 60)
    assert early <= 6
    assert run(gate, 5e-3, 1e-4, 60) > 40
    run(gate, -1.0, 1e-4, 4)  # a shock
    assert gate.is_backing_off


def test_a_text_that_changes_is_noticed_within_some_tens_of_steps() -> None:
    gate = DraftGate()
    run(gate, saved_s=0.0, cost_s=1e-4, n_steps=500)
    assert gate.is_backing_off
    run(gate, saved_s=2e-3, cost_s=1e-4, n_steps=40)
    assert not gate.is_backing_off


def test_the_gate_foretells_its_next_answer() -> None:
    gate = DraftGate()
    answers = []
    for _ in range(300):
        foretold = gate.opens_next
        answers.append(gate.opens())
        assert answers[-1] is foretold
        if answers[-1]:
            gate.learn(0.0, 1e-4)
    assert set(answers) == {True, False}
