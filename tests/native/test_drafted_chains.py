"""Engines that draft chains: their texts are those of plain decoding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from chain_kinds import ALONE, FEW, KINDS, N_CHAIN, N_CTX
from exactness import needs_exact
from pytreellama import Completion, Engine, Model, TokenTree
from random_texts import text_of

pytestmark = needs_exact

TinyModel = Callable[..., Model]


class Oracle:
    """Proposes what the model will write, with a wrong token beside each."""

    name = "oracle"

    def __init__(self, texts: Sequence[Sequence[int]]) -> None:
        self._texts = [list(text) for text in texts]  # prompts included
        self._seen: list[int] = []

    def observe(self, tokens: Sequence[int]) -> None:
        self._seen.extend(map(int, tokens))

    def propose(self, n_nodes: int) -> TokenTree:
        n = len(self._seen)
        text = next(text for text in self._texts if text[:n] == self._seen)
        true = text[n : n + 5]
        paths = [[*true[:i], token] for i in range(len(true)) for token in (true[i] ^ 1, true[i])]
        tree = TokenTree.from_paths(paths).truncate(n_nodes) if paths else TokenTree.empty()
        return tree.with_p([0.8 ** (d + 1) * (0.9 if t % 2 else 1) for t, d in _nodes(tree)])

    def reset(self) -> None:
        self._seen = []


def _nodes(tree: TokenTree) -> list[tuple[int, int]]:
    return list(zip(tree.tokens.tolist(), tree.depths.tolist(), strict=True))


def answers_of(
    model: Model, drafter: Any, prompts: list[list[int]], **options: Any
) -> list[Completion]:
    sizes = {"n_ctx": N_CTX, "n_seq_max": 2, "n_rs_seq": N_CHAIN}
    with Engine(model, drafter, **(sizes | options)) as engine:
        return engine.generate(prompts, max_tokens=48, ignore_eos=True)


@pytest.mark.parametrize("kind", KINDS)
def test_drafted_text_is_plain_text(tiny_model: TinyModel, kind: str) -> None:
    model = tiny_model(kind)
    prompts = [text_of(40, seed) * 2 for seed in (4, 5)]
    expected = [one.tokens for one in answers_of(model, "none", prompts, n_rs_seq=0, n_seq_max=1)]
    n_seq_max = 1 if kind in ALONE else 2
    for drafter in ("suffix", "recycling", "auto"):
        found = answers_of(model, drafter, prompts, n_seq_max=n_seq_max)
        assert [one.tokens for one in found] == expected, drafter
        if drafter == "suffix":
            assert sum(one.stats.n_drafted for one in found) > 0
            assert max(n for one in found for n in one.stats.tree_sizes) <= N_CHAIN


@pytest.mark.parametrize("kind", FEW)
def test_a_drafter_that_knows_the_text_gains_tokens_a_pass(
    tiny_model: TinyModel, kind: str
) -> None:
    model = tiny_model(kind)
    prompts = [text_of(40, seed) for seed in (4, 5)]
    expected = [one.tokens for one in answers_of(model, "none", prompts, n_rs_seq=0, n_seq_max=1)]
    texts = [[*prompt, *text] for prompt, text in zip(prompts, expected, strict=True)]
    n_seq_max = 1 if kind in ALONE else 2
    found = answers_of(model, lambda: Oracle(texts), prompts, n_seq_max=n_seq_max)
    assert [one.tokens for one in found] == expected
    assert all(one.stats.tokens_per_step > 1.5 for one in found)


@pytest.mark.parametrize("kind", ["qwen35", "mamba2"])
def test_requests_are_preempted_and_go_on(tiny_model: TinyModel, kind: str) -> None:
    model = tiny_model(kind)
    prompts = [text_of(n_tokens, n_tokens) * 2 for n_tokens in (5, 9, 30, 14, 3, 50, 20, 11)]
    expected = [one.tokens for one in answers_of(model, "none", prompts, n_seq_max=1)]
    found = answers_of(model, "suffix", prompts, n_ctx=256, n_seq_max=4)
    assert [one.tokens for one in found] == expected
