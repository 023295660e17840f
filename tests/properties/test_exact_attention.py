"""Layout changes no bit: plain steps give the same logits wherever a sequence's cells stand.

The widths of passes are the same on both sides here, since on some CPUs products depend on them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exactness import logits_of_plain_steps
from pytreellama import Context, Model, TokenTree
from pytreellama.testing.cells import read_cells
from strategies import token_trees

N_VOCAB = 320
KINDS = ("rope", "rope_mha", "learned", "alibi", "swa")
CACHES = ("f16", "q8_0", "q4_0")

ContextOf = Callable[..., Context]


@pytest.fixture(scope="module")
def context_of(tiny_model: Callable[..., Model]) -> Iterator[ContextOf]:
    """An empty context with flash attention; made once."""
    made: dict[tuple[object, ...], Context] = {}

    def get(kind: str, cache: str, n_threads: int, n_seq_max: int) -> Context:
        key = (kind, cache, n_threads, n_seq_max)
        if key not in made:
            made[key] = Context(
                tiny_model(kind),
                n_ctx=1024,
                n_seq_max=n_seq_max,
                n_threads=n_threads,
                type_k=cache,
                type_v=cache,
                flash_attention=True,
            )
        made[key].memory.clear(data=False)
        for seq in range(n_seq_max):
            made[key].discard(seq)
        return made[key]

    yield get
    for context in made.values():
        context.close()


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_plain_steps_among_trees_and_other_sequences_are_plain_decodings_bits(
    context_of: ContextOf, kind: str, data: st.DataObject
) -> None:
    """Cells end up in the order in which trees and neighbours left them, not that of the text."""
    cache = data.draw(st.sampled_from(CACHES), "cache")
    threads = st.integers(1, 4)
    busy = context_of(kind, cache, data.draw(threads, "threads"), 3)
    plain = context_of(kind, cache, data.draw(threads, "other threads"), 1)
    text = data.draw(st.lists(st.integers(3, N_VOCAB - 1), min_size=1, max_size=20), "text")
    rows = []
    for token in text:
        disturb(data, busy)
        busy.decode(token, seq=0)
        rows.append(busy.outputs.logits[0])
    expected = logits_of_plain_steps(plain, 0, text)
    assert np.array(rows).tobytes() == expected.tobytes()


def disturb(data: st.DataObject, context: Context) -> None:
    """Others write, guess, commit and leave; sequence 0 guesses and takes all of it back."""
    trees = token_trees(min_nodes=1, max_nodes=6, n_vocab=N_VOCAB)
    for seq in (1, 2):
        what = data.draw(st.sampled_from(["nothing", "write", "guess", "leave"]), "neighbour")
        if what == "write":
            context.prefill([5, 6, 7], seq)
        elif what == "guess":
            tree = data.draw(trees)
            context.decode(tree, seq=seq)
            context.commit(seq, tree.path(len(tree) - 1).tolist())
        elif what == "leave":
            context.memory.rm(seq)
    if data.draw(st.booleans(), "guess"):
        context.decode(data.draw(trees), seq=0)
        context.discard(0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_long_text_has_the_same_bits_on_any_number_of_threads(
    context_of: ContextOf, kind: str
) -> None:
    """From 512 cells on stock cuts the sums of a plain step by the number of threads."""
    text = [3 + 7 * i % (N_VOCAB - 3) for i in range(505)]
    bits = set()
    for n_threads in (1, 2, 3, 4):
        context = context_of(kind, "f16", n_threads, 1)
        context.prefill(text, 0)
        bits.add(logits_of_plain_steps(context, 0, [9, 8, 7]).tobytes())
    assert len(bits) == 1


def test_a_node_that_was_committed_leaves_the_cells_of_plain_decoding(
    context_of: ContextOf,
) -> None:
    """In the order of the text, without a gap, after 50 rounds of trees."""
    context = context_of("rope", "f16", 1, 1)
    rng = np.random.default_rng(3)
    for _ in range(50):
        parents = [int(rng.integers(-1, node)) for node in range(12)]
        tree = TokenTree.from_parents(rng.choice(300, 12, replace=False) + 3, parents)
        context.decode(tree, seq=0)
        context.commit(0, tree.path(int(rng.integers(12))).tolist())
    cells = read_cells(context)
    assert cells is not None
    n_past = context.sequences.n_past(0)
    assert cells.positions[:n_past].tolist() == list(range(n_past))
    assert (cells.positions[n_past:] == -1).all()
