"""How long a text may be: refused by its bytes only where no tokens of it could fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("fastapi", reason="needs the extra: pip install 'pytreellama[serve]'")

from pytreellama import Engine, Model
from pytreellama.engine import AsyncEngine
from pytreellama.serve.errors import APIError
from pytreellama.serve.service import Service
from pytreellama.serve.settings import ServerSettings
from pytreellama.serve.text_limit import TextLimit

N_CTX = 64


@pytest.fixture(scope="module")
def limit(default_model: Model) -> Iterator[TextLimit]:
    with Engine(default_model, "none", n_ctx=N_CTX, n_threads=1) as engine:
        yield TextLimit(engine)


def refusal(limit: TextLimit, text: str | list[int]) -> str:
    with pytest.raises(APIError) as caught:
        limit.encode(text)
    error = caught.value.body.error
    assert (caught.value.status_code, error.code) == (400, "context_length_exceeded")
    # LangChain and litellm know this fault by these words
    assert f"this model's maximum context length is {limit.n_tokens} tokens" in error.message
    return error.message


@given(st.text(st.sampled_from("ab \n=-é漢\U0001f98a"), max_size=400))
def test_a_text_is_refused_if_and_only_if_its_tokens_do_not_fit(
    default_model: Model, limit: TextLimit, text: str
) -> None:
    ids = default_model.vocab.encode(text)
    if len(ids) < limit.n_tokens:
        assert limit.encode(text) == ids
    else:
        assert f"has {len(ids)} tokens" in refusal(limit, text)


def test_a_text_of_the_longest_tokens_fits(default_model: Model, limit: TextLimit) -> None:
    vocab = default_model.vocab
    longest = max(range(len(vocab)), key=lambda token: len(vocab.pieces[token]))
    n_bytes = len(vocab.pieces[longest]) * (limit.n_tokens - 1)
    assert len(vocab.decode([longest] * (limit.n_tokens - 1)).encode()) == n_bytes
    limit.check_bytes(vocab.decode([longest] * (limit.n_tokens - 1)))


def test_a_text_that_no_tokens_could_hold_is_not_tokenized(
    limit: TextLimit, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tokenize(*_: object, **__: object) -> None:
        pytest.fail("it is tokenized")

    monkeypatch.setattr(limit._engine, "encode_prompt", tokenize)
    assert "of 1000000 bytes" in refusal(limit, "a" * 1_000_000)
    assert "of 1000000 bytes" in refusal(limit, "é" * 500_000)
    assert "999999 tokens" in refusal(limit, [5] * 999_999)


def test_an_answer_has_the_room_that_the_models_positions_leave(
    tiny_model: Callable[..., Model],
) -> None:
    """The cache may hold more tokens than one text may have."""
    model = tiny_model("learned")
    with Engine(model, "none", n_ctx=4 * model.n_ctx_train, n_threads=1) as engine:
        service = Service(AsyncEngine(engine=engine), ServerSettings("tiny"))
        assert engine.context.n_text_max < engine.context.n_ctx
        assert service.max_tokens(None, None, 5) == engine.context.n_text_max - 5
        assert service.max_tokens(10**9, None, 5) == engine.context.n_text_max - 5
