"""Scores and embeddings: what one pass over a tree tells is what texts tell one by one."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from backends import tolerance
from exactness import needs_exact
from pytreellama import AsyncEngine, Context, Engine, Model, draft
from pytreellama.errors import ContextError, QueueFullError, RequestError
from tiny_models import EOS

TinyModel = Callable[..., Model]
SIZES: dict[str, Any] = {"n_ctx": 256, "n_threads": 1}
PROMPT = list(range(20, 41))
CONTINUATIONS = [[5, 6, 7], [5, 6, 8], [5], [9, 6, 7, 30], [5, 6, 7]]


@pytest.fixture
def engine(tiny_model: TinyModel) -> Iterator[Engine]:
    with Engine(tiny_model("rope"), draft.Suffix(min_p=0.001), n_seq_max=4, **SIZES) as engine:
        yield engine


def logps_alone(model: Model, prompt: list[int], tokens: list[int]) -> list[float]:
    """Each token's, in plain steps."""
    logps = []
    with Context(model, n_ctx=256, n_threads=1) as context:
        seq = context.prefill(prompt[:-1])
        for last, token in zip([prompt[-1], *tokens[:-1]], tokens, strict=True):
            context.decode(last, seq=seq)
            logps.append(float(context.outputs.token_logps([token])[0]))
    return logps


@needs_exact
def test_scores_of_a_tree_are_those_of_plain_steps(engine: Engine) -> None:
    scores = engine.score(PROMPT, CONTINUATIONS)
    for tokens, score in zip(CONTINUATIONS, scores, strict=True):
        assert score.tokens == tuple(tokens)
        assert score.logps == pytest.approx(logps_alone(engine.model, PROMPT, tokens), abs=2e-5)
        assert score.logp == pytest.approx(float(score.logps.sum()), abs=1e-5)


def test_the_greedy_continuation_is_said_to_be_greedy(engine: Engine) -> None:
    greedy = list(engine.generate(PROMPT, max_tokens=4, ignore_eos=True).tokens)
    other = [*greedy[:2], greedy[2] + 1, greedy[3]]
    scores = engine.score(PROMPT, [greedy, other, greedy[:1], [greedy[0] + 1]])
    assert [score.is_greedy for score in scores] == [True, False, True, False]


def test_scores_of_all_single_tokens_are_a_distribution(engine: Engine) -> None:
    scores = engine.score(PROMPT, [[token] for token in range(100)])
    assert 0.0 < sum(np.exp(score.logp) for score in scores) < 1.0


def test_a_prompt_of_one_token_can_be_scored(engine: Engine) -> None:
    assert len(engine.score([7], [[8], [9, 10]])[1].logps) == 2


def test_text_goes_on_from_the_prompt(engine: Engine) -> None:
    (score,) = engine.score("the cat and", [" the dog"])
    assert engine.vocab.decode_bytes(score.tokens) == b" the dog"


def test_scores_beside_those_who_write_are_the_same(engine: Engine) -> None:
    alone = engine.score(PROMPT, CONTINUATIONS)
    writing = [engine.submit(list(range(9, 30 + i)), max_tokens=40) for i in range(3)]
    beside = engine.score(PROMPT, CONTINUATIONS)
    for generation in writing:
        generation.result()
    for one, other in zip(alone, beside, strict=True):
        assert np.allclose(one.logps, other.logps, atol=tolerance(1e-4, 2e-2))


@pytest.mark.parametrize(
    ("continuations", "says"),
    [
        ([], "at least one"),
        ([[5], []], "has no tokens"),
        ([[5, 10**6]], "not in the vocabulary"),
        ([[i % 90, j] for i in range(90) for j in range(4)], "a pass takes"),
        ([[5] * 250], "cannot hold"),
    ],
)
def test_what_cannot_be_scored_is_refused(
    engine: Engine, continuations: list[list[int]], says: str
) -> None:
    with pytest.raises(RequestError, match=says):
        engine.score(PROMPT, continuations)


def test_nothing_is_left_of_a_score(engine: Engine) -> None:
    engine.score(PROMPT, CONTINUATIONS)
    engine.clear_prefix_cache()
    assert engine.context.memory.n_cells_used == 0
    assert engine.load.n_running == 0


def hidden_states(model: Model, tokens: list[int]) -> np.ndarray:
    with Context(model, n_ctx=256, n_threads=1, embeddings=True) as context:
        context.prefill(tokens)
        return np.array([context.outputs.embedding(row) for row in range(len(tokens))])


@pytest.mark.parametrize("n_prefill", [7, 128])
@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_embeddings_are_pooled_hidden_states(
    tiny_model: TinyModel, pooling: str, n_prefill: int
) -> None:
    model = tiny_model("rope")
    with Engine(model, "none", n_seq_max=2, n_prefill=n_prefill, **SIZES) as engine:
        texts = [PROMPT, list(range(60, 65)), [9]]
        for text, state in zip(texts, engine.embed(texts, pooling), strict=True):  # type: ignore[arg-type]
            states = hidden_states(model, text)
            wanted = states.mean(axis=0) if pooling == "mean" else states[-1]
            assert np.linalg.norm(state) == pytest.approx(1.0, abs=1e-5)
            assert state == pytest.approx(
                wanted / np.linalg.norm(wanted), abs=tolerance(1e-4, 2e-2)
            )


def test_a_files_eos_ends_what_is_embedded_and_not_what_goes_on(tiny_model: TinyModel) -> None:
    with Engine(tiny_model("rope", add_eos=True), "none", n_seq_max=1, **SIZES) as engine:
        tokens = engine.encode_prompt("the cat")
        assert tokens[-1] != EOS
        assert engine.score_job("the cat", [[5]]).state.ids.tolist() == tokens
        assert engine.embed_job("the cat").state.ids.tolist() == [*tokens, EOS]
        chat = [{"role": "user", "content": "hi"}]
        assert engine.embed_job(chat).state.last != EOS


def test_an_unknown_pooling_is_refused(engine: Engine) -> None:
    with pytest.raises(RequestError, match="expected one of mean, last, cls"):
        engine.embed([PROMPT], "rank")  # type: ignore[arg-type]


def test_asyncio_evaluates_as_well(engine: Engine) -> None:
    async def both() -> tuple[object, object]:
        async_engine = AsyncEngine(engine=engine)
        return await asyncio.gather(
            async_engine.score(PROMPT, CONTINUATIONS), async_engine.embed([PROMPT])
        )

    scores, states = asyncio.run(both())
    assert len(scores) == len(CONTINUATIONS)  # type: ignore[arg-type]
    assert states.shape == (1, engine.model.n_embd_out)  # type: ignore[attr-defined]


def test_a_full_queue_refuses_evaluations_too(tiny_model: TinyModel) -> None:
    with Engine(tiny_model("rope"), "none", n_queue_max=0, **SIZES) as engine:
        running = engine.submit(PROMPT, max_tokens=200, ignore_eos=True)
        next(running)
        with pytest.raises(QueueFullError):
            engine.submit_job(engine.embed_job(PROMPT), wait=False)
        running.cancel()


def test_a_crowded_cache_lets_everyone_finish(tiny_model: TinyModel) -> None:
    model = tiny_model("rope")
    with (
        Engine(model, draft.Suffix(min_p=0.001), n_ctx=160, n_seq_max=6, n_threads=1) as engine,
        Engine(model, "none", n_ctx=512, n_threads=1) as roomy,
    ):
        writing = [engine.submit(list(range(9, 40 + i)), max_tokens=60) for i in range(3)]
        states = engine.embed([list(range(20 + i, 120 + i)) for i in range(3)])
        scores = [engine.score(PROMPT, CONTINUATIONS) for _ in range(3)]
        for generation in writing:
            assert generation.result().finish_reason in ("stop", "length")
        wanted = roomy.embed([list(range(20 + i, 120 + i)) for i in range(3)])
        assert np.allclose(states, wanted, atol=tolerance(1e-4, 2e-2))
        assert np.allclose(
            scores[0][0].logps,
            roomy.score(PROMPT, CONTINUATIONS)[0].logps,
            atol=tolerance(1e-4, 2e-2),
        )
        engine.clear_prefix_cache()
        assert engine.context.memory.n_cells_used == 0


def test_what_a_closed_engine_left_unfinished_is_an_error(tiny_model: TinyModel) -> None:
    engine = Engine(tiny_model("rope"), "none", n_ctx=4096, n_threads=1)
    texts = [list(range(5, 245)) * 15 for _ in range(8)]
    errors: list[Exception] = []

    def embed() -> None:
        try:
            engine.embed(texts)
        except ContextError as error:
            errors.append(error)

    thread = threading.Thread(target=embed)
    thread.start()
    while engine.load.n_running == 0:
        time.sleep(0.001)
    engine.close()
    thread.join()
    assert len(errors) == 1
