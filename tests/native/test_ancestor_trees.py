"""AncestorTrees: what it keeps of a tree before and after a pass, and what it refuses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from pytreellama import Batch
from pytreellama.context.ancestor_trees import AncestorTrees
from pytreellama.errors import MemoryStateError, TreeError
from pytreellama.native.limits import N_NODES_MAX

SEQ, N_PAST = 3, 10


@dataclass
class Native:
    """Stands in for a context's sizes."""

    n_batch: int = 2048


@dataclass
class Cache:
    """Stands in for a cache whose sequences all hold ``N_PAST`` tokens; notes what is asked."""

    asked: list[tuple[object, ...]] = field(default_factory=list)

    def pos_max(self, seq: int) -> int:
        return N_PAST - 1

    def commit(self, seq: int, path: Sequence[int]) -> None:
        self.asked.append(("commit", seq, list(path)))

    def discard(self, seq: int) -> None:
        self.asked.append(("discard", seq))


@pytest.fixture
def cache() -> Cache:
    return Cache()


@pytest.fixture
def trees(cache: Cache) -> AncestorTrees:
    return AncestorTrees(Native(), cache)  # type: ignore[arg-type]


def place(trees: AncestorTrees, parents: Sequence[int], batch: Batch | None = None) -> Batch:
    """Nodes with these parents, put into a batch."""
    batch = batch or Batch(2048)
    tokens = np.full(len(parents), 5, dtype=np.int32)
    trees.place(batch, SEQ, tokens, np.array(parents, dtype=np.int32))
    return batch


def decode(trees: AncestorTrees, parents: Sequence[int]) -> Batch:
    batch = place(trees, parents)
    trees.confirm(SEQ)
    return batch


def test_nodes_carry_their_parents_and_stand_one_after_them(trees: AncestorTrees) -> None:
    batch = decode(trees, [-1, 0, 0, -1])
    assert batch.parents.tolist() == [-1, 0, 0, -1]
    assert batch.positions.tolist() == [10, 11, 11, 10]
    assert batch.sequences.flat.tolist() == [SEQ] * 4
    assert batch.n_outputs == 4


def test_new_nodes_count_their_parents_from_the_first_pending_one(trees: AncestorTrees) -> None:
    decode(trees, [-1, 0])
    batch = decode(trees, [1, 2, -1, 0])
    assert batch.parents.tolist() == [1, 2, -1, 0]
    assert batch.positions.tolist() == [12, 13, 10, 11]


def test_a_node_goes_where_its_parent_goes_in_any_order_of_depths(trees: AncestorTrees) -> None:
    assert decode(trees, [-1, 0, 1, -1, 0, 3]).positions.tolist() == [10, 11, 12, 10, 11, 11]


def test_the_text_ends_where_it_ended_before_the_tree(trees: AncestorTrees) -> None:
    decode(trees, [-1, 0, 1])
    assert trees.n_past(SEQ) == N_PAST
    assert trees.pending_sequences == {SEQ}


@pytest.mark.parametrize(
    ("n_old", "n_new"), [(0, N_NODES_MAX + 1), (1, N_NODES_MAX), (N_NODES_MAX, 1)]
)
def test_more_nodes_than_a_sequence_may_have_are_refused(
    trees: AncestorTrees, n_old: int, n_new: int
) -> None:
    if n_old:
        decode(trees, range(-1, n_old - 1))
    batch = Batch(2048)
    with pytest.raises(TreeError, match=r"sequence 3 would have 1025 pending nodes, at most 1024"):
        place(trees, [-1] * n_new, batch)
    assert len(batch) == 0
    assert trees.is_pending(SEQ) == (n_old > 0)


@pytest.mark.parametrize(
    ("parents", "message"),
    [
        ([], "empty"),
        ([-2], "node 2 has parent -2"),
        ([2], "node 2 has parent 2; a parent stands before its child"),
        ([0, 4], "node 3 has parent 4"),
    ],
)
def test_what_is_no_growth_is_refused_and_nothing_has_changed(
    trees: AncestorTrees, parents: list[int], message: str
) -> None:
    decode(trees, [-1, 0])
    batch = Batch(8)
    with pytest.raises(TreeError, match=message):
        place(trees, parents, batch)
    assert len(batch) == 0
    assert decode(trees, [1]).positions.tolist() == [12]


def test_a_batch_without_room_is_refused(trees: AncestorTrees) -> None:
    batch = Batch(3)
    batch.add([1, 2], [0, 1])
    with pytest.raises(TreeError, match=r"2 nodes does not fit .* room for 1"):
        place(trees, [-1, 0], batch)
    assert not trees.is_pending(SEQ)


def test_nodes_that_wait_in_a_batch_let_nothing_pass(trees: AncestorTrees, cache: Cache) -> None:
    place(trees, [-1])
    for act in (lambda: place(trees, [-1]), lambda: trees.commit(SEQ, [0])):
        with pytest.raises(MemoryStateError, match="not decoded"):
            act()
    assert cache.asked == []


def test_a_pass_that_failed_is_forgotten_and_earlier_nodes_stay(
    trees: AncestorTrees, cache: Cache
) -> None:
    decode(trees, [-1, 0])
    place(trees, [1, 1])
    trees.undo(SEQ)
    assert trees.is_pending(SEQ)
    with pytest.raises(TreeError, match="not a path of the pending tree of 2 nodes"):
        trees.commit(SEQ, [0, 1, 2])
    trees.commit(SEQ, [0, 1])
    assert cache.asked == [("commit", SEQ, [0, 1])]


def test_a_first_pass_that_failed_leaves_no_tree(trees: AncestorTrees, cache: Cache) -> None:
    place(trees, [-1])
    trees.undo(SEQ)
    trees.undo(SEQ)
    assert not trees.is_pending(SEQ)
    with pytest.raises(MemoryStateError, match="no pending nodes"):
        trees.commit(SEQ, [])
    assert cache.asked == []


@pytest.mark.parametrize("path", [[1], [0, 0], [0, 2, 1], [-1], [3]], ids=str)
def test_what_is_no_path_never_reaches_the_cache(
    trees: AncestorTrees, cache: Cache, path: list[int]
) -> None:
    decode(trees, [-1, 0, 0])
    with pytest.raises(TreeError, match="not a path"):
        trees.commit(SEQ, path)
    assert cache.asked == []
    assert trees.is_pending(SEQ)


def test_a_discard_tells_the_cache_once_and_only_of_what_was_decoded(
    trees: AncestorTrees, cache: Cache
) -> None:
    place(trees, [-1])
    trees.discard(SEQ)
    assert cache.asked == []
    decode(trees, [-1])
    place(trees, [0])
    trees.discard(SEQ)
    trees.discard(SEQ)
    assert cache.asked == [("discard", SEQ)]
    assert not trees.is_pending(SEQ)


def test_a_cleared_cache_has_no_trees(trees: AncestorTrees) -> None:
    decode(trees, [-1])
    trees.forget()
    assert trees.pending_sequences == frozenset()
