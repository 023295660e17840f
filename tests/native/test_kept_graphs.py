"""Patch 0011: graphs of small passes stay while passes of other sizes come in between."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from exactness import needs_exact
from pytreellama import Context, Model, TokenTree

TinyModel = Callable[..., Model]
TEXT = list(range(10, 40))


def passes(context: Context, sizes: list[int]) -> list[np.ndarray]:
    """Logits of chains of these sizes, each discarded before the next."""
    rng = np.random.default_rng(0)
    seq = context.prefill(TEXT)
    rows = []
    for size in sizes:
        tokens = rng.integers(5, context.n_vocab, size)
        rows.append(context.decode(TokenTree.chain(tokens), seq=seq).logits)
        context.discard(seq)
    context.sequences.free(seq)
    return rows


def test_sizes_in_turns_use_their_graphs_again(tiny_model: TinyModel) -> None:
    with Context(tiny_model("rope"), n_ctx=256, n_threads=1) as context:
        passes(context, [1, 2, 5, 8])
        before = context.n_reused_graphs
        passes(context, [1, 2, 5, 8] * 4)
        reused = context.n_reused_graphs - before
    assert reused >= 12  # all but the first of each size at the second text


def test_larger_trees_leave_the_graph_of_plain_steps_alone(tiny_model: TinyModel) -> None:
    with Context(tiny_model("rope"), n_ctx=256, n_threads=1) as context:
        seq = context.prefill(TEXT)
        context.decode(7, seq=seq)
        before = context.n_reused_graphs
        for _ in range(5):
            context.decode(TokenTree.chain(range(20, 32)), seq=seq)
            context.discard(seq)
            context.decode(7, seq=seq)
        assert context.n_reused_graphs - before >= 9


@needs_exact
def test_logits_are_those_of_a_context_that_saw_one_size_alone(tiny_model: TinyModel) -> None:
    sizes = [random.Random(1).randint(1, 70) for _ in range(40)]
    model = tiny_model("rope")
    with Context(model, n_ctx=256, n_threads=1) as context:
        mixed = passes(context, sizes)
    rng = np.random.default_rng(0)
    for size, rows in zip(sizes, mixed, strict=True):
        with Context(model, n_ctx=256, n_threads=1) as context:
            seq = context.prefill(TEXT)
            chain = TokenTree.chain(rng.integers(5, context.n_vocab, size))
            assert np.array_equal(context.decode(chain, seq=seq).logits, rows)


@needs_exact
def test_a_shift_in_between_forgets_what_was_kept(tiny_model: TinyModel) -> None:
    """Keys are rotated by a graph of their own; what is decoded after it sees them moved."""

    def shifted(warm_up: list[int]) -> np.ndarray:
        with Context(tiny_model("rope"), n_ctx=256, n_threads=1) as context:
            passes(context, warm_up)
            context.memory.clear()
            seq = context.prefill(TEXT, 0)
            context.memory.rm(seq, 4, 10)
            context.memory.add(seq, 10, len(TEXT), -6)
            return context.decode(TokenTree.chain([7, 8, 9]), seq=seq).logits

    assert np.array_equal(shifted([3, 1, 8, 3, 20]), shifted([1]))


SCRIPT = """
import sys
from pytreellama import Context, Model, TokenTree

context = Context(Model(sys.argv[1]), n_ctx=256, n_threads=1)
seq = context.prefill(list(range(10, 40)))
for size in (1, 3, 1, 3, 12, 3):
    logits = context.decode(TokenTree.chain(range(20, 20 + size)), seq=seq).logits
    context.discard(seq)
print(context.n_reused_graphs, logits.tobytes().hex())
"""


@needs_exact
@pytest.mark.parametrize("disable", ["0", "1"])
def test_the_environment_can_turn_it_off(
    tiny_model_path: Callable[..., Path], tiny_model: TinyModel, disable: str
) -> None:
    environment = {name: v for name, v in os.environ.items() if name != "LLAMA_GRAPH_REUSE_DISABLE"}
    if disable == "1":
        environment["LLAMA_GRAPH_REUSE_DISABLE"] = "1"
    command = [sys.executable, "-c", SCRIPT, str(tiny_model_path("rope"))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    n_reused, logits = done.stdout.split()
    assert (int(n_reused) == 0) == (disable == "1")
    with Context(tiny_model("rope"), n_ctx=256, n_threads=1) as context:
        seq = context.prefill(TEXT)
        expected = context.decode(TokenTree.chain(range(20, 23)), seq=seq).logits
    assert logits == expected.tobytes().hex()
