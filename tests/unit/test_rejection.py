"""Verification by rejection on small trees, step by step."""

from __future__ import annotations

import numpy as np
import pytest

from pytreellama.errors import TreeError
from pytreellama.tree import TokenTree
from pytreellama.verify import Verdict, rejection


class Script:
    """Chance that answers from a list, and notes with which probabilities it was asked."""

    def __init__(self, *answers: bool | int) -> None:
        self.answers = list(answers)
        self.asked: list[float | list[float]] = []

    def accept(self, p: float) -> bool:
        self.asked.append(p)
        answer = self.answers.pop(0)
        assert isinstance(answer, bool)
        return answer

    def draw(self, p: np.ndarray) -> int:
        self.asked.append(p.tolist())
        return int(self.answers.pop(0))


# Node 0 holds 9; below it 1 -> (0, 2) and 3.
TREE = TokenTree([9, 1, 3, 0, 2], [-1, 0, 0, 1, 1])


def rows(*rows: list[float]) -> np.ndarray:
    return np.array(rows)


TARGET = rows([0.1, 0.2, 0.3, 0.4], [0.25] * 4, [0.5, 0.5, 0, 0], [0, 0, 0, 1.0], [0.4, 0.6, 0, 0])
DRAFT = rows([0.1, 0.4, 0.1, 0.4], [0.75, 0, 0.125, 0.125])


def run(chance: Script, tree: TokenTree = TREE) -> Verdict:
    return rejection(tree, TARGET.__getitem__, DRAFT.__getitem__, chance)


def test_accepted_children_lead_to_a_leaf_and_a_draw_of_the_target() -> None:
    chance = Script(True, False, True, 1)
    assert run(chance) == Verdict(path=(0, 1, 4), tokens=(1, 2, 1))
    # 1: 0.2 / 0.4. 0: 0.25 / 0.75. 2: p is (0, 2, 1, 1) / 4 by then, and q (0, 0, 1, 1) / 2.
    assert chance.asked == [0.5, pytest.approx(1 / 3), 0.5, [0.4, 0.6, 0.0, 0.0]]


def test_rejections_take_the_draft_s_share_from_the_target_and_the_token_from_the_draft() -> None:
    chance = Script(False, False, 2)
    assert run(chance) == Verdict(path=(0,), tokens=(2,))
    # max(p - q, 0) = (0, 0, 0.2, 0): token 2 is certain. q without 1 is (1, 0, 1, 4) / 6.
    assert chance.asked == [0.5, 0.0, [0.0, 0.0, 1.0, 0.0]]


def test_a_root_alone_is_a_draw_of_the_target_and_the_draft_is_not_asked() -> None:
    chance = Script(3)

    def nothing(node: int) -> np.ndarray:
        raise AssertionError("there was no child to ask about")

    verdict = rejection(TokenTree.chain([9]), TARGET.__getitem__, nothing, chance)
    assert verdict == Verdict((0,), (3,))
    assert chance.asked == [[0.1, 0.2, 0.3, 0.4]]


@pytest.mark.parametrize("q", [[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]])
def test_children_that_the_draft_could_not_draw_are_accepted_as_matching_would(
    q: list[float],
) -> None:
    chance = Script(False, False, 0)
    tree = TokenTree([9, 1, 3], [-1, 0, 0])
    assert rejection(tree, TARGET.__getitem__, rows(q).__getitem__, chance).tokens == (0,)
    assert chance.asked[:2] == pytest.approx([0.2, 0.4 / 0.8])
    assert chance.asked[2] == pytest.approx([0.25, 0, 0.75, 0])


def test_a_rejection_that_leaves_the_target_nothing_was_rounding_and_does_not_count() -> None:
    just_below = np.nextafter(1.0, 0.0)
    target = rows([just_below / 2, just_below / 2], [1, 0], [1, 0])
    draft = rows([0.5, 0.5])
    tree = TokenTree([9, 0, 1], [-1, 0, 0])

    class Unlucky(Script):
        def accept(self, p: float) -> bool:
            self.asked.append(p)
            return False

    chance = Unlucky(1)
    assert rejection(tree, target.__getitem__, draft.__getitem__, chance).tokens[0] == 0
    assert chance.asked[0] == 1.0


def test_stop_emits_its_token_and_leaves_that_token_s_node_uncommitted() -> None:
    asked: list[int] = []

    def stop(token: int) -> bool:
        asked.append(token)
        return token == 1

    verdict = rejection(TREE, TARGET.__getitem__, DRAFT.__getitem__, Script(True), stop)
    assert verdict == Verdict(path=(0,), tokens=(1,))
    assert asked == [1]


def test_rows_are_read_and_not_changed() -> None:
    target, draft = TARGET.copy(), DRAFT.copy()
    run(Script(False, False, 2))
    assert (target == TARGET).all() and (draft == DRAFT).all()


@pytest.mark.parametrize(
    ("tree", "complaint"),
    [
        (TokenTree.empty(), "empty"),
        (TokenTree([1, 2], [-1, -1]), "with_root"),
        (TokenTree([9, 1, 4], [-1, 0, 0]), "token 4, but the target's row ends at 3"),
    ],
)
def test_trees_that_cannot_be_verified_are_refused(tree: TokenTree, complaint: str) -> None:
    with pytest.raises(TreeError, match=complaint):
        run(Script(), tree)


@pytest.mark.parametrize(
    ("target", "draft", "complaint"),
    [
        ([0.5, 0.5, 0.5, 0], [0, 1, 0, 0], r"target\(0\) sums to 1.5"),
        ([0, 1, 0, 0], [0, 2, -1, 0], r"draft\(0\)\[2\] is -1"),
        ([0, 0, 0, 1], [0, 0, 0.5, 0.25, 0.25], r"draft\(0\) has 5 .* target\(0\) has 4"),
    ],
)
def test_rows_that_are_no_distributions_are_refused_by_name(
    target: list[float], draft: list[float], complaint: str
) -> None:
    with pytest.raises(TreeError, match=complaint):
        rejection(TREE, rows(target).__getitem__, rows(draft).__getitem__, Script())
