"""The attention kernel gives the bits of plain loops, which state in which order sums go.

However it takes heads together, reads ahead, widens keys and values, or shares work among threads:
one cell after the other, one row at a time, is what its results must equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytreellama.testing.attention import CellGroup, attention

TYPES = ("f16", "bf16", "q8_0", "f32", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")
FLOATS = ("f16", "bf16", "f32")
CHANNELS = (32, 64, 96, 128, 256)
ODD_CHANNELS = (7, 40, 72, 80, 100, 112)
HIDING = ("none", "some", "most", "future", "far", "siblings")
LAYOUTS = ("dense", "holes", "gaps", "repeats", "branch")

Array = np.ndarray


@dataclass(frozen=True)
class Op:
    """One attention op."""

    arrays: tuple[Array, Array, Array, Array]
    groups: list[CellGroup]
    options: dict[str, Any]

    def run(self, **changes: Any) -> bytes:
        """The bits of the result; one NaN is like another."""
        with np.errstate(over="ignore"):
            found = attention(*self.arrays, self.groups, **(self.options | changes))
        return np.where(np.isnan(found), np.float32(np.nan), found).tobytes()


def positions(rng: np.random.Generator, n_cells: int, layout: str) -> Array:
    """Of cells in their order, from anywhere on."""
    if layout == "dense":
        return rng.integers(0, 300) + np.arange(n_cells)
    if layout == "holes":
        return np.sort(rng.integers(0, 2 * n_cells, n_cells))
    if layout == "gaps":
        return np.cumsum(rng.choice([1, 1, 1, 1, 2, 700], n_cells))
    if layout == "repeats":
        return np.minimum(np.arange(n_cells), rng.integers(0, n_cells))
    start = rng.integers(0, n_cells)  # a branch that goes on below many siblings
    return np.concatenate([np.arange(start), start + np.arange(n_cells - start) // 3])


def sees(rng: np.random.Generator, n_queries: int, n_cells: int, hiding: str) -> Array:
    """Which query sees which cell; one in ten sees nothing."""
    age = np.arange(n_queries)[:, None] + n_cells - n_queries - np.arange(n_cells)
    seen = {
        "none": np.ones_like(age, bool),
        "some": rng.random(age.shape) < 0.7,
        "most": rng.random(age.shape) < 0.02,
        "future": age >= 0,
        "far": (age >= 0) & (age < rng.integers(1, 200)),
        "siblings": (age == 0) | (np.arange(n_cells) < n_cells - n_queries),
    }[hiding]
    seen[rng.random(n_queries) < 0.1] = False
    return seen


@st.composite
def ops(draw: st.DrawFn) -> Op:
    rng = np.random.default_rng(draw(st.integers(0, 2**32), "seed"))
    type_k = draw(st.sampled_from(TYPES), "type_k")
    type_v = draw(st.sampled_from((type_k, *TYPES)), "type_v")
    is_blocked = any(kind not in FLOATS for kind in (type_k, type_v))
    channels = st.sampled_from(CHANNELS if is_blocked else CHANNELS + ODD_CHANNELS)
    n_embd_k, n_embd_v = draw(channels, "n_embd_k"), draw(channels, "n_embd_v")
    n_per_kv = draw(st.integers(1, 16), "n_per_kv")
    n_heads_kv = draw(st.integers(1, 8), "n_heads_kv")
    n_heads = n_heads_kv * n_per_kv
    n_queries = draw(st.sampled_from([1, 1, 2, 3, 5, 8, 24, 70]), "n_queries")
    most_cells = max(2, min(2000, 12_000_000 // (n_queries * n_heads * (n_embd_k + n_embd_v))))
    n_cells = draw(st.integers(1, most_cells), "n_cells")
    max_bias = draw(st.sampled_from([0.0, 0.0, 8.0]), "max_bias")
    mask = np.full((n_queries, n_cells), -np.inf, np.float32)
    owner = rng.integers(0, draw(st.integers(1, 3), "n_groups"), n_queries)
    groups = []
    for g in np.unique(owner):
        queries = np.flatnonzero(owner == g).astype(np.int32)
        cells = np.arange(n_cells)
        if draw(st.booleans(), "shuffled"):
            cells = rng.permutation(n_cells)[: rng.integers(1, n_cells + 1)]
        where = positions(rng, len(cells), draw(st.sampled_from(LAYOUTS), "layout"))
        seen = sees(rng, len(queries), len(cells), draw(st.sampled_from(HIDING), "hiding"))
        bias = -np.abs(where[-1] - where) if max_bias else rng.choice([0, -1.5], len(cells))
        mask[np.ix_(queries, cells)] = np.where(seen, bias, -np.inf)
        groups.append(CellGroup(queries, cells.astype(np.int32), where.astype(np.int32)))
    q = rng.normal(size=(n_queries, n_heads, n_embd_k)).astype(np.float32)
    k = rng.normal(size=(n_cells, n_heads_kv, n_embd_k)).astype(np.float32)
    v = rng.normal(size=(n_cells, n_heads_kv, n_embd_v)).astype(np.float32)
    if not is_blocked and draw(st.booleans(), "ill"):
        values = np.array([np.inf, -np.inf, np.nan, 1e30], np.float32)
        for array in (k, v):
            array[rng.integers(n_cells), rng.integers(n_heads_kv), ::2] = rng.choice(values)
    options = {
        "type_k": type_k,
        "type_v": type_v,
        "max_bias": max_bias,
        "softcap": draw(st.sampled_from([0.0, 0.0, 5.0]), "softcap"),
        "sinks": rng.normal(size=n_heads) if draw(st.booleans(), "sinks") else None,
    }
    return Op((q * np.float32(rng.choice([0.3, 1.0, 4.0])), k, v, mask), groups, options)


@given(ops(), st.integers(1, 4))
def test_it_gives_the_bits_of_plain_loops(op: Op, n_threads: int) -> None:
    assert op.run(n_threads=n_threads) == op.run(plain=True)


def text(kind: str, n_queries: int, n_heads_kv: int, n_cells: int = 1500) -> Op:
    """The last tokens of a long text."""
    rng = np.random.default_rng(n_queries)
    cells = np.arange(n_cells, dtype=np.int32)
    last = np.arange(n_cells - n_queries, n_cells)
    mask = np.where(cells <= last[:, None], 0, -np.inf).astype(np.float32)
    q = rng.normal(size=(n_queries, 3 * n_heads_kv, 64)).astype(np.float32)
    k, v = (rng.normal(size=(n_cells, n_heads_kv, 64)).astype(np.float32) for _ in range(2))
    groups = [CellGroup(np.arange(n_queries, dtype=np.int32), cells, cells)]
    return Op((q, k, v, mask), groups, {"type_k": kind, "type_v": kind})


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("n_heads_kv", [1, 3, 8])
@pytest.mark.parametrize("n_queries", [1, 2, 7, 22])
def test_so_it_does_behind_long_texts(n_queries: int, n_heads_kv: int, kind: str) -> None:
    op = text(kind, n_queries, n_heads_kv, 600)
    expected = op.run(plain=True)
    assert all(op.run(n_threads=n_threads) == expected for n_threads in (1, 2, 3))


def test_plain_loops_notice_another_order() -> None:
    """Otherwise the tests above would show nothing."""
    op = text("f16", 3, 2)
    shifted = [CellGroup(group.queries, group.cells, group.positions + 1) for group in op.groups]
    assert Op(op.arrays, shifted, op.options).run() != op.run(plain=True)
