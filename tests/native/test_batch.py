"""Batch: filled with whole arrays, and nothing in it that 32 bits cannot hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from pytreellama import Batch, Context, Model, TokenTree
from pytreellama.context.batch import SequenceSets
from pytreellama.errors import BatchError, MemoryStateError
from pytreellama.native.decode import TEXT
from pytreellama.native.library import ffi


def contents(batch: Batch) -> list[tuple[int, int, list[int], bool]]:
    """What C reads: token, position, sequences and logits flag of each token."""
    c = batch.as_struct().pointer
    return [
        (c.token[i], c.pos[i], [c.seq_id[i][k] for k in range(c.n_seq_id[i])], bool(c.logits[i]))
        for i in range(c.n_tokens)
    ]


def test_c_reads_what_was_added() -> None:
    batch = Batch(8)
    assert batch.add([5, 6], [0, 1], 2, [False, True]) == slice(0, 2)
    assert batch.add([7, 8], [3, 4], [0, 1]) == slice(2, 4)
    assert batch.add([9], 5, [[1, 3]], True) == slice(4, 5)
    assert contents(batch) == [
        (5, 0, [2], False),
        (6, 1, [2], True),
        (7, 3, [0], False),
        (8, 4, [1], False),
        (9, 5, [1, 3], True),
    ]
    assert len(batch) == batch.n_tokens == 5
    assert batch.n_outputs == 2


def test_views_show_and_change_what_c_reads() -> None:
    batch = Batch(4)
    batch.add([1, 2], [0, 1])
    batch.tokens[0] = 3
    batch.positions[1] = 7
    batch.logits[1] = True
    assert contents(batch) == [(3, 0, [0], False), (2, 7, [0], True)]


def test_sequence_sets_may_be_much_larger_than_the_batch() -> None:
    batch = Batch(3)
    sets = SequenceSets(list(range(200)) + list(range(100)) + [7], [200, 100, 1])
    batch.add([1, 2, 3], [0, 1, 2], sets)
    assert [seqs for _, _, seqs, _ in contents(batch)] == [
        list(range(200)),
        list(range(100)),
        [7],
    ]


def test_a_cleared_batch_is_filled_from_the_start() -> None:
    batch = Batch(2)
    batch.add([1, 2], [0, 1], [[0, 1], [2]], True)
    batch.clear()
    assert len(batch) == batch.n_outputs == 0
    assert contents(batch) == []
    batch.add([3], [5], 3)
    assert contents(batch) == [(3, 5, [3], False)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, 2, 3, 4, 5], 0), "5 tokens do not fit: the batch holds 0 of at most 4"),
        (([1.0], 0), "a token id must be an integer of 32 bits, not float64"),
        (([True], 0), "a token id must be an integer of 32 bits, not bool"),
        ((["a"], 0), "a token id must be an integer of 32 bits"),
        (([None], 0), "a token id must be an integer of 32 bits, not object"),
        (([2**31], 0), "a token id does not fit into 32 bits"),
        (([-(2**31) - 1], 0), "a token id does not fit into 32 bits"),
        (([2**64], 0), "a token id must be an integer of 32 bits, not object"),
        (([1], [0.5]), "a position must be an integer of 32 bits, not float64"),
        (([1], [2**31]), "a position does not fit into 32 bits"),
        (([1, 2], [0, 1, 2]), "positions of shape .* do not fit the tokens"),
        (([1], [0], 2**32), "a sequence id does not fit into 32 bits"),
        (([1], [0], [2**32]), "a sequence id does not fit into 32 bits"),
        (([1], [0], [[0, 2**32]]), "a sequence id does not fit into 32 bits"),
        (([1], [0], [[0.5]]), "a sequence id must be an integer of 32 bits, not float64"),
        (([1, 2], [0, 1], [0, 1, 2]), "3 sequence sets were given for 2 tokens"),
        (([1, 2], [0, 1], SequenceSets([0], [1])), "do not describe 2 tokens"),
        (([1], [0], SequenceSets([0, 1], [1])), "do not describe 1 tokens"),
        (([1, 2], [0, 1], 0, [True, False, True]), "logits flags of shape .* do not fit"),
    ],
)
def test_what_does_not_fit_is_refused_and_the_batch_stays_as_it_was(
    arguments: tuple[object, ...], message: str
) -> None:
    batch = Batch(4)
    with pytest.raises(BatchError, match=message):
        batch.add(*arguments)  # type: ignore[arg-type]
    assert len(batch) == 0
    batch.add([1], [0])
    assert contents(batch) == [(1, 0, [0], False)]


@pytest.mark.parametrize("capacity", [0, -1])
def test_a_batch_holds_at_least_one_token(capacity: int) -> None:
    with pytest.raises(BatchError, match="must be at least 1"):
        Batch(capacity)


def test_the_struct_is_one_object_over_the_same_memory() -> None:
    batch = Batch(2)
    batch.add([1], [0])
    first = batch.as_struct()
    batch.add([2], [1])
    assert batch.as_struct() == first
    assert ffi.string(ffi.cast("char *", first.pointer.token)) == b"\x01"
    assert np.array_equal(batch.tokens, [1, 2])


def test_tokens_are_text_unless_they_have_parents() -> None:
    batch = Batch(8)
    batch.add([5, 6], [0, 1])
    batch.add([7, 8], [2, 3], parents=[-1, 0])
    assert batch.parents.tolist() == [TEXT, TEXT, -1, 0]
    batch.clear()
    batch.add([5], [0])
    assert batch.parents.tolist() == [TEXT]
    with pytest.raises(BatchError, match="parents of shape"):
        batch.add([5, 6], [1, 2], parents=[0, 1, 2])


# -- what Context.decode takes


@pytest.fixture
def context(tiny_model: Callable[[str], Model]) -> Iterator[Context]:
    with Context(tiny_model("rope"), n_ctx=128, n_seq_max=2) as made:
        for seq in (0, 1):
            made.prefill([280, 281, 282], seq)
        yield made


TREE = TokenTree.from_paths([[5, 6], [7]])


@pytest.mark.parametrize(
    ("what", "seq", "message"),
    [
        pytest.param("a", 0, "expected a Batch, a TokenTree or one token id", id="a text"),
        pytest.param([5], 0, "expected a Batch, a TokenTree or one token id", id="a list"),
        pytest.param(True, 0, "expected a Batch, a TokenTree or one token id", id="a truth"),
        pytest.param(5, None, "expected the sequence of the token", id="a token alone"),
        pytest.param(5, 1.0, "seq=1.0: expected the sequence of the token", id="a fraction"),
        pytest.param(TREE, None, "expected the sequence of the tree", id="a tree alone"),
        pytest.param(Batch(1), 0, "expected None, a batch has its own", id="a batch's sequence"),
    ],
)
def test_decode_refuses_what_it_does_not_take(
    context: Context, what: Any, seq: Any, message: str
) -> None:
    with pytest.raises(BatchError, match=message):
        context.decode(what, seq=seq)
    assert context.sequences.n_past(0) == 3


def test_one_decode_runs_a_token_a_tree_or_a_batch_of_both(context: Context) -> None:
    token = context.decode(np.int32(9), seq=1).logits
    tree = context.decode(TREE, seq=0).logits
    context.discard(0)
    context.memory.rm(1, 3)
    batch = Batch(8)
    where = context.place(batch, 0, TREE)
    row = batch.add([9], [3], 1, True)
    outputs = context.decode(batch)
    assert outputs is context.outputs and outputs.n_rows == 4
    assert np.array_equal(outputs.logits[where], tree)
    assert np.array_equal(outputs.logits[row], token)
    assert context.sequences.is_pending(0) and not context.sequences.is_pending(1)


def decoded(context: Context, batch: Batch) -> None:
    context.place(batch, 0, TREE)
    context.decode(batch)


def discarded(context: Context, batch: Batch) -> None:
    context.place(batch, 0, TREE)
    context.discard(0)


def placed_elsewhere(context: Context, batch: Batch) -> None:
    discarded(context, batch)
    context.place(Batch(8), 0, TREE)


def forgotten(context: Context, batch: Batch) -> None:
    context.place(batch, 0, TREE)
    context.memory.clear()


@pytest.mark.parametrize("happened", [decoded, discarded, placed_elsewhere, forgotten])
def test_nodes_that_no_longer_wait_in_a_batch_are_not_decoded(
    context: Context, happened: Callable[[Context, Batch], None]
) -> None:
    batch = Batch(8)
    happened(context, batch)
    with pytest.raises(MemoryStateError, match="sequence 0 in this batch were decoded or discard"):
        context.decode(batch)
    context.discard(0)
    with pytest.raises(MemoryStateError, match="holds nodes of sequence 0 that were discarded"):
        context.place(batch, 0, TREE)
    batch.clear()
    context.place(batch, 0, TREE)
    assert context.decode(batch).n_rows == len(TREE)


def test_a_tree_next_to_text_behind_pending_nodes_is_refused(context: Context) -> None:
    context.decode(TREE, seq=1)
    batch = Batch(8)
    context.place(batch, 0, TREE)
    batch.add([9], [3], 1)
    with pytest.raises(MemoryStateError, match="sequence 1 has pending tree nodes"):
        context.decode(batch)
    assert context.sequences.is_pending(1) and not context.sequences.is_pending(0)


@pytest.mark.parametrize(
    "read", [lambda o: o.logit(0, 320), lambda o: o.logp(0, -1), lambda o: o.top_logp(0, 320, 1)]
)
def test_a_token_out_of_the_vocabulary_has_no_logit(
    context: Context, read: Callable[[Any], object]
) -> None:
    with pytest.raises(BatchError, match="expected an id from 0 to 319"):
        read(context.decode(5, seq=0))


def test_text_of_a_reused_batch_is_what_was_filled_last(context: Context) -> None:
    batch = Batch(4)
    batch.add([1, 2, 3, 4], [9, 9, 9, 9], [[0, 1], [1], [0], [1, 0]], True, [-1, 0, 1, 2])
    batch.fill_text(np.array([7, 8], np.int32), 3, 1, wants_last=True)
    assert contents(batch) == [(7, 3, [1], False), (8, 4, [1], True)]
    assert batch.parents.tolist() == [TEXT, TEXT]


def test_a_tree_is_placed_behind_tokens_of_many_sequences(context: Context) -> None:
    many = Batch(8)
    many.add([5] * 3, [0] * 3, [[1, 2, 3]] * 3)  # as many ids as the batch has tokens, and one more
    before = many.sequences.flat.tolist()
    where = context.place(many, 0, TREE)
    assert (where.start, where.stop) == (3, 3 + len(TREE))
    assert many.sequences.flat.tolist() == before + [0] * len(TREE)
    assert many.parents[where].tolist() == TREE.parents.tolist()
    assert many.logits[where].all()
    context.discard(0)
