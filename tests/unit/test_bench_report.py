"""A benchmark's report: valid, self-contained, and safe whatever the prompts say."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html.parser import HTMLParser
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import FACTS, measured, planning, results
from pytreellama.bench import plots as report_plots
from pytreellama.bench.planning import Bin
from pytreellama.bench.plots import Series
from pytreellama.bench.report import report_dict, report_html
from pytreellama.bench.results import Spread
from pytreellama.bench.svg import Sheet, clean, number, ticks

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = (
    "</svg></table><script>alert('x')</script>&amp;\"'{{ 7777*7 }}{% raw %}\x00\x1b\ud800\ufffe"
)
VOID = {"meta", "br", "hr", "img", "link", "input"}
LOADING = {"script", "link", "img", "iframe", "object", "embed", "form", "base"}

names = st.text(max_size=40)
numbers = st.floats(0, 1e4)


class Nesting(HTMLParser):
    """Checks that every element that begins ends, in order; collects tags and attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def parsed(html: str) -> Nesting:
    parser = Nesting()
    parser.feed(html)
    parser.close()
    assert parser.open == []
    return parser


def drawings(html: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL)]


def report(category: str = "story", text: str = "Once", with_planning: bool = True) -> str:
    made = results(("none", "suffix", "auto"), (category, "code"))
    return report_html(
        measured(made, [text, "other"], planning() if with_planning else None), FACTS
    )


def test_a_report_is_one_valid_file_that_loads_nothing() -> None:
    page = parsed(report())
    assert not LOADING & set(page.tags)
    loading = {"src", "href", "srcset", "data", "action", "style"}
    assert not loading & {name for name, _ in page.attributes}
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert "url(" not in report() and "@import" not in report()


def test_a_report_has_every_plot_with_a_name_and_its_numbers() -> None:
    html = report()
    plots = drawings(html)
    assert len(plots) == 6
    for plot in plots:
        assert plot.get("role") == "img"
        title, description = plot.find(f"{SVG}title"), plot.find(f"{SVG}desc")
        assert title is not None and title.text and description is not None and description.text
        assert (plot.get("aria-label") or "").startswith(title.text)
    assert html.count("<summary>The numbers</summary>") == 6
    assert "prefers-color-scheme: dark" in html


def test_plots_of_plans_are_left_out_where_nothing_was_planned() -> None:
    html = report(with_planning=False)
    assert len(drawings(html)) == 3
    assert "Sizes of planned trees" not in html


def test_hostile_prompts_and_categories_are_text_and_nothing_else() -> None:
    html = report(category=HOSTILE, text=HOSTILE)
    page = parsed(html)
    assert "script" not in page.tags
    assert "".join(page.texts).count("<script>alert('x')</script>") >= 2
    assert "{{ 7777*7 }}" in html and "54439" not in "".join(page.texts)
    assert not re.search("[\x00-\x08\x0b-\x1f\ud800-\udfff\ufffe]", html)
    html.encode("utf-8")
    assert len(drawings(html)) == 6


def test_a_report_tells_no_paths_of_whoever_measured() -> None:
    html = report()
    assert "a.gguf" in html and "/home" not in html


def test_the_object_for_json_holds_everything() -> None:
    made = measured(results(), ["a", "b", "c"], planning())
    whole = report_dict(made, FACTS)
    assert [one["drafter"] for one in whole["drafters"]] == ["none", "suffix", "auto"]
    assert len(whole["answers"]) == 3 * 3 * 2
    assert [one["text"] for one in whole["prompts"]] == ["a", "b", "c"]
    assert len(whole["planning"]["calibration"]) == 10
    assert sum(one["n_guesses"] for one in whole["planning"]["calibration"]) == 300
    assert report_dict(measured(results(), ["a", "b", "c"]), FACTS)["planning"] is None


# -- drawings


def all_texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def fits(svg: str) -> None:
    """Everything lies on the sheet."""
    root = ElementTree.fromstring(svg)
    width, height = map(float, (root.get("viewBox") or "").split()[2:])
    for element in root.iter(f"{SVG}rect"):
        x, y, w, h = (float(element.get(name) or 0) for name in ("x", "y", "width", "height"))
        assert x >= 0 and y >= 0 and w >= 0 and x + w <= width + 1 and y + h <= height + 1
    for element in root.iter(f"{SVG}line"):
        for name, most in (("x1", width), ("x2", width), ("y1", height), ("y2", height)):
            assert -1 <= float(element.get(name) or 0) <= most + 1


@given(
    st.lists(names, min_size=1, max_size=4),
    st.lists(names, min_size=1, max_size=10),
    st.data(),
    st.sampled_from([None, 1.0]),
)
def test_bars_can_be_drawn_of_any_names_and_values(
    groups: list[str], drafters: list[str], data: st.DataObject, reference: float | None
) -> None:
    spreads = st.none() | st.lists(numbers, min_size=1, max_size=3).map(Spread.of)
    values = st.lists(spreads, min_size=len(groups), max_size=len(groups))
    series = [Series(name, data.draw(values)) for name in drafters]
    svg = report_plots.grouped_bars("t", "d", groups, series, reference)
    fits(svg)
    n_known = sum(spread is not None for one in series for spread in one.values)
    spans = [one for one in ElementTree.fromstring(svg).iter() if one.get("class") == "span"]
    assert len(spans) == n_known


def test_a_bar_is_as_long_as_its_value() -> None:
    spreads = [Spread.of([1.0]), Spread.of([2.0]), None]
    svg = report_plots.grouped_bars("t", "d", ["a", "b", "c"], [Series("x", spreads)])
    bars = [one for one in ElementTree.fromstring(svg).iter(f"{SVG}rect") if len(one)]
    short, long = (float(bar.get("width") or 0) for bar in bars)
    assert long == pytest.approx(2 * short, abs=0.2)
    assert "nothing was written" in all_texts(svg)


@given(st.lists(st.lists(numbers, min_size=2, max_size=2), min_size=1, max_size=4))
def test_parts_of_bars_are_one_behind_the_other(values: list[list[float]]) -> None:
    svg = report_plots.stacked_bars("t", "d", ["a"] * len(values), ("x", "y"), values, "ms")
    fits(svg)
    parts = [one for one in ElementTree.fromstring(svg).iter(f"{SVG}rect") if len(one)]
    ends = [float(one.get("x") or 0) + float(one.get("width") or 0) for one in parts]
    starts = [float(one.get("x") or 0) for one in parts]
    assert starts[1::2] == pytest.approx(ends[::2], abs=0.2)


@given(st.lists(st.integers(1, 1024), max_size=400))
def test_sizes_can_be_drawn_of_any_number_of_steps(sizes: list[int]) -> None:
    svg = report_plots.over_steps("t", "d", sizes)
    fits(svg)
    assert len(svg) < 60_000


@given(st.lists(numbers, min_size=1, max_size=70))
def test_curves_can_be_drawn_of_any_values(values: Sequence[float]) -> None:
    fits(report_plots.curves("t", "d", ["a", "b"], [values, values], "ms"))


@given(st.lists(st.tuples(st.integers(1, 1000), st.floats(0, 1), st.floats(0, 1)), max_size=10))
def test_a_point_stands_where_its_bin_says(bins: list[tuple[int, float, float]]) -> None:
    made = [Bin(0, 1, n, round(n * share), n * p) for n, p, share in bins]
    svg = report_plots.calibration("t", "d", made)
    points = list(ElementTree.fromstring(svg).iter(f"{SVG}circle"))
    diagonal = next(
        one for one in ElementTree.fromstring(svg).iter() if one.get("class") == "reference"
    )
    left, bottom, right, top = (float(diagonal.get(n) or 0) for n in ("x1", "y1", "x2", "y2"))
    for point, one in zip(points, made, strict=True):
        x = (float(point.get("cx") or 0) - left) / (right - left)
        y = (float(point.get("cy") or 0) - bottom) / (top - bottom)
        assert (x, y) == pytest.approx((one.p_called, one.share_true), abs=1e-3)


@given(st.floats(1e-6, 1e9))
def test_ticks_are_few_round_and_reach_the_top(top: float) -> None:
    marks = ticks(top)
    assert marks[0] == 0.0 and marks[-1] >= 0.998 * top
    assert 3 <= len(marks) <= 7
    steps = [b - a for a, b in pairwise(marks)]
    assert steps == pytest.approx([steps[0]] * len(steps))


@pytest.mark.parametrize("top", [0.0, -1.0, float("nan"), float("inf")])
def test_ticks_of_nothing_are_from_zero_to_one(top: float) -> None:
    assert ticks(top) == [0.0, 1.0]


@given(names)
def test_any_text_can_stand_on_a_sheet(text: str) -> None:
    sheet = Sheet(10, 10, text, text)
    sheet.text((1, 1), text, "label")
    sheet.circle((1, 1), 1, "point", hover=text)
    expected = clean(text).replace("\r\n", "\n").replace("\r", "\n")
    assert all_texts(sheet.to_text()) == [expected]


def test_numbers_are_short() -> None:
    assert [number(value) for value in (1.0, 1.25, 1e3, 0.04)] == ["1", "1.2", "1000", "0"]
