"""Log-probabilities of a text's own tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest

from exactness import needs_exact
from pytreellama import AsyncEngine, Context, Engine, Model
from pytreellama.errors import RequestError

N_PREFILL = 8
TEXT = [1, *range(265, 294)]  # four chunks, the last of which is not full


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., Model]) -> Model:
    return tiny_model("rope")


@pytest.fixture(scope="module")
def engine(model: Model) -> Iterator[Engine]:
    with Engine(model, "none", n_ctx=128, n_seq_max=2, n_prefill=N_PREFILL) as engine:
        yield engine


@needs_exact
def test_each_token_has_the_bits_that_decoding_gives_it(engine: Engine, model: Model) -> None:
    found = engine.text_logprobs(TEXT, top=3)
    assert [one.token for one in found] == TEXT[1:]
    with Context(model, n_ctx=128) as context:
        seq = context.sequences.new()
        for token, one in zip(TEXT, found, strict=False):
            context.prefill([token], seq, logits=True)
            row = context.outputs.n_rows - 1
            logp, tokens, logps = context.outputs.top_logp(row, one.token, 3)
            assert one.logp == logp
            assert one.top == tuple(zip(tokens.tolist(), logps.tolist(), strict=True))


@needs_exact
def test_they_are_those_of_a_score(engine: Engine) -> None:
    (score,) = engine.score(TEXT[:4], [TEXT[4:]])
    found = engine.text_logprobs(TEXT)
    assert [one.logp for one in found[3:]] == pytest.approx(score.logps.tolist(), abs=1e-5)
    assert all(one.top == () for one in found)


def test_a_rank_counts_the_tokens_that_are_as_likely_or_likelier(engine: Engine) -> None:
    job = engine.text_logprobs_job(TEXT, 100)
    engine.submit_job(job).wait()
    assert len(job.ranks) == len(TEXT) - 1
    n_found = 0
    for one, rank in zip(job.logprobs, job.ranks.tolist(), strict=True):
        tokens = [token for token, _ in one.top]
        if one.token in tokens:
            n_found += 1
            assert rank == tokens.index(one.token) + 1
        else:
            assert rank > 100
    assert n_found


def test_a_text_of_one_token_has_none(engine: Engine) -> None:
    assert engine.text_logprobs([1]) == []


@pytest.mark.parametrize("top", [-1, 101, True])
def test_wrong_numbers_are_refused(engine: Engine, top: int) -> None:
    with pytest.raises(RequestError, match="invalid top="):
        engine.text_logprobs(TEXT, top)


def test_the_asynchronous_engine_has_the_same(engine: Engine) -> None:
    found = asyncio.run(AsyncEngine(engine=engine).text_logprobs(TEXT, 2))
    assert found == engine.text_logprobs(TEXT, 2)
