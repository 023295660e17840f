"""Chunks for asyncio: all of a text comes, however seldom its reader looks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pytreellama import AsyncEngine, Chunk, Engine, Model, draft
from pytreellama.engine.async_engine import chunks

TinyModel = Callable[..., Model]
PROMPT = list(range(20, 41))
ASKED: dict[str, Any] = {"max_tokens": 60, "ignore_eos": True, "logprobs": 2}


@pytest.fixture
def engine(tiny_model: TinyModel) -> Iterator[Engine]:
    with Engine(tiny_model("rope"), draft.Suffix(min_p=0.001), n_ctx=256, n_threads=1) as engine:
        yield engine


def read(engine: Engine, pause_s: float) -> list[Chunk]:
    async def all_chunks() -> list[Chunk]:
        generation = await AsyncEngine(engine=engine).submit(PROMPT, **ASKED)
        return [chunk async for chunk in chunks(generation, pause_s)]

    return asyncio.run(all_chunks())


@pytest.mark.parametrize("pause_s", [0.0, 0.001, 0.02, 60.0])
def test_what_comes_together_is_the_whole(engine: Engine, pause_s: float) -> None:
    whole = engine.generate(PROMPT, **ASKED)
    come = read(engine, pause_s)
    assert "".join(chunk.text for chunk in come) == whole.text
    assert tuple(token for chunk in come for token in chunk.tokens) == whole.tokens
    logprobs = [one for chunk in come for one in chunk.logprobs or ()]
    assert [one.token for one in logprobs] == list(whole.tokens)
    assert [chunk.finish_reason for chunk in come] == [None] * (len(come) - 1) + ["length"]
    assert come[-1].stats is not None and come[-1].seed is not None


def test_the_end_is_not_waited_for(engine: Engine) -> None:
    started_s = time.monotonic()
    read(engine, 60.0)
    assert time.monotonic() - started_s < 30.0


def test_pauses_make_chunks_fewer(engine: Engine) -> None:
    assert len(read(engine, 60.0)) <= 2 < len(read(engine, 0.0))


def test_an_error_comes_out(engine: Engine) -> None:
    def fail(step: object) -> None:
        raise RuntimeError("on purpose")

    async def failing() -> None:
        generation = await AsyncEngine(engine=engine).submit(PROMPT, on_step=fail)
        async for _ in chunks(generation, 0.01):
            pass

    with pytest.raises(RuntimeError, match="on purpose"):
        asyncio.run(failing())
