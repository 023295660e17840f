"""Random conversations: whatever is shared, each answer is that of an engine that read it all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exactness import needs_exact
from pytreellama import Engine, Model, draft

pytestmark = needs_exact

TinyModel = Callable[..., Model]
N_TOKENS = 6

turns = st.lists(
    st.tuples(
        st.integers(0, 5),  # which earlier text it continues
        st.integers(0, 400),  # how much of that is kept
        st.integers(1, 220),  # how much is new
        st.integers(0, 3),  # and what: equal numbers are equal texts
    ),
    min_size=1,
    max_size=4,
)
rounds = st.lists(turns, min_size=1, max_size=4)


def words(n_tokens: int, seed: int) -> list[int]:
    return [5 + (7 * i + 31 * seed + i * i // 5) % 240 for i in range(n_tokens)]


@pytest.mark.parametrize("kind", ["recurrent", "falcon-h1", "swa", "lfm2-swa"])
@pytest.mark.parametrize("max_checkpoint_bytes", [60_000, 1 << 28])
def test_conversations_do_not_see_what_they_share(
    tiny_model: TinyModel, kind: str, max_checkpoint_bytes: int
) -> None:
    model = tiny_model(kind)
    sizes: dict[str, Any] = {"n_ctx": 1024, "n_ubatch": 64, "n_threads": 1, "swa_full": False}
    known: dict[tuple[int, ...], tuple[int, ...]] = {}
    drafter = draft.Suffix(min_p=0.001)
    with (
        Engine(model, "none", **sizes | {"n_ctx": 4096}) as fresh,
        Engine(
            model, drafter, n_seq_max=3, n_cached_prefixes=3, n_prefill=48,
            max_checkpoint_bytes=max_checkpoint_bytes, **sizes,
        ) as engine,
    ):  # fmt: skip

        def answer(prompt: list[int]) -> tuple[int, ...]:
            if tuple(prompt) not in known:
                done = fresh.generate(prompt, max_tokens=N_TOKENS, ignore_eos=True)
                known[tuple(prompt)] = tuple(done.tokens)
            return known[tuple(prompt)]

        @settings(max_examples=12, deadline=None)
        @given(rounds)
        def converse(conversation: list[list[tuple[int, int, int, int]]]) -> None:
            texts: list[list[int]] = [words(130, 9)]
            for asked in conversation:
                prompts = [
                    [*texts[which % len(texts)][:n_kept], *words(n_new, seed)]
                    for which, n_kept, n_new, seed in asked
                ]
                done = engine.generate(prompts, max_tokens=N_TOKENS, ignore_eos=True)
                assert [tuple(one.tokens) for one in done] == [answer(one) for one in prompts]
                texts += [[*prompt, *one.tokens] for prompt, one in zip(prompts, done, strict=True)]
            load = engine.load
            assert load.n_checkpoint_bytes <= max_checkpoint_bytes
            assert load.n_running == load.n_waiting == 0

        converse()
        assert engine.load.n_checkpoints > 0
