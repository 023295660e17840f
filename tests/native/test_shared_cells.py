"""What the planner is told of cells that several sequences see."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pytreellama import Engine, Model
from pytreellama.engine.completion import Stats
from pytreellama.engine.drafting import PlannedDrafting
from pytreellama.engine.kv.shared_cells import SharedCells
from pytreellama.engine.token_state import TokenState


@dataclass(eq=False)
class Text:
    """The part of a job that is counted."""

    tokens: list[int]
    n_taken: int
    stats: Stats = field(default_factory=Stats)

    def __post_init__(self) -> None:
        self.stats.n_shared = self.n_taken
        self.state = TokenState(np.array([*self.tokens, 0], np.int32))  # the last is not cached
        self.state.n_past = len(self.tokens)


def count(cells: SharedCells, texts: Sequence[Text]) -> int:
    return cells.count(cast(Any, texts))


def n_apart(texts: Sequence[Text]) -> int:
    return sum(text.state.n_past for text in texts)


@given(st.lists(st.lists(st.sampled_from([0, 1, 256, 70000]), max_size=6), max_size=6))
def test_each_beginning_counts_once(tokens: list[list[int]]) -> None:
    texts = [Text(one, len(one)) for one in tokens]
    beginnings = {tuple(one[: n + 1]) for one in tokens for n in range(len(one))}
    assert n_apart(texts) - count(SharedCells(), texts) == len(beginnings)


def test_equal_texts_that_took_nothing_from_each_other_share_nothing() -> None:
    texts = [Text([5] * 100, 0) for _ in range(4)]
    assert count(SharedCells(), texts) == 0


def test_who_comes_and_goes_is_counted() -> None:
    cells = SharedCells()
    texts = [Text([5] * 100 + [i], 100) for i in range(4)]
    assert [count(cells, texts[:n]) for n in (1, 2, 4, 3)] == [0, 100, 300, 200]


def test_what_is_written_later_is_no_ones_but_the_writers() -> None:
    cells = SharedCells()
    texts = [Text([5] * 100, 100) for _ in range(2)]
    assert count(cells, texts) == 100
    for text in texts:
        text.state.n_past += 50
    assert count(cells, texts) == 100


def test_requests_behind_one_prompt_share_its_cells(tiny_model: Callable[..., Model]) -> None:
    counted: list[int] = []

    class Spy(SharedCells):
        def count(self, jobs: Sequence[object]) -> int:
            counted.append(super().count(cast(Any, jobs)))
            return counted[-1]

    with Engine(tiny_model("rope"), "auto", n_ctx=1024, n_seq_max=4, n_threads=1) as engine:
        engine.generate([5, 6, 7], max_tokens=2)
        drafting = engine._scheduler._drafting
        assert isinstance(drafting, PlannedDrafting)
        drafting._shared = Spy()
        engine.generate([[*range(3, 203), 7 + i] for i in range(3)], max_tokens=8)
    assert max(counted) == 2 * 200
