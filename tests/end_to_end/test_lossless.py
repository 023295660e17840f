"""Speculative text is plain text, on real prompts and the default model.

Stock llama.cpp computes slightly other logits for a token alone and for the same token in a batch.
So greedy text may part where plain decoding's two best logits are all but equal: up to 0.04 apart
on F16 and 0.9 on Q4_1 when it was measured. Elsewhere it must not. Every parting is printed.
"""

from __future__ import annotations

import pytest

from prompts import load_prompts
from pytreellama import Engine, Model, Step, draft

N_TOKENS = 64
PROMPTS = load_prompts()
WIDE = draft.Suffix(min_p=0.02)


class PlainRun:
    """Plain greedy text, with the distance of the two best logits at each token."""

    def __init__(self, engine: Engine, prompt: list[dict[str, str]]) -> None:
        self.gaps: list[float] = []
        self._engine = engine
        completion = engine.generate(prompt, max_tokens=N_TOKENS, on_step=self._note_gap)
        self.tokens = completion.tokens
        self.text = completion.text

    def _note_gap(self, step: Step) -> None:
        _, logp = self._engine.context.top_k(2)
        self.gaps.append(float(logp[0, 0] - logp[0, 1]))


def first_difference(one: tuple[int, ...], other: tuple[int, ...]) -> int | None:
    """Where two texts part; None if they are the same."""
    if one == other:
        return None
    same = (a == b for a, b in zip(one, other, strict=False))
    return next((i for i, equal in enumerate(same) if not equal), min(len(one), len(other)))


def assert_parts_only_at_near_ties(
    model: Model, drafter: draft.DrafterSpec, allowed_gap: float, n_allowed: int
) -> None:
    plain = Engine(model, drafter="none", n_ctx=1024)
    speculative = Engine(model, drafter=drafter, n_ctx=1024, n_draft=12)
    partings = []
    n_accepted = 0
    for prompt in PROMPTS:
        expected = PlainRun(plain, prompt["messages"])
        got = speculative.generate(prompt["messages"], max_tokens=N_TOKENS)
        n_accepted += got.stats.n_accepted
        at = first_difference(expected.tokens, got.tokens)
        if at is not None:
            partings.append((prompt["category"], at, expected.gaps[at]))
    print(f"{len(partings)} of {len(PROMPTS)} texts part, allowed gap {allowed_gap}: {partings}")
    assert n_accepted > 0, "no draft was ever accepted, so nothing was tested"
    assert all(gap <= allowed_gap for _, _, gap in partings), partings
    assert len(partings) <= n_allowed, partings


@pytest.mark.parametrize("drafter", ["auto", "suffix", WIDE], ids=["auto", "suffix", "wide"])
def test_greedy_speculative_text_equals_plain_text_on_f16(
    default_model_f16: Model, drafter: draft.DrafterSpec
) -> None:
    assert_parts_only_at_near_ties(default_model_f16, drafter, allowed_gap=0.05, n_allowed=2)


@pytest.mark.parametrize("drafter", ["auto", WIDE], ids=["auto", "wide"])
def test_greedy_speculative_text_equals_plain_text_on_q4_1(
    default_model: Model, drafter: draft.DrafterSpec
) -> None:
    assert_parts_only_at_near_ties(default_model, drafter, allowed_gap=1.0, n_allowed=len(PROMPTS))


@pytest.mark.parametrize("drafter", ["none", "suffix"])
def test_the_same_seed_gives_the_same_sampled_text_twice(
    default_model: Model, drafter: str
) -> None:
    engine = Engine(default_model, drafter=drafter, n_ctx=512)
    options = {"max_tokens": 32, "temperature": 0.9, "top_p": 0.95, "seed": 11}
    one, other = (engine.generate("Once upon a time", **options) for _ in range(2))
    assert one.tokens == other.tokens
    assert one.seed == 11
    another = engine.generate("Once upon a time", **{**options, "seed": 12})
    assert another.tokens != one.tokens


def test_several_prompts_in_one_loop_answer_as_they_do_alone(default_model_f16: Model) -> None:
    prompts = [prompt["messages"] for prompt in PROMPTS[:3]]
    alone = [
        PlainRun(Engine(default_model_f16, drafter="none", n_ctx=1024), prompt)
        for prompt in prompts
    ]
    together = Engine(default_model_f16, n_ctx=3072, n_seq_max=3).generate(
        prompts, max_tokens=N_TOKENS
    )
    for one, other in zip(alone, together, strict=True):
        at = first_difference(one.tokens, other.tokens)
        assert at is None or one.gaps[at] <= 0.05
