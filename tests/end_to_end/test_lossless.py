"""Speculative text is plain text, byte for byte, on real prompts and the default model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from exactness import needs_exact
from prompts import load_prompts
from pytreellama import Engine, Model, draft, quantize

N_TOKENS = 64
PROMPTS = [prompt["messages"] for prompt in load_prompts()]
WIDE = draft.Suffix(min_p=0.02)

ModelOf = Callable[[str], Model]


@pytest.fixture(scope="module")
def default_model_as(default_model: Model, model_directory: Path) -> Iterator[ModelOf]:
    """The default model in another type of weights, made once."""
    made = {"Q4_1": default_model}

    def get(file_type: str) -> Model:
        if file_type not in made:
            path = model_directory / f"default-{file_type}.gguf"
            made[file_type] = Model(quantize(default_model.path, path, file_type))
        return made[file_type]

    yield get
    for file_type, model in made.items():
        if file_type != "Q4_1":
            model.close()


@pytest.fixture(scope="module")
def plain_texts(default_model_as: ModelOf) -> Callable[[str], list[tuple[int, ...]]]:
    """Plain greedy tokens of each prompt alone."""
    texts: dict[str, list[tuple[int, ...]]] = {}

    def get(file_type: str) -> list[tuple[int, ...]]:
        if file_type not in texts:
            engine = Engine(default_model_as(file_type), drafter="none", n_ctx=1024)
            texts[file_type] = [
                engine.generate(prompt, max_tokens=N_TOKENS, temperature=0).tokens
                for prompt in PROMPTS
            ]
        return texts[file_type]

    return get


@needs_exact
@pytest.mark.parametrize("file_type", ["Q4_1", "Q8_0", "Q4_K_M", "F16"])
@pytest.mark.parametrize(
    "drafter",
    ["suffix", WIDE, "ngram", "recycling", "suffix+recycling", "medusa"],
    ids=["suffix", "wide", "ngram", "recycling", "merged", "medusa"],
)
def test_greedy_speculative_text_is_plain_text(
    default_model_as: ModelOf,
    plain_texts: Callable[[str], list[tuple[int, ...]]],
    drafter: draft.DrafterSpec,
    file_type: str,
) -> None:
    engine = Engine(default_model_as(file_type), drafter=drafter, n_ctx=1024, n_draft=12)
    completions = [
        engine.generate(prompt, max_tokens=N_TOKENS, temperature=0) for prompt in PROMPTS
    ]
    assert [completion.tokens for completion in completions] == plain_texts(file_type)
    n_accepted = sum(completion.stats.n_accepted for completion in completions)
    assert n_accepted > 0, "no draft was ever accepted, so nothing was tested"


@pytest.mark.parametrize("drafter", ["none", "suffix"])
def test_the_same_seed_gives_the_same_sampled_text_twice(
    default_model: Model, drafter: str
) -> None:
    engine = Engine(default_model, drafter=drafter, n_ctx=512)
    options: dict[str, Any] = {"max_tokens": 32, "temperature": 0.9, "top_p": 0.95, "seed": 11}
    one, other = (engine.generate("Once upon a time", **options) for _ in range(2))
    assert one.tokens == other.tokens
    assert one.seed == 11
    another = engine.generate("Once upon a time", **{**options, "seed": 12})
    assert another.tokens != one.tokens


@needs_exact
@pytest.mark.parametrize("drafter", ["auto", "suffix+recycling"])
def test_several_prompts_in_one_loop_answer_as_they_do_alone(
    default_model: Model, plain_texts: Callable[[str], list[tuple[int, ...]]], drafter: str
) -> None:
    engine = Engine(default_model, drafter, n_ctx=4096, n_seq_max=4)
    together = engine.generate(PROMPTS, max_tokens=N_TOKENS, temperature=0)
    assert [completion.tokens for completion in together] == plain_texts("Q4_1")
