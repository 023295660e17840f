"""Old names of ``Context`` warn, and do what the new ones do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from pytreellama import Batch, Context, Model, TokenTree
from pytreellama.context.deprecated import MOVED
from pytreellama.errors import MemoryStateError

TEXT = list(range(280, 290))
TREE = TokenTree.from_paths([[5, 6], [5, 7], [8]])

Act = Callable[[Any], Any]


def batch_of(context: Any, place: str) -> Batch:
    """A batch with a tree of sequence 0, put there by the method of this name."""
    batch = Batch(8)
    getattr(context, place)(batch, 0, TREE)
    return batch


CASES: dict[str, tuple[Act, Act]] = {
    "decode_one": (
        lambda c: (c.decode_one(0, 9), c.outputs.logits),
        lambda c: (c.decode(9, seq=0) and None, c.outputs.logits),
    ),
    "decode_tree": (lambda c: c.decode_tree(0, TREE), lambda c: c.decode(TREE, seq=0).logits),
    "decode_one_tree": (
        lambda c: (c.decode_one_tree(0, TREE), c.outputs.logits),
        lambda c: (c.decode(TREE, seq=0) and None, c.outputs.logits),
    ),
    "decode_trees": (
        lambda c: (c.decode_trees(batch_of(c, "place"), [0]), c.outputs.logits),
        lambda c: (c.decode(batch_of(c, "place")) and None, c.outputs.logits),
    ),
    "add_tree": (
        lambda c: batch_of(c, "add_tree").positions,
        lambda c: batch_of(c, "place").positions,
    ),
    "grow_tree": (
        lambda c: (c.decode(TREE, seq=0), c.grow_tree(0, [9], [2]))[1],
        lambda c: (c.decode(TREE, seq=0), c.grow(0, [9], [2]).logits)[1],
    ),
    "new_sequence": (lambda c: c.new_sequence(), lambda c: c.sequences.new()),
    "free_sequence": (
        lambda c: (c.free_sequence(0), c.memory.pos_max(0)),
        lambda c: (c.sequences.free(0), c.memory.pos_max(0)),
    ),
    "n_past": (lambda c: c.n_past(0), lambda c: c.sequences.n_past(0)),
    "is_pending": (lambda c: c.is_pending(0), lambda c: c.sequences.is_pending(0)),
    "n_spare_leaves": (lambda c: c.n_spare_leaves, lambda c: c.sequences.n_spare_leaves),
    "n_outputs": (lambda c: c.n_outputs, lambda c: c.outputs.n_rows),
    "logits": (lambda c: c.logits, lambda c: c.outputs.logits),
    "logits_view": (lambda c: c.logits_view, lambda c: c.outputs.logits_view),
    "logits_pointer": (
        lambda c: [*c.logits_pointer(0)[0:9]],
        lambda c: [*c.outputs.logits_pointer(0)[0:9]],
    ),
    "logit": (lambda c: c.logit(0, 7), lambda c: c.outputs.logit(0, 7)),
    "argmax": (lambda c: c.argmax(), lambda c: c.outputs.argmax()),
    "top_k": (lambda c: c.top_k(3), lambda c: c.outputs.top_k(3)),
    "logp": (lambda c: c.logp([7]), lambda c: c.outputs.token_logps([7])),
    "row_logp": (lambda c: c.row_logp(0, 7), lambda c: c.outputs.logp(0, 7)),
    "row_top_logp": (lambda c: c.row_top_logp(0, 7, 2), lambda c: c.outputs.top_logp(0, 7, 2)),
    "keep_hidden": (
        lambda c: (c.keep_hidden(), c.decode(9, seq=0).hidden([0]))[1],
        lambda c: (c.outputs.keep_hidden(), c.decode(9, seq=0).hidden([0]))[1],
    ),
    "hidden": (
        lambda c: (c.outputs.keep_hidden(), c.decode(9, seq=0), c.hidden([0]))[2],
        lambda c: (c.outputs.keep_hidden(), c.decode(9, seq=0).hidden([0]))[1],
    ),
    "embedding": (lambda c: c.embedding(), lambda c: c.outputs.embedding()),
}


@pytest.fixture
def model(tiny_model: Callable[[str], Model]) -> Model:
    return tiny_model("rope")


def at_work(model: Model, *, embeddings: bool) -> Iterator[Context]:
    with Context(model, n_ctx=128, n_seq_max=2, embeddings=embeddings) as context:
        context.prefill(TEXT, 0, logits=True)
        yield context


def test_every_old_name_has_a_case() -> None:
    assert CASES.keys() == MOVED.keys()


@pytest.mark.parametrize("name", CASES)
def test_an_old_name_warns_and_gives_what_the_new_one_gives(model: Model, name: str) -> None:
    old, new = CASES[name]
    for context in at_work(model, embeddings=name == "embedding"):
        with pytest.warns(DeprecationWarning) as warned:
            told = old(context)
        assert [str(one.message) for one in warned] == [
            f"Context.{name} is deprecated and goes with the next release; "
            f"use Context.{MOVED[name][0]}"
        ]
        assert warned[0].filename == __file__
        for fresh in at_work(model, embeddings=name == "embedding"):
            np.testing.assert_equal(told, new(fresh))


def test_trees_of_sequences_that_a_batch_does_not_hold_are_refused(model: Model) -> None:
    for context in at_work(model, embeddings=False):
        batch = batch_of(context, "place")
        with (
            pytest.warns(DeprecationWarning),
            pytest.raises(MemoryStateError, match="sequence 1 has no nodes in this batch"),
        ):
            context.decode_trees(batch, [0, 1])  # type: ignore[attr-defined]


def test_a_name_that_never_was_is_no_attribute(model: Model) -> None:
    for context in at_work(model, embeddings=False):
        with pytest.raises(AttributeError, match="'Context' object has no attribute 'logitz'"):
            context.logitz  # type: ignore[attr-defined] # noqa: B018
