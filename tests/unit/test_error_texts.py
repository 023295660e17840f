"""Messages about wrong names repeat the name, list the valid ones, and suggest a close one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytreellama.draft import DRAFTERS, drafter_factory
from pytreellama.errors import DraftError, TreeError, did_you_mean, not_one_of
from pytreellama.tree import TokenTree

NAMES = st.lists(st.text("abcdefgh", min_size=4, max_size=12), min_size=1, unique=True)


@given(NAMES, st.data())
def test_a_name_in_capitals_is_taken_for_the_name(names: list[str], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(names))
    assert did_you_mean(name.upper(), names) == f"; did you mean {name!r}?"


@given(st.text("xyz", min_size=1), NAMES)
def test_a_name_of_other_letters_gets_no_suggestion(typed: str, names: list[str]) -> None:
    assert did_you_mean(typed, names) == ""


@pytest.mark.parametrize("typed", [3, None, ["a"], "a" * 10_000])
def test_what_cannot_be_a_name_gets_no_suggestion(typed: object) -> None:
    assert did_you_mean(typed, ["aaaa", "bbbb"]) == ""


@given(NAMES)
def test_the_message_lists_the_valid_names_in_order(names: list[str]) -> None:
    told = not_one_of("color", "zzz", names)
    assert told == f"invalid color='zzz': expected one of {', '.join(names)}"


@pytest.mark.parametrize("name", sorted(DRAFTERS))
def test_a_drafter_with_a_letter_twice_is_suggested(name: str) -> None:
    with pytest.raises(DraftError, match=f"invalid drafter=.*did you mean '{name}'"):
        drafter_factory(name + name[-1])


def test_a_draft_model_that_is_not_there_is_refused_at_once() -> None:
    with pytest.raises(DraftError, match=r"there is no draft model draft\.gguf; give the path"):
        drafter_factory("suffix+draft.gguf")


@pytest.mark.parametrize("given", ["draft", 5])
def test_what_is_no_drafter_is_told_of_draft_models(given: object) -> None:
    with pytest.raises(DraftError, match="or give the GGUF file of a draft model"):
        drafter_factory(given)  # type: ignore[arg-type]


def test_a_misspelt_key_of_a_tree_is_suggested() -> None:
    with pytest.raises(TreeError, match="did you mean 'parents'"):
        TokenTree.from_dict({"tokens": [1], "parents": [-1], "parnts": [-1]})
