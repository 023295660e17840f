"""What the cache says of shared cells, against what stands in every cell of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytreellama import Context, Model
from pytreellama.testing.cells import Cells, read_cells

N_SEQS = 4
SEQS = st.integers(0, N_SEQS - 1)
POSITIONS = st.integers(0, 12)


@pytest.fixture(scope="module")
def context(tiny_model: Callable[..., Model]) -> Iterator[Context]:
    with Context(tiny_model("rope"), n_ctx=256, n_threads=1, n_seq_max=N_SEQS) as context:
        yield context


def cells_of(context: Context) -> Cells:
    cells = read_cells(context)
    assert cells is not None
    return cells


def would_mix_by_cells(cells: Cells, source: int, target: int, first: int, last: int) -> bool:
    own, others, positions = cells.members[:, source], cells.members[:, target], cells.positions
    copied = positions[own & (positions >= first) & (positions <= last)]
    if len(copied) == 0:
        return False
    between = (positions >= copied.min()) & (positions <= copied.max())
    return bool((others & ~own & between).any())


@given(
    st.lists(st.tuples(SEQS, st.integers(1, 9)), max_size=4),
    st.lists(st.tuples(SEQS, SEQS, POSITIONS, POSITIONS), max_size=6),
    SEQS,
    SEQS,
    POSITIONS,
    POSITIONS,
)
def test_shared_and_mixed_cells_are_those_that_a_look_at_every_cell_finds(
    context: Context,
    texts: list[tuple[int, int]],
    changes: list[tuple[int, int, int, int]],
    source: int,
    target: int,
    first: int,
    last: int,
) -> None:
    context.memory.clear(data=False)
    for seq, n_tokens in texts:
        context.prefill([5] * n_tokens, seq)
    for one, other, p0, p1 in changes:
        if one == other:
            context._cache.rm(one, p0, p1)
        else:
            context._cache.cp(one, other, p0, p1)
    cells = cells_of(context)
    for seq in range(N_SEQS):
        shared = cells.members[cells.members[:, seq]].sum(axis=1) > 1
        assert context.memory.is_shared(seq) == bool(shared.any())
    expected = would_mix_by_cells(cells, source, target, first, last)
    assert context._cache.would_mix(source, target, first, last) == expected
