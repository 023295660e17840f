"""Token ids from users: what is an integer of the vocabulary is taken, and all else is refused."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytreellama import Model
from pytreellama.engine.prompts import PromptEncoder
from pytreellama.errors import RequestError

INTEGERS = st.one_of(
    st.integers(-3, 400),
    st.integers(-(2**70), 2**70),
    st.booleans(),
    st.integers(0, 255).map(np.uint8),
    st.integers(-9, 400).map(np.int64),
)
OTHERS: st.SearchStrategy[Any] = st.one_of(
    st.none(), st.floats(), st.text(max_size=2), st.just([]), st.just([5])
)
FORMS: dict[str, Callable[[list[Any]], Any]] = {
    "list": list,
    "tuple": tuple,
    "iterator": iter,
}


@pytest.fixture(scope="module")
def encoder(tiny_model: Callable[..., Model]) -> Iterator[PromptEncoder]:
    yield PromptEncoder(tiny_model("rope"), 64)


@given(st.lists(INTEGERS, max_size=6), st.sampled_from(["list", "tuple", "iterator"]))
def test_integers_of_the_vocabulary_are_taken_in_any_form(
    encoder: PromptEncoder, tokens: list[Any], form: str
) -> None:
    ids = list(map(operator.index, tokens))
    given_tokens = FORMS[form](tokens)
    if all(0 <= token < encoder._vocab.n_tokens for token in ids):
        array = encoder.array(given_tokens, "prompt")
        assert array.tolist() == ids
        assert array.dtype == np.int32
        return
    wrong = next(token for token in ids if not 0 <= token < encoder._vocab.n_tokens)
    with pytest.raises(RequestError, match=f"token id {wrong} is not in the vocabulary"):
        encoder.array(given_tokens, "prompt")


@given(st.lists(INTEGERS, max_size=3), OTHERS, st.lists(INTEGERS, max_size=3))
def test_what_is_no_integer_is_refused(
    encoder: PromptEncoder, before: list[Any], other: Any, after: list[Any]
) -> None:
    with pytest.raises(RequestError, match="give a list of token ids"):
        encoder.array([*before, other, *after], "prompt")


def test_a_users_array_may_change_later(encoder: PromptEncoder) -> None:
    tokens = np.array([5, 6], np.int32)
    ids = encoder.array(tokens, "prompt")
    tokens[0] = 9
    assert ids.tolist() == [5, 6]
