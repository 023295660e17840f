"""Several completions of one call: what they share, how their draws differ, and where they end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pytreellama import AsyncEngine, Engine, Model

TinyModel = Callable[..., Model]
PROMPT = list(range(20, 80))
N = 4


@pytest.fixture
def engine(tiny_model: TinyModel) -> Iterator[Engine]:
    with Engine(tiny_model("rope"), n_ctx=1024, n_seq_max=N, n_threads=1) as engine:
        yield engine


def test_completions_of_one_prompt_differ_and_each_is_what_its_seed_writes(engine: Engine) -> None:
    completions = engine.generate(PROMPT, n=N, max_tokens=12, temperature=1.0, seed=7)
    assert [one.seed for one in completions] == [7, 8, 9, 10]
    assert len({one.tokens for one in completions}) == N
    for one in completions:
        alone = engine.generate(PROMPT, max_tokens=12, temperature=1.0, seed=one.seed)
        assert alone.tokens == one.tokens


def test_their_prompt_is_read_once(engine: Engine) -> None:
    completions = engine.generate(PROMPT, n=N, max_tokens=4, temperature=1.0)
    n_shared = sorted(one.stats.n_shared for one in completions)
    assert n_shared == [0] + [len(PROMPT) - 1] * (N - 1)


def test_equal_prompts_in_a_list_do_not_get_equal_draws(engine: Engine) -> None:
    completions = engine.generate([PROMPT] * N, max_tokens=12, temperature=1.0, seed=7)
    assert len({one.tokens for one in completions}) == N


def test_the_same_from_asyncio(engine: Engine) -> None:
    asked: dict[str, Any] = {"max_tokens": 12, "temperature": 1.0, "seed": 7}

    async def ask() -> list[list[tuple[int, ...]]]:
        answers = await AsyncEngine(engine=engine).generate([PROMPT, PROMPT[:9]], n=2, **asked)
        return [[one.tokens for one in group] for group in answers]

    expected = engine.generate([PROMPT, PROMPT[:9]], n=2, **asked)
    assert asyncio.run(ask()) == [[one.tokens for one in group] for group in expected]


def test_without_a_limit_the_context_is_filled(engine: Engine) -> None:
    completion = engine.generate(PROMPT, max_tokens=None, ignore_eos=True)
    assert completion.finish_reason == "context"
    assert len(completion.tokens) > 900
