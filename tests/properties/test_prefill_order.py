"""The order in which prompts are prefilled: short ones first, and none of them never."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from pytreellama.engine.jobs import Job
from pytreellama.engine.prefill_order import OLDEST_EVERY, PrefillOrder

CHUNK = 8

prompts = st.lists(st.tuples(st.integers(0, 20), st.integers(1, 60)), min_size=1, max_size=12)


@dataclass(eq=False)
class Prompt:
    """What the order looks at, and when it was done."""

    arrival: int
    came: int
    n_missing: int
    done: int = -1

    @property
    def n_chunks(self) -> int:
        return -(-self.n_missing // CHUNK)


def order_of(order: PrefillOrder, waiting: list[Prompt]) -> list[Prompt]:
    return cast("list[Any]", order.of(cast("list[Job]", waiting)))


def run(given_prompts: list[tuple[int, int]]) -> list[Prompt]:
    """One chunk a step for the first in the order."""
    given_prompts = sorted(given_prompts)
    all_prompts = [Prompt(i, came, n) for i, (came, n) in enumerate(given_prompts)]
    order, step = PrefillOrder(), 0
    while any(one.n_missing for one in all_prompts):
        waiting = [one for one in all_prompts if one.came <= step and one.n_missing]
        for first in order_of(order, waiting)[:1]:
            first.n_missing = max(first.n_missing - CHUNK, 0)
            if not first.n_missing:
                first.done = step
        step += 1
    return all_prompts


@given(prompts)
def test_no_prompt_waits_for_those_that_came_later_beyond_its_share(
    given_prompts: list[tuple[int, int]],
) -> None:
    n_before = 0
    for i, one in enumerate(run(given_prompts)):
        n_before += -(-sorted(given_prompts)[i][1] // CHUNK)
        assert one.done - one.came < OLDEST_EVERY * n_before


@given(st.lists(st.integers(1, 99), min_size=2, max_size=9))
def test_the_shortest_is_first_but_for_the_turns_of_the_oldest(lengths: list[int]) -> None:
    waiting = [Prompt(i, 0, n) for i, n in enumerate(lengths)]
    order = PrefillOrder()
    for step in range(1, 3 * OLDEST_EVERY + 1):
        first, *rest = order_of(order, waiting)
        assert [one.n_missing for one in rest] == sorted(one.n_missing for one in rest)
        if step % OLDEST_EVERY == 0:
            assert first is waiting[0]
        else:
            assert first.n_missing == min(lengths)


def test_steps_in_which_nobody_else_waits_bring_no_turn_nearer() -> None:
    order, long, short = PrefillOrder(), Prompt(0, 0, 99), Prompt(1, 0, 1)
    for _ in range(10 * OLDEST_EVERY - 1):
        order_of(order, [long])
    assert order_of(order, [long, short])[0] is short
