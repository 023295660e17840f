"""Attention that reads shared cells once has the bits of plain loops over each group's list."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytreellama.testing.attention import CellGroup, attention, shared_order

N_HEADS, N_HEADS_KV, N_EMBD = 6, 2, 32
N_TEAMS = 1  # where it stands in an order

Array = np.ndarray


@dataclass(frozen=True)
class Forest:
    """Groups of queries, and which of them see which cells."""

    arrays: tuple[Array, Array, Array, Array]
    groups: Array
    positions: Array
    seen: Array
    options: dict[str, Any]

    def order(self, n_numbers: int | None = None) -> Array:
        return shared_order(self.groups, self.positions, self.seen, n_numbers)

    def plain(self) -> bytes:
        lists = []
        for g, seen in enumerate(self.seen):
            cells = np.flatnonzero(seen)
            cells = cells[np.argsort(self.positions[cells], kind="stable")]
            queries = np.flatnonzero(self.groups == g)
            lists.append(
                CellGroup(*(a.astype(np.int32) for a in (queries, cells, self.positions[cells])))
            )
        return bits(attention(*self.arrays, lists, plain=True, **self.options))

    def shared(self, order: Array, n_threads: int) -> bytes:
        found = attention(*self.arrays, None, order=order, n_threads=n_threads, **self.options)
        return bits(found)


def bits(found: Array) -> bytes:
    """One NaN is like another."""
    return np.where(np.isnan(found), np.float32(np.nan), found).tobytes()


@st.composite
def forests(draw: st.DrawFn) -> Forest:
    """Texts that fork off each other, with holes, windows and trees, in cells at random."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32), "seed"))
    n_groups = draw(st.integers(1, 7), "n_groups")
    cells: list[tuple[int, set[int]]] = []
    length = [0] * n_groups
    for g in range(n_groups):
        if g > 0 and draw(st.booleans(), "forks"):
            parent = int(rng.integers(g))
            length[g] = int(rng.integers(length[parent] + 1))
            for position, who in cells:
                if parent in who and position < length[g]:
                    who.add(g)
        for _ in range(draw(st.sampled_from([0, 1, 3, 40, 64, 130, 300, 700]), "n_own")):
            cells.append((length[g], {g}))
            length[g] += 1 if rng.random() < 0.99 else int(rng.integers(1, 400))
    if draw(st.booleans(), "windows"):
        window = int(rng.integers(1, 500))
        for position, who in cells:
            who -= {g for g in who if position < length[g] - window}
    for _ in range(draw(st.sampled_from([0, 0, 3, 30]), "n_holes")):
        if cells:
            cells[int(rng.integers(len(cells)))][1].discard(int(rng.integers(n_groups)))
    n_nodes = [draw(st.sampled_from([1, 1, 1, 2, 8]), "n_nodes") for _ in range(n_groups)]
    groups = np.repeat(np.arange(n_groups), n_nodes)
    rng.shuffle(groups)
    texts = len(cells)
    cells += [(length[g] + int(rng.integers(3)), {int(g)}) for g in groups]
    cells += [(0, set())] * int(rng.integers(20))
    place = np.arange(len(cells))
    if draw(st.booleans(), "shuffled"):
        rng.shuffle(place)
    positions = np.empty(len(cells), np.int32)
    seen = np.zeros((n_groups, len(cells)), bool)
    for (position, who), cell in zip(cells, place, strict=True):
        positions[cell] = position
        seen[list(who), cell] = True
    mask = np.where(seen[groups], np.float32(0.0), np.float32(-np.inf))
    mask[:, place[texts : texts + len(groups)]] = -np.inf  # of nodes, each sees itself
    mask[np.arange(len(groups)), place[texts : texts + len(groups)]] = 0.0
    mask[rng.random(mask.shape) < draw(st.sampled_from([0.0, 0.0, 0.5]), "hidden")] = -np.inf
    q = rng.normal(size=(len(groups), N_HEADS, N_EMBD)).astype(np.float32)
    k, v = (rng.normal(size=(len(cells), N_HEADS_KV, N_EMBD)).astype(np.float32) for _ in "kv")
    if draw(st.booleans(), "ill"):
        values = np.array([np.inf, -np.inf, np.nan, 1e30], np.float32)
        (k, v)[int(rng.integers(2))][rng.integers(len(cells)), :, ::2] = rng.choice(values)
    kind = draw(st.sampled_from(["f16", "f32", "bf16"]), "kind")
    options = {"type_k": kind, "type_v": kind}
    return Forest((q, k, v, mask), groups, positions, seen, options)


@settings(max_examples=1000)  # a team between two chunks of another comes once in 150
@given(forests(), st.integers(1, 3))
def test_texts_that_fork_get_the_bits_of_each_alone(forest: Forest, n_threads: int) -> None:
    with np.errstate(over="ignore"):
        assert forest.shared(forest.order(), n_threads) == forest.plain()


@given(forests())
def test_one_list_for_all_does_where_there_is_no_room(forest: Forest) -> None:
    n_groups, n_cells = forest.seen.shape
    n_least = 64 + 12 * n_groups + 4 * len(forest.groups) + 2 * n_cells
    with np.errstate(over="ignore"):
        assert forest.shared(forest.order(n_least), 2) == forest.plain()


def behind_one_prompt(n_groups: int, n_prompt: int, n_own: int) -> Forest:
    rng = np.random.default_rng(n_groups)
    n_cells = n_prompt + n_groups * n_own
    owner = np.repeat(np.arange(n_groups), n_own)
    positions = np.concatenate(
        [np.arange(n_prompt), n_prompt + np.tile(np.arange(n_own), n_groups)]
    )
    seen = np.ones((n_groups, n_cells), bool)
    seen[:, n_prompt:] = owner == np.arange(n_groups)[:, None]
    mask = np.where(seen, np.float32(0.0), np.float32(-np.inf))
    q = rng.normal(size=(n_groups, N_HEADS, N_EMBD)).astype(np.float32)
    k, v = (rng.normal(size=(n_cells, N_HEADS_KV, N_EMBD)).astype(np.float32) for _ in "kv")
    return Forest((q, k, v, mask), np.arange(n_groups), positions, seen, {})


@pytest.mark.parametrize("n_prompt", [1, 255, 256, 300, 1000])
@pytest.mark.parametrize("n_groups", [2, 16, 40])
def test_a_prompt_is_listed_once_for_all_and_has_its_bits(n_groups: int, n_prompt: int) -> None:
    forest = behind_one_prompt(n_groups, n_prompt, 30)
    order = forest.order()
    expected = forest.plain()
    assert all(forest.shared(order, n_threads) == expected for n_threads in (1, 2))
    if n_prompt >= 64:
        assert order[N_TEAMS] > 0
        n_prompt_cells = n_prompt + n_groups * (30 + 64)
        assert order[2] <= n_prompt_cells  # cells listed; the prompt's last block for each


def test_a_few_cells_in_common_are_no_reason_to_read_together() -> None:
    """Such as the token that begins all texts."""
    assert behind_one_prompt(8, 3, 100).order()[N_TEAMS] == 0


def test_room_grows_with_cells_and_groups_not_with_their_product() -> None:
    n_numbers = [
        len(
            shared_order(
                np.arange(n, dtype=np.int32),
                np.arange(4096, dtype=np.int32),
                np.ones((n, 4096), bool),
            )
        )
        for n in (2, 4, 8, 64)
    ]
    per_group = np.diff(n_numbers) / np.diff([2, 4, 8, 64])
    assert per_group.max() < 2000
    assert n_numbers[0] < 5 * 4096 + 2 * 2000
