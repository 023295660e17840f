"""What the check of a batch lets through and what it refuses, and in which words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytreellama import Batch
from pytreellama.context.batch_check import check_batch
from pytreellama.errors import BatchError

N_VOCAB, N_SEQ_IDS = 100, 4


@dataclass
class Cache:
    """Stands in for a context: sizes, and the positions that its cache holds."""

    ranges: dict[int, tuple[int, int]] = field(default_factory=dict)
    n_batch: int = 16
    n_vocab: int = N_VOCAB

    def position_ranges(self, seq_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        pairs = [self.ranges.get(int(seq), (-1, -1)) for seq in seq_ids]
        smallest, largest = np.array(pairs, dtype=np.int32).reshape(-1, 2).T
        return smallest, largest


Row = tuple[int, int, Sequence[int]]


def batch_of(*rows: Row) -> Batch:
    """A batch of (token, position, sequences)."""
    batch = Batch(64)
    for token, position, seqs in rows:
        batch.add([token], [position], [list(seqs)])
    return batch


@pytest.mark.parametrize(
    ("rows", "ranges"),
    [
        pytest.param([(1, 0, [0])], {}, id="an empty sequence begins at 0"),
        pytest.param([(1, 7, [0])], {}, id="an empty sequence may begin later"),
        pytest.param([(1, 5, [0])], {0: (0, 4)}, id="a sequence goes on"),
        pytest.param(
            [(1, 5, [0]), (2, 3, [1]), (3, 6, [0])], {0: (0, 4), 1: (0, 2)}, id="two mixed"
        ),
        pytest.param([(1, 5, [0]), (2, 5, [0])], {0: (0, 4)}, id="siblings share a position"),
        pytest.param([(1, 3, [0, 1]), (2, 4, [0]), (3, 4, [1])], {0: (0, 2), 1: (0, 2)}, id="tree"),
        pytest.param([(N_VOCAB - 1, 0, [3])], {}, id="the largest ids"),
    ],
)
def test_a_batch_that_llama_cpp_takes_passes(
    rows: list[Row], ranges: dict[int, tuple[int, int]]
) -> None:
    check_batch(batch_of(*rows), Cache(ranges), N_SEQ_IDS)


@pytest.mark.parametrize(
    ("rows", "ranges", "message"),
    [
        ([], {}, "batch is empty; add at least one token"),
        ([(1, i, [0]) for i in range(17)], {}, "has 17 tokens.* at most n_batch = 16"),
        ([(1, 0, [0]), (-1, 1, [0])], {}, "token 1 of the batch has id -1; ids are from 0 to 99"),
        ([(N_VOCAB, 0, [0])], {}, "token 0 of the batch has id 100"),
        ([(2**31 - 1, 0, [0])], {}, "has id 2147483647"),
        ([(1, 0, [0]), (1, 1, [])], {}, "token 1 of the batch belongs to no sequence"),
        ([(1, 0, [4])], {}, "sequence id 4 is out of range; .* from 0 to 3"),
        ([(1, 0, [0, -1])], {}, "sequence id -1 is out of range"),
        ([(1, -1, [0])], {}, "starts at position -1 .* must not be negative"),
        ([(1, 0, [2])], {2: (0, 4)}, "sequence 2 starts at position 0 .* must go on at 5"),
        ([(1, 6, [2])], {2: (0, 4)}, "starts at position 6 .* must go on at 5"),
        ([(1, 0, [0]), (1, 2, [0])], {}, "sequence 0 jumps from 0 to 2"),
        ([(1, 3, [0]), (1, 2, [0])], {}, "sequence 0 falls from 3 to 2"),
        ([(1, 3, [0]), (1, 1, [1]), (1, 5, [0])], {}, "sequence 0 jumps from 3 to 5"),
        (
            [(1, 5, [0, 1])],
            {0: (0, 4), 1: (2, 4)},
            "belongs to sequences 0 and 1, which hold different positions; copy the one",
        ),
    ],
)
def test_what_llama_cpp_must_not_see_is_refused_in_words(
    rows: list[Row], ranges: dict[int, tuple[int, int]], message: str
) -> None:
    with pytest.raises(BatchError, match=message):
        check_batch(batch_of(*rows), Cache(ranges), N_SEQ_IDS)


def test_what_is_written_into_the_views_is_checked_too() -> None:
    batch = batch_of((1, 0, [0]), (2, 1, [0]))
    batch.tokens[1] = -5
    with pytest.raises(BatchError, match="has id -5"):
        check_batch(batch, Cache(), N_SEQ_IDS)
    batch.tokens[1] = 5
    batch.positions[1] = 9
    with pytest.raises(BatchError, match="jumps from 0 to 9"):
        check_batch(batch, Cache(), N_SEQ_IDS)


def test_positions_of_nodes_may_fork_and_those_of_text_beside_them_may_not() -> None:
    cache = Cache({0: (0, 4), 1: (0, 2)})
    batch = Batch(8)
    batch.add([1, 2, 3], [5, 6, 5], 0, parents=[-1, 0, -1])
    batch.add([4], [3], 1)
    check_batch(batch, cache, N_SEQ_IDS)
    batch.positions[3] = 4
    with pytest.raises(BatchError, match=r"sequence 1 starts at position 4 .* must go on at 3"):
        check_batch(batch, cache, N_SEQ_IDS)


@pytest.mark.parametrize(
    ("token", "seq", "message"), [(-1, 0, "has id -1"), (1, 4, "sequence id 4 is out of range")]
)
def test_tokens_and_sequences_of_nodes_are_checked_as_those_of_text(
    token: int, seq: int, message: str
) -> None:
    batch = Batch(1)
    batch.add([token], [5], seq, parents=[-1])
    with pytest.raises(BatchError, match=message):
        check_batch(batch, Cache(), N_SEQ_IDS)


def accepts(rows: list[Row], cache: Cache) -> bool:
    """The rules once more, token by token."""
    if not 1 <= len(rows) <= cache.n_batch:
        return False
    next_position: dict[int, tuple[int, int]] = {}
    for token, position, seqs in rows:
        if not 0 <= token < cache.n_vocab or not seqs:
            return False
        for seq in seqs:
            if not 0 <= seq < N_SEQ_IDS:
                return False
            last = cache.ranges.get(seq, (-1, -1))[1]
            first = (last + 1, last + 1) if last >= 0 else (0, 2**31)
            low, high = next_position.get(seq, first)
            if not low <= position <= high:
                return False
            next_position[seq] = (position, position + 1)
        if len({cache.ranges.get(seq, (-1, -1)) for seq in seqs}) > 1:
            return False
    return True


small_rows = st.tuples(
    st.sampled_from([1, 1, 1, 1, 1, 1, N_VOCAB - 1, N_VOCAB, -1]),
    st.integers(-1, 4),
    st.lists(st.integers(0, 2), min_size=0, max_size=2, unique=True),
)


@given(
    rows=st.lists(small_rows, max_size=5),
    ends=st.dictionaries(st.integers(0, 2), st.integers(0, 2), max_size=3),
)
def test_whole_arrays_decide_as_a_loop_over_tokens_does(
    rows: list[Row], ends: dict[int, int]
) -> None:
    cache = Cache({seq: (0, end) for seq, end in ends.items()})
    try:
        check_batch(batch_of(*rows), cache, N_SEQ_IDS)
        accepted = True
    except BatchError:
        accepted = False
    assert accepted == accepts(rows, cache)
