"""A benchmark's arithmetic: ratios repeat by repeat, medians, calibration; and what it says."""

from __future__ import annotations

import io
import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from benchmarks import measured, planning, results, stats
from pytreellama.bench.planning import CalibrationBins
from pytreellama.bench.results import BenchAnswer, Results, Spread, Totals, buckets, in_turn
from pytreellama.bench.text import headline, ratio_text, results_tables, settings_text

SPEEDS = {"none": 10.0, "suffix": 8.0, "auto": 15.0}


def test_ratios_are_of_one_repeat_each_so_that_a_slow_repeat_is_slow_for_all() -> None:
    made = results(
        n_repeats=3, speed=lambda drafter, prompt, repeat: SPEEDS[drafter] * (1, 10, 0.1)[repeat]
    )
    ratio = made.ratio("auto")
    assert ratio is not None
    assert (ratio.smallest, ratio.largest) == pytest.approx((1.5, 1.5))


def test_a_ratio_is_the_median_with_least_and_most() -> None:
    speed = {0: 10.0, 1: 30.0, 2: 12.0}
    made = results(
        n_repeats=3,
        speed=lambda drafter, prompt, repeat: speed[repeat] if drafter == "auto" else 10,
    )
    ratio = made.ratio("auto")
    assert ratio is not None
    assert (ratio.median, ratio.smallest, ratio.largest) == pytest.approx((1.2, 1.0, 3.0))


def test_a_category_has_its_own_prompts_and_all_has_all() -> None:
    made = results(
        speed=lambda drafter, prompt, repeat: 40.0 if (drafter, prompt) == ("auto", 1) else 10.0
    )
    assert made.categories == ("story", "code")
    ratios = [made.ratio("auto", category) for category in (None, "story", "code")]
    # all: 30 tokens in 1 + 0.25 + 1 seconds, beside 30 in 3
    assert [ratio and ratio.median for ratio in ratios] == pytest.approx([3 / 2.25, 1.0, 4.0])
    by_prompt = [made.prompt_ratio("auto", prompt) for prompt in range(3)]
    assert [ratio and ratio.median for ratio in by_prompt] == pytest.approx([1.0, 4.0, 1.0])


def test_a_prompt_without_a_category_counts_in_all_alone() -> None:
    made = results(categories=("", "story"))
    assert made.categories == ("story",)
    assert made.totals("auto").n_answers == 4
    assert made.totals("auto", "story").n_answers == 2


def test_a_category_may_be_called_all() -> None:
    made = results(categories=("all", "story"))
    assert made.totals("auto", "all").n_answers == 2
    assert set(made.to_dict()["drafters"][0]["categories"]) == {"all", "story"}


def test_there_is_no_ratio_where_nothing_was_written() -> None:
    made = Results(("none", "suffix"))
    for drafter in made.drafters:
        made.add(BenchAnswer(0, 0, "", drafter, (), stats(n_tokens=0, n_steps=0, decode_s=0.0)))
    assert made.ratio("suffix") is None and ratio_text(made.ratio("suffix")) == "-"
    assert made.tokens_per_step("suffix").median == 0.0
    assert made.fastest(made.drafters) is None
    assert "Too little" in headline(made)
    assert json.loads(json.dumps(made.to_dict()))["drafters"][1]["all"]["ratio"] is None


def test_a_text_differs_if_it_does_in_any_repeat_and_counts_once() -> None:
    made = results(tokens=lambda drafter, prompt: (prompt, drafter == "auto" and prompt == 2))
    assert [made.n_different(name) for name in made.drafters] == [0, 0, 1]
    drafters = made.to_dict()["drafters"]
    assert [one["identical"] for one in drafters] == [True, True, False]


def test_sums_are_those_of_the_answers() -> None:
    total = Totals()
    total.add(stats(10, 5, 2.0, target_s=1.5, n_drafted=20))
    total.add(stats(20, 5, 1.0, target_s=1.5))
    assert (total.n_answers, total.n_tokens, total.n_drafted) == (2, 30, 20)
    assert (total.tokens_per_s, total.tokens_per_step) == (10.0, 3.0)
    assert total.ms_per_token("target") == pytest.approx(100.0)
    assert Totals().ms_per_token("target") == Totals().tokens_per_s == 0.0


def test_sizes_of_trees_are_in_the_order_of_answers_of_one_repeat() -> None:
    made = Results(("none", "auto"))
    for repeat, sizes in enumerate(([1, 2], [3, 4])):
        for prompt, size in enumerate(sizes):
            for drafter in made.drafters:
                cost = stats()
                cost.tree_sizes = [size, size + 10]
                made.add(BenchAnswer(repeat, prompt, "", drafter, (), cost))
    assert made.tree_sizes("auto", 1) == [3, 13, 4, 14]


@given(st.lists(st.floats(0, 1e6), min_size=1))
def test_a_median_lies_between_least_and_most(values: list[float]) -> None:
    spread = Spread.of(values)
    assert min(values) == spread.smallest <= spread.median <= spread.largest == max(values)


@given(st.integers(1, 7))
def test_each_engine_begins_as_often_as_any_other(n_engines: int) -> None:
    names = [str(i) for i in range(n_engines)]
    turns = [in_turn(names, i) for i in range(3 * n_engines)]
    assert set(Counter(turn[0] for turn in turns).values()) == {3}
    assert all(sorted(turn) == names for turn in turns)


@given(st.lists(st.integers()), st.integers(1, 20))
def test_buckets_hold_everything_once_and_in_order(values: list[int], n_buckets: int) -> None:
    runs = list(buckets(values, n_buckets))
    assert [value for run in runs for value in run] == values
    assert len(runs) == min(n_buckets, len(values))
    assert all(runs) and max(map(len, runs), default=0) - min(map(len, runs), default=0) <= 1


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans())))
def test_every_guess_is_in_the_bin_of_what_it_was_called(
    candidates: list[tuple[float, bool]],
) -> None:
    calibration = CalibrationBins()
    for p, came_true in candidates:
        calibration.add(p, came_true)
    assert calibration.n_guesses == len(candidates)
    assert sum(one.n_true for one in calibration.bins) == sum(came for _, came in candidates)
    for one in calibration.filled:
        assert one.low - 1e-9 <= one.p_called <= one.high + 1e-9
        assert 0 <= one.share_true <= 1


def test_a_headline_tells_of_auto_and_of_what_was_faster() -> None:
    made = results(speed=lambda drafter, prompt, repeat: SPEEDS[drafter])
    told = headline(made)
    assert "With drafter auto" in told and "1.50 times" in told and "3 of 3" in told
    assert "fastest" not in told
    slow = results(speed=lambda drafter, prompt, repeat: 20.0 if drafter == "suffix" else 10.0)
    assert "The fastest was drafter suffix, at 2.00" in headline(slow)
    slower = results(("none", "suffix"), speed=lambda name, p, r: 10 if name == "none" else 5)
    assert "With drafter suffix" in headline(slower) and "0.50 times" in headline(slower)
    assert "The fastest was plain decoding, at 1.00" in headline(slower)


def printed(made: Results, width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    for table in results_tables(made, console):
        console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_rows_are_drafters_where_that_fits_and_categories_where_not() -> None:
    categories = [f"a long category {i}" for i in range(8)]
    made = results(categories=categories, tokens=lambda drafter, p: (p, drafter == "suffix"))
    wide, narrow = printed(made, 240), printed(made, 60)
    for text in (wide, narrow):
        assert all(name in text for name in (*categories, *made.drafters, "same text"))
        assert "not 8 of 8" in text and "…" not in text
    assert "drafter" in wide and "category" not in wide.replace("a long category", "")
    assert max(map(len, narrow.splitlines())) <= 60


def test_names_are_not_read_as_markup() -> None:
    assert "[red]x" in printed(results(categories=("[red]x",)), 100)


def test_settings_are_told_in_words() -> None:
    one = settings_text(measured(results(n_repeats=1, categories=("a",)), ["x"], planning()))
    assert "1 prompt, at most 10 tokens each, 1 repeat, 2 threads." in one
    assert "Medians" in settings_text(measured(results(), ["x", "y", "z"]))
