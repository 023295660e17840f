"""One call of generate as single requests: their seeds, and the form of the answer."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from pytreellama.engine.generate_call import GenerateCall
from pytreellama.engine.jobs.factory import JobFactory
from pytreellama.engine.options import RequestOptions, SamplingOptions
from pytreellama.engine.request import sampling_params
from pytreellama.errors import RequestError
from pytreellama.sampling.params import MAX_SEED, SamplingParams


def seeds(call: GenerateCall, **options: Any) -> list[Any]:
    return [own.get("seed") for _, own in call.requests(options)]


def test_seeds_count_up_over_prompts_and_completions() -> None:
    assert seeds(GenerateCall(["a", "b"], 3), seed=7) == [7, 8, 9, 10, 11, 12]
    assert seeds(GenerateCall("a", 3), seed=MAX_SEED) == [MAX_SEED, 0, 1]
    assert seeds(GenerateCall(["a", "b"], None), seed=7) == [7, 8]


def test_without_a_seed_there_is_none() -> None:
    assert seeds(GenerateCall("a", 2)) == [None, None]
    assert seeds(GenerateCall("a", 2), seed=None) == [None, None]


@pytest.mark.parametrize("seed", ["7", -1, 2**32, True, 1.5])
def test_what_is_no_seed_is_left_to_be_refused(seed: Any) -> None:
    assert seeds(GenerateCall("a", 2), seed=seed) == [seed, seed]


@pytest.mark.parametrize(
    ("prompt", "n", "answer"),
    [
        ("a", None, 0),
        ("a", 1, [0]),
        ("a", 2, [0, 1]),
        ([5, 6], None, 0),
        (["a"], None, [0]),
        (["a", "b"], None, [0, 1]),
        (["a", "b"], 1, [[0], [1]]),
        (["a", "b"], 2, [[0, 1], [2, 3]]),
        ([{"role": "user", "content": "a"}], None, 0),
        ([[{"role": "user", "content": "a"}]], None, [0]),
    ],
)
def test_the_answer_has_the_form_of_the_question(prompt: Any, n: int | None, answer: Any) -> None:
    call = GenerateCall(prompt, n)
    assert call.arranged(range(len(list(call.requests({}))))) == answer


@pytest.mark.parametrize("n", [0, -1, 1.5, "2", True])
def test_a_number_that_is_none(n: Any) -> None:
    with pytest.raises(RequestError, match=r"invalid n=.*: expected a whole number from 1"):
        GenerateCall("a", n)


def test_typed_options_are_those_that_are_taken() -> None:
    assert SamplingOptions.__annotations__.keys() == SamplingParams.__dataclass_fields__.keys()
    taken = inspect.signature(JobFactory.generate).parameters.keys()
    others = taken - {"self", "prompt", "index", "sampling"}
    assert RequestOptions.__annotations__.keys() == others | SamplingOptions.__annotations__.keys()


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("n_predict", "max_tokens"),
        ("temp", "temperature"),
        ("chat_template_kwargs", "template_variables"),
    ],
)
def test_a_name_of_another_library_is_translated(typed: str, meant: str) -> None:
    with pytest.raises(RequestError, match=f"unknown option {typed}; .*did you mean '{meant}'"):
        sampling_params({typed: 1})
