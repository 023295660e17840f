"""What a conditioned draft expected of a text, and what came instead."""

from __future__ import annotations

import numpy as np
import pytest

from pytreellama.draft.calibration import Calibration, TextCalibration
from pytreellama.draft.conditioned_text import ConditionedText, Node
from pytreellama.draft.growth import TRUNK, Level, Row

STATE = np.zeros(2, np.float32)
ROWS: dict[str, Row] = {
    "root": ([5, 6], [0.6, 0.3]),
    "5": ([7, 8], [0.5, 0.2]),
    "6": ([9, 5], [0.9, 0.1]),
    "5 7": ([5, 6], [0.4, 0.4]),
}


@pytest.fixture
def text() -> ConditionedText:
    """A text of one token, and a tree of three nodes that the draft has read."""
    text = ConditionedText(first=0)
    text.go_on([1])
    text.root = Node(ROWS["root"], STATE)
    nodes = [Node(ROWS[name], STATE) for name in ("5", "6", "5 7")]
    assert text.add_nodes(Level([5, 6], [TRUNK, TRUNK], 0.9), nodes[:2]) == [0, 1]
    assert text.add_nodes(Level([7], [0], 0.3), nodes[2:]) == [2]
    return text


@pytest.mark.parametrize(
    ("tokens", "read"),
    [
        ([4, 7], ["root"]),
        ([5, 7, 6, 5], ["root", "5", "5 7"]),
        ([5, 8, 7], ["root", "5"]),
        ([6], ["root"]),
        ([], []),
    ],
)
def test_outcomes_are_told_as_far_as_the_draft_has_read(
    text: ConditionedText, tokens: list[int], read: list[str]
) -> None:
    outcomes = text.go_on(tokens)
    assert outcomes == [(ROWS[name], token) for name, token in zip(read, tokens, strict=False)]
    assert text.tokens == [1, *tokens]


def test_nothing_was_expected_of_a_text_that_was_not_read(text: ConditionedText) -> None:
    text.go_on([5])
    assert text.go_on([7]) == []


def test_a_tree_that_grows_again_begins_anew(text: ConditionedText) -> None:
    text.drop_nodes()
    text.add_nodes(Level([6], [TRUNK], 0.3), [Node(ROWS["6"], STATE)])
    assert text.go_on([6, 9]) == [(ROWS["root"], 6), (ROWS["6"], 9)]


def test_texts_learn_apart_and_teach_those_that_come() -> None:
    shared = Calibration(2)
    first, second = TextCalibration(shared), TextCalibration(shared)
    before = first.belief([0.6, 0.3])
    assert before == pytest.approx([0.6, 0.3])
    first.learn([(ROWS["root"], 9)] * 40)
    assert first.belief([0.6, 0.3])[0] < 0.3
    assert second.belief([0.6, 0.3]) == before
    assert TextCalibration(shared).belief([0.6, 0.3])[0] < 0.3


def test_without_a_calibration_probabilities_stay() -> None:
    calibration = TextCalibration(None)
    calibration.learn([(ROWS["root"], 9)] * 40)
    assert calibration.belief([0.6, 0.3]) == [0.6, 0.3]
