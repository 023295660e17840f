"""The heads that come with the package: they fit the default model, and their guesses are good."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from exactness import needs_exact
from prompts import load_prompts
from pytreellama import Engine, Model
from pytreellama.draft import Medusa, make_drafter
from pytreellama.draft.medusa import require_heads
from pytreellama.model.heads import Heads

N_TOKENS = 48
PROMPTS = [prompt["messages"] for prompt in load_prompts()]
MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def path(default_model: Model) -> Path:
    return require_heads(default_model)


def test_they_are_small_and_say_where_they_come_from(default_model: Model, path: Path) -> None:
    assert path.stat().st_size <= 12 * MEGABYTE
    with Heads(path, default_model) as heads:
        assert 3 <= heads.n_heads <= 5
        assert heads.has_shortlist
        assert heads.meta("general.license") == "apache-2.0"
        assert int(heads.meta("medusa.training.n_tokens") or 0) >= 1_000_000


def test_auto_has_them(default_model: Model) -> None:
    with Engine(default_model, n_ctx=256) as engine:
        assert getattr(make_drafter(engine.drafter), "names", ()) == (
            "suffix",
            "recycling",
            "medusa",
        )


@needs_exact
def test_text_is_plain_decodings_and_takes_fewer_passes(default_model: Model, path: Path) -> None:
    options: dict[str, Any] = {"max_tokens": N_TOKENS, "ignore_eos": True, "temperature": 0}
    with Engine(default_model, "none", n_ctx=2048) as engine:
        plain = engine.generate(PROMPTS, **options)
    with Engine(default_model, Medusa(path), n_draft=16, n_ctx=2048) as engine:
        guessed = engine.generate(PROMPTS, **options)
    assert [answer.tokens for answer in guessed] == [answer.tokens for answer in plain]
    n_tokens = sum(answer.stats.n_tokens for answer in guessed)
    assert n_tokens > 1.5 * sum(answer.stats.n_steps for answer in guessed)
