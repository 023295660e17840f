"""The simulator: what a recording holds, and what replays of it come to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import policies
import simulate
from lib import recording as recordings
from pytreellama.plan import CostCurve, PassCost
from pytreellama.tree import TokenTree

PLAIN_S = 0.01
DRAFTERS = ("suffix", "ngram")  # these need no native build
CYCLE = [5, 6, 7, 8, 9, 10]


@pytest.fixture
def target(tmp_path: Path) -> Any:
    """Of one answer that repeats itself and one that never does, without any rows."""
    recording = recordings.Recording("none.gguf", 60)
    answers = {"repeating": CYCLE * 10, "new": list(range(100, 160))}
    for kind, text in answers.items():
        recording.answers.append(recordings.Answer(kind, [1, 2, 3], text))
    return recordings.Target(recording, tmp_path / "recording")


def curve(price: float) -> CostCurve:
    """A node more costs so many plain steps."""
    return CostCurve.fit(
        [PassCost(n, read, PLAIN_S * (1 + price * (n - 1))) for n in (1, 64) for read in (0, 100)]
        * 3
    )


def test_a_path_that_lies_on_the_answer_is_a_place_in_it() -> None:
    answer = recordings.Answer("any", [1], [5, 6, 7])
    # below the root two, one right; below that one two; below the wrong one what would be right
    tree = TokenTree([1, 5, 9, 6, 8, 6, 7, 4], [-1, 0, 0, 1, 1, 2, 3, 6])
    assert [place[1:] for place in answer.places(3, 0, tree)] == [
        (0, ()),
        (1, ()),
        (0, (9,)),
        (2, ()),
        (1, (8,)),
        (0, (9, 6)),
        (3, ()),
        (3, (4,)),
    ]
    assert answer.places(3, 2, TokenTree.chain([6, 7]))[1] == (3, 3, ())


def test_a_recording_survives_a_file(tmp_path: Path) -> None:
    recording = recordings.Recording("a.gguf", 7)
    recording.answers = [
        recordings.Answer("one", [1, 2], [3]),
        recordings.Answer("two", [4], [5, 6]),
    ]
    for place in ((0, 0, ()), (1, 2, (8, 9)), (1, 1, (3,))):
        row = np.arange(8, dtype=np.int32) + place[1], np.linspace(5, 0, 8, dtype=np.float32)
        recording.rows[place] = row
    recording.save(tmp_path / "file")
    again = recordings.Recording.load(tmp_path / "file")
    assert (again.model, again.n_tokens, again.answers) == ("a.gguf", 7, recording.answers)
    assert again.rows.keys() == recording.rows.keys()
    for where, (tokens, logits) in recording.rows.items():
        assert again.rows[where][0].tolist() == tokens.tolist()
        assert again.rows[where][1].tolist() == logits.tolist()


def test_only_what_is_known_is_shown_and_the_rest_is_counted(target: Any) -> None:
    row = np.full(8, 4, np.int32), np.zeros(8, np.float32)
    target.recording.rows |= {(0, 0, ()): row, (0, 1, ()): row, (0, 0, (9, 9)): row}
    tree = TokenTree([3, 5, 9, 9], [-1, 0, 0, 2])
    shown, tokens, logits = target.rows(0, 0, tree)
    assert shown == TokenTree([3, 5], [-1, 0])
    assert tokens.shape == logits.shape == (2, 8)
    assert (target.n_asked, target.n_missing) == (4, 1)
    nothing, tokens, _ = target.rows(1, 5, TokenTree([104], [-1]))
    assert len(nothing) == len(tokens) == 0


def test_plain_steps_take_what_they_take(target: Any) -> None:
    free = policies.DraftingCost(0.0, 0.0)
    tally = simulate.replayed(target, policies.Fixed(DRAFTERS, 0, free), curve(0.1))["all"]
    assert (tally.n_tokens, tally.n_steps, tally.n_drafted) == (120, 120, 0)
    assert tally.seconds == pytest.approx(120 * PLAIN_S)


@pytest.mark.parametrize("price", [0.0, 0.2, 1.0])
def test_plans_lie_between_plain_steps_and_foresight(target: Any, price: float) -> None:
    cost, machine = policies.DraftingCost(0.0001, 0.0), curve(price)
    plain = simulate.replayed(target, policies.Fixed(DRAFTERS, 0, cost), machine)
    planned = simulate.replayed(target, policies.Planned(DRAFTERS, machine, cost), machine)
    foresight = simulate.replayed(target, policies.Foresight(DRAFTERS, machine), machine)
    for kind in ("repeating", "new", "all"):
        assert planned[kind].n_tokens == foresight[kind].n_tokens == plain[kind].n_tokens
        assert planned[kind].speed / plain[kind].speed > 0.97
        assert planned[kind].speed <= foresight[kind].speed
    assert planned["new"].n_drafted <= planned["repeating"].n_drafted
    if price < 1.0:
        assert planned["repeating"].speed > 2 * plain["repeating"].speed
    else:
        assert planned["all"].n_drafted == 0


def test_drafting_takes_its_time(target: Any) -> None:
    cost = policies.DraftingCost(0.003, 0.0)
    tally = simulate.replayed(target, policies.Fixed(DRAFTERS, 1, cost), curve(0.0))["new"]
    # the last token needs no guess; drafters are asked for the others, and have none that is right
    assert tally.n_steps == 60
    assert tally.seconds == pytest.approx(60 * PLAIN_S + 59 * 2 * 0.003)


def test_a_calibration_error_is_the_distance_from_what_came_true() -> None:
    tally = simulate.Tally()
    assert tally.calibration_error == 0.0
    tally.judged = [(0.95, True)] * 9 + [(0.95, False)] + [(0.25, False)] * 10
    assert tally.calibration_error == pytest.approx((10 * 0.05 + 10 * 0.25) / 20)
