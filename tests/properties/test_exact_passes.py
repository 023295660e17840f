"""Width changes no bit: a token's logits are those of a one-token pass, whatever shares its pass.

That is what the products of `ggml-cpu/invariant` and attention by position are for, together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exactness import logits_of_plain_steps, needs_exact
from pytreellama import Batch, Context, Model, quantize
from pytreellama.model.quantize import FILE_TYPES
from strategies import token_trees

N_VOCAB = 320
N_CTX = 1024
MAX_WIDTH = 256

pytestmark = needs_exact

ModelOf = Callable[..., Model]
ContextOf = Callable[..., Context]


@pytest.fixture(scope="module")
def model_of(tiny_model_path: Callable[..., Path], model_directory: Path) -> Iterator[ModelOf]:
    """A model with rows wide enough for every type of weights, made once."""
    made: dict[tuple[object, ...], Model] = {}

    def get(kind: str, file_type: str, repack: bool) -> Model:
        key = (kind, file_type, repack)
        if key not in made:
            path = model_directory / f"wide-{kind}-{file_type}.gguf"
            if not path.exists():
                quantize(tiny_model_path(kind, n_embd=256), path, file_type)
            made[key] = Model(path, repack=repack)
        return made[key]

    yield get
    for model in made.values():
        model.close()


@pytest.fixture(scope="module")
def context_of(model_of: ModelOf) -> Iterator[ContextOf]:
    """An empty context with flash attention, made once."""
    made: dict[tuple[object, ...], Context] = {}

    def get(kind: str, file_type: str, repack: bool, cache: str, n_threads: int) -> Context:
        key = (kind, file_type, repack, cache, n_threads)
        if key not in made:
            made[key] = Context(
                model_of(kind, file_type, repack),
                n_ctx=N_CTX,
                n_seq_max=2,
                n_batch=512,
                n_threads=n_threads,
                type_k=cache,
                type_v=cache,
                flash_attention=True,
            )
        made[key].memory.clear(data=False)
        for seq in (0, 1):
            made[key].discard(seq)
        return made[key]

    yield get
    for context in made.values():
        context.close()


def in_one_pass(context: Context, text: list[int]) -> np.ndarray:
    batch = Batch(len(text))
    batch.add(np.array(text), np.arange(len(text)), 0, np.ones(len(text), dtype=bool))
    context.decode(batch)
    return context.outputs.logits


def text_of(seed: int, n_tokens: int) -> list[int]:
    tokens: list[int] = np.random.default_rng(seed).integers(3, N_VOCAB, n_tokens).tolist()
    return tokens


@pytest.mark.parametrize("file_type", FILE_TYPES)
@pytest.mark.parametrize("kind", ["rope", "moe"])
def test_a_long_chain_in_one_pass_is_plain_decoding(
    context_of: ContextOf, kind: str, file_type: str
) -> None:
    text = text_of(1, MAX_WIDTH + 3)
    plain = logits_of_plain_steps(context_of(kind, file_type, True, "f16", 1), 0, text)
    for n_threads in (1, 2, 3):
        context = context_of(kind, file_type, True, "f16", n_threads)
        assert in_one_pass(context, text).tobytes() == plain.tobytes()


@pytest.mark.parametrize("file_type", FILE_TYPES)
@given(data=st.data())
@settings(max_examples=5)
def test_nodes_of_a_tree_have_the_bits_of_plain_decoding(
    context_of: ContextOf, file_type: str, data: st.DataObject
) -> None:
    """Whatever the neighbour's tree, the threads and the layout of the weights."""
    kind = data.draw(st.sampled_from(["rope", "rope_mha", "learned", "alibi", "swa", "moe"]))
    cache = data.draw(st.sampled_from(["f16", "q8_0", "q4_0"]), "cache")
    threads = st.integers(1, 4)
    text = text_of(data.draw(st.integers(0, 9), "text"), data.draw(st.integers(1, 40), "n_past"))
    tree = data.draw(token_trees(min_nodes=2, max_nodes=40, n_vocab=N_VOCAB))
    beside = data.draw(token_trees(min_nodes=1, max_nodes=40, n_vocab=N_VOCAB))
    context = context_of(
        kind, file_type, data.draw(st.booleans(), "packed"), cache, data.draw(threads, "threads")
    )
    context.prefill(text, 0)
    context.prefill(text_of(11, 7), 1)
    batch = Batch(len(tree) + len(beside))
    rows = context.place(batch, 0, tree)
    context.place(batch, 1, beside)
    context.decode(batch)
    together = context.outputs.logits[rows]
    path = tree.path(data.draw(st.integers(0, len(tree) - 1), "node"))
    plain = context_of(kind, file_type, True, cache, data.draw(threads, "other threads"))
    alone = logits_of_plain_steps(plain, 0, text + tree.tokens[path].tolist())[len(text) :]
    assert together[path].tobytes() == alone.tobytes()


def test_the_comparison_tells_another_text(context_of: ContextOf) -> None:
    context = context_of("rope", "Q8_0", True, "f16", 1)
    plain = logits_of_plain_steps(context, 0, text_of(1, 20))
    other = text_of(1, 20)
    other[3] = other[3] + 1
    got = in_one_pass(context_of("rope", "Q8_0", True, "f16", 1), other)
    assert got[:3].tobytes() == plain[:3].tobytes()
    assert got[4:].tobytes() != plain[4:].tobytes()


def test_a_mixture_of_experts_does_not_see_the_neighbours_routing(model_of: ModelOf) -> None:
    """Stock computes an expert's rows with other code from 8 on."""
    bits = set()
    text = text_of(5, 9)
    for n_beside in (0, 1, 8, 30):
        with Context(model_of("moe", "Q4_K_M", True), n_ctx=N_CTX, n_seq_max=31) as context:
            batch = Batch(9 + 9 * n_beside)
            for seq in range(1 + n_beside):
                tokens = text if seq == 0 else text_of(seq, 9)
                batch.add(np.array(tokens), np.arange(9), seq, np.ones(9, dtype=bool))
            context.decode(batch)
            bits.add(context.outputs.logits[:9].tobytes())
    assert len(bits) == 1
