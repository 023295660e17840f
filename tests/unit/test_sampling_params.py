"""SamplingParams: neutral by default, and nothing invalid gets past them."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from pytreellama.errors import SamplerError
from pytreellama.sampling.params import MAX_SEED, SamplingParams


def test_the_defaults_are_plain_greedy_decoding() -> None:
    params = SamplingParams()
    assert params.is_greedy
    assert not params.is_constrained
    assert params.n_history == 0


@pytest.mark.parametrize(
    "options",
    [
        {"top_k": 5},
        {"top_p": 0.5},
        {"min_p": 0.5},
        {"top_n_sigma": 1.0},
        {"penalty_last_n": 10},
        {"repeat_penalty": 2.0, "penalty_last_n": 0},
        {"dry_multiplier": 1.0, "dry_penalty_last_n": 0},
        {"logit_bias": {3: 0.0}},
        {"seed": 7},
    ],
)
def test_what_cannot_move_the_argmax_leaves_it_greedy(options: dict[str, Any]) -> None:
    assert SamplingParams(**options).is_greedy


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.1},
        {"typical_p": 0.9},
        {"xtc_probability": 0.1},
        {"repeat_penalty": 1.1},
        {"frequency_penalty": 0.1},
        {"presence_penalty": -0.1},
        {"dry_multiplier": 0.8},
        {"logit_bias": {3: -1.0}},
        {"grammar": 'root ::= "a"'},
        {"json_schema": {}},
    ],
)
def test_what_can_move_the_argmax_is_not_greedy(options: dict[str, Any]) -> None:
    assert not SamplingParams(**options).is_greedy


def test_history_is_the_longest_that_an_active_stage_looks_at() -> None:
    penalties = SamplingParams(repeat_penalty=1.2, penalty_last_n=10)
    both = SamplingParams(
        repeat_penalty=1.2, penalty_last_n=10, dry_multiplier=1.0, dry_penalty_last_n=99
    )
    assert (penalties.n_history, both.n_history) == (10, 99)


NUMBERS = [
    field.name
    for field in dataclasses.fields(SamplingParams)
    if isinstance(field.default, (int, float))
]


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1e9, 1e39, "1", None, True, [1]])
def test_a_value_that_is_no_number_in_range_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(SamplerError, match=name):
        SamplingParams(**{name: value})


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 1e-9},
        {"top_k": 1.5},
        {"top_p": 1.01},
        {"xtc_threshold": 0.6},
        {"repeat_penalty": 0.0},
        {"mirostat": 3, "temperature": 1.0},
        {"mirostat": 2},
        {"mirostat": 2, "temperature": 1.0, "top_k": 4},
        {"temperature": 0.5, "dynatemp_range": 0.5},
        {"dynatemp_range": 0.1},
        {"seed": -1},
        {"seed": MAX_SEED + 1},
        {"seed": 1.0},
        {"grammar": 'root ::= "a"', "json_schema": {}},
        {"grammar": b'root ::= "a"'},
        {"json_schema": ["object"]},
        {"logit_bias": {-1: 1.0}},
        {"logit_bias": {"3": 1.0}},
        {"logit_bias": {3: math.nan}},
        {"logit_bias": {3: math.inf}},
        {"logit_bias": [(3, 1.0)]},
        {"dry_sequence_breakers": "\n"},
        {"dry_sequence_breakers": ("",)},
        {"dry_sequence_breakers": ("a\0b",)},
        {"dry_sequence_breakers": ("\ud800",)},
        {"dry_sequence_breakers": ("x" * 41,)},
    ],
)
def test_values_that_llama_cpp_must_not_see_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(SamplerError):
        SamplingParams(**options)


def test_the_largest_seed_is_allowed() -> None:
    assert SamplingParams(seed=MAX_SEED).seed == MAX_SEED


def test_a_ban_is_the_one_infinity_allowed() -> None:
    assert SamplingParams(logit_bias={3: -math.inf}).logit_bias == {3: -math.inf}


def test_the_biases_are_a_copy_and_neutral_ones_are_dropped() -> None:
    biases = {1: 2.0, 2: 0.0}
    params = SamplingParams(logit_bias=biases)
    biases[1] = 5.0
    assert params.logit_bias == {1: 2.0}


def test_params_are_hashable_and_replaceable() -> None:
    params = SamplingParams(temperature=0.7, logit_bias={1: 2.0})
    assert hash(params) == hash(dataclasses.replace(params))
    assert dataclasses.replace(params, top_k=3).top_k == 3
    with pytest.raises(SamplerError, match="top_p"):
        dataclasses.replace(params, top_p=2.0)


@pytest.mark.parametrize("value", [10**400, -(10**9000)], ids=["long", "too long to be written"])
@pytest.mark.parametrize("name", ["temperature", "top_k", "seed", "penalty_last_n", "logit_bias"])
def test_numbers_of_thousands_of_digits_are_refused(name: str, value: Any) -> None:
    with pytest.raises(SamplerError) as caught:
        options: dict[str, Any] = {name: {1: value} if name == "logit_bias" else value}
        SamplingParams(**options)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("n", [33, 10**6])
def test_more_sequence_breakers_than_can_be_looked_for_are_refused(n: int) -> None:
    with pytest.raises(SamplerError, match="at most 32 are allowed"):
        SamplingParams(dry_sequence_breakers=tuple(map(str, range(n))))


@pytest.mark.parametrize("breakers", [None, 5, b"ab", (1, 2)])
def test_sequence_breakers_that_are_no_texts_are_refused(breakers: Any) -> None:
    with pytest.raises(SamplerError, match="must be"):
        SamplingParams(dry_sequence_breakers=breakers)
