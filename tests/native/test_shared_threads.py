"""Contexts with as many threads share them, and take turns."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import psutil
import pytest

from pytreellama import Context, Engine, Model, TokenTree

TinyModel = Callable[..., Model]
TEXT = list(range(10, 40))


def n_threads_of_this_process() -> int:
    return psutil.Process().num_threads()


def logits(context: Context) -> np.ndarray:
    seq = context.prefill(TEXT)
    try:
        return context.decode(TokenTree.chain([7, 8, 9]), seq=seq).logits
    finally:
        context.sequences.free(seq)


def test_more_contexts_need_no_more_threads(tiny_model: TinyModel) -> None:
    model = tiny_model("rope")
    with Context(model, n_ctx=128, n_threads=3) as first:
        logits(first)
        n_before = n_threads_of_this_process()
        contexts = [Context(model, n_ctx=128, n_threads=3) for _ in range(4)]
        for context in contexts:
            logits(context)
        assert n_threads_of_this_process() == n_before
        for context in contexts:
            context.close()
        logits(first)  # the threads stay as long as anyone needs them


def test_threads_end_with_the_last_context(tiny_model: TinyModel) -> None:
    model = tiny_model("rope")
    n_before = n_threads_of_this_process()
    contexts = [Context(model, n_ctx=128, n_threads=5) for _ in range(2)]
    for context in contexts:
        logits(context)
    assert n_threads_of_this_process() >= n_before + 4
    for context in contexts:
        context.close()
    assert n_threads_of_this_process() == n_before


@pytest.mark.parametrize("n_threads", [1, 2])
def test_contexts_in_threads_of_their_own_do_not_disturb_each_other(
    tiny_model: TinyModel, n_threads: int
) -> None:
    model = tiny_model("rope")
    with Context(model, n_ctx=128, n_threads=n_threads) as context:
        expected = logits(context)
    found: list[np.ndarray] = []

    def run() -> None:
        with Context(model, n_ctx=128, n_threads=n_threads) as context:
            for _ in range(20):
                found.append(logits(context))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert len(found) == 80
    assert all(np.array_equal(rows, expected) for rows in found)


def test_two_engines_write_at_the_same_time(tiny_model: TinyModel) -> None:
    model = tiny_model("rope")
    with Engine(model, "none", n_ctx=256) as engine:
        alone = engine.generate(TEXT, max_tokens=40, ignore_eos=True).tokens
    with Engine(model, "auto", n_ctx=256) as one, Engine(model, "suffix", n_ctx=256) as other:
        both = [e.submit(TEXT, max_tokens=40, ignore_eos=True) for e in (one, other) * 3]
        assert [generation.result().tokens for generation in both] == [alone] * 6
