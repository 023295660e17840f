"""The default model with its own 4-bit requantisation to draft for it, on real prompts."""

from __future__ import annotations

from pathlib import Path

import pytest

from exactness import needs_exact
from prompts import load_prompts
from pytreellama import Engine, Model, draft, quantize
from pytreellama.draft.growth import Grow

N_TOKENS = 48
PROMPTS = [prompt["messages"] for prompt in load_prompts()][:3]


@pytest.fixture(scope="module")
def smaller_path(default_model: Model, model_directory: Path) -> Path:
    return quantize(default_model.path, model_directory / "drafts-for-itself.gguf", "Q4_0")


@needs_exact
@pytest.mark.parametrize("grow", ["best", "chain", (3, 2, 1, 1)], ids=str)
def test_greedy_text_is_plain_text_and_most_guesses_come_true(
    default_model: Model, smaller_path: Path, grow: Grow
) -> None:
    with (
        Engine(default_model, drafter="none", n_ctx=1024) as plain,
        draft.Model(smaller_path, grow=grow, n_ctx=2048) as smaller,
        Engine(default_model, drafter=smaller, n_ctx=1024, n_draft=6) as engine,
    ):
        done = [engine.generate(prompt, max_tokens=N_TOKENS, temperature=0) for prompt in PROMPTS]
        expected = [
            plain.generate(prompt, max_tokens=N_TOKENS, temperature=0).tokens for prompt in PROMPTS
        ]
    assert [completion.tokens for completion in done] == expected
    n_steps = sum(completion.stats.n_steps for completion in done)
    assert sum(map(len, expected)) > 2 * n_steps
