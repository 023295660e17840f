"""The plots of a benchmark's report: bars, curves and points, drawn as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pytreellama.bench.planning import Bin
from pytreellama.bench.results import Spread, buckets
from pytreellama.bench.svg import CHARACTER_WIDTH, Point, Sheet, ticks

N_COLOURS = 8
"""Classes ``c0`` to ``c7`` of the style sheet; what comes after them begins anew."""

_WIDTH = 760.0
_LINE = 18.0
_BAR = 12.0
_GAP = 12.0
_RIGHT = 70.0
_PLOT_HEIGHT = 260.0
_N_BUCKETS = 160
_LONGEST_NAME = 22


@dataclass(frozen=True, slots=True)
class Series:
    """One drafter's values, one a group; None where there is none."""

    name: str
    values: Sequence[Spread | None]


def grouped_bars(
    title: str,
    description: str,
    groups: Sequence[str],
    series: Sequence[Series],
    reference: float | None = None,
) -> str:
    """Horizontal bars, one per group and series, with the value and a minimum-maximum line.

    Args:
        reference: a value to compare with, drawn as a line across.
    """
    names = [one.name for one in series]
    left = _left_of(groups)
    legend = _Legend(names, _WIDTH)
    group_height = len(series) * _BAR + _GAP
    height = legend.height + len(groups) * group_height + 2 * _LINE
    sheet = Sheet(_WIDTH, height, title, description)
    legend.draw(sheet)
    known = [spread for one in series for spread in one.values if spread is not None]
    marks = ticks(max([reference or 0.0, *(spread.largest for spread in known)]))
    axis = _Axis(left, _WIDTH - _RIGHT, marks[-1])
    bottom = legend.height + len(groups) * group_height
    for mark in marks:
        sheet.line((axis.at(mark), legend.height), (axis.at(mark), bottom), "grid")
        sheet.text((axis.at(mark), bottom + _LINE), f"{mark:g}", "tick", "middle")
    for row, group in enumerate(groups):
        top = legend.height + row * group_height + _GAP / 2
        middle = top + len(series) * _BAR / 2
        sheet.text((left - 8, middle), _shortened(group), "label", "end")
        for i, one in enumerate(series):
            _bar(sheet, axis, top + i * _BAR, one.values[row], i, f"{group}, {one.name}")
    if reference is not None:
        sheet.line((axis.at(reference), legend.height), (axis.at(reference), bottom), "reference")
    for row in range(len(groups)):
        middle = legend.height + row * group_height + (_GAP + _BAR) / 2
        for i, one in enumerate(series):
            _value(sheet, axis, middle + i * _BAR, one.values[row])
    return sheet.to_text()


def _bar(
    sheet: Sheet, axis: _Axis, top: float, spread: Spread | None, colour: int, what: str
) -> None:
    if spread is None:
        return
    start, middle = axis.at(0.0), top + _BAR / 2
    span = f"{spread.smallest:.2f} to {spread.largest:.2f}"
    hover = f"{what}: {spread.median:.2f} ({span})"
    width = axis.at(spread.median) - start
    sheet.rectangle((start, top + 1), width, _BAR - 2, _colour(colour), hover)
    sheet.line((axis.at(spread.smallest), middle), (axis.at(spread.largest), middle), "span")


def _value(sheet: Sheet, axis: _Axis, middle: float, spread: Spread | None) -> None:
    """A bar's value behind it; drawn after all that could cross it."""
    if spread is None:
        sheet.text((axis.at(0.0) + 4, middle), "nothing was written", "value")
    else:
        sheet.text((axis.at(spread.largest) + 5, middle), f"{spread.median:.2f}", "value")


def stacked_bars(
    title: str,
    description: str,
    names: Sequence[str],
    parts: Sequence[str],
    values: Sequence[Sequence[float]],
    unit: str,
) -> str:
    """Stacked horizontal bars, one per name, with their sums.

    Args:
        values: for each name, the value of each part.
    """
    left = _left_of(names)
    legend = _Legend(parts, _WIDTH)
    row_height = 1.8 * _BAR
    bottom = legend.height + len(names) * row_height
    sheet = Sheet(_WIDTH, bottom + 2 * _LINE, title, description)
    legend.draw(sheet)
    marks = ticks(max(map(sum, values), default=0.0))
    axis = _Axis(left, _WIDTH - _RIGHT, marks[-1])
    for mark in marks:
        sheet.line((axis.at(mark), legend.height), (axis.at(mark), bottom), "grid")
        sheet.text((axis.at(mark), bottom + _LINE), f"{mark:g}", "tick", "middle")
    for row, (name, of_name) in enumerate(zip(names, values, strict=True)):
        top = legend.height + row * row_height
        sheet.text((left - 8, top + row_height / 2), _shortened(name), "label", "end")
        end = 0.0
        for i, value in enumerate(of_name):
            start, end = end, end + value
            hover = f"{name}, {parts[i]}: {value:.3g} {unit}"
            width = axis.at(end) - axis.at(start)
            sheet.rectangle((axis.at(start), top + 2), width, row_height - 4, _colour(i), hover)
        sheet.text((axis.at(end) + 5, top + row_height / 2), f"{end:.3g}", "value")
    return sheet.to_text()


def over_steps(title: str, description: str, sizes: Sequence[int]) -> str:
    """Sizes of trees, step by step: the mean and the largest of runs of steps."""
    runs = list(buckets(sizes, _N_BUCKETS))
    means = [sum(run) / len(run) for run in runs]
    largest = [max(run) for run in runs]
    plot = _Plot(title, description, len(sizes), max(largest, default=1), "step", "nodes")
    places = [(i + 0.5) * len(sizes) / len(runs) for i in range(len(runs))]
    if runs:
        top = [plot.at(x, y) for x, y in zip(places, largest, strict=True)]
        plot.sheet.area(
            [plot.at(places[0], 0.0), *top, plot.at(places[-1], 0.0)], "area " + _colour(0)
        )
        plot.sheet.curve(
            [plot.at(x, y) for x, y in zip(places, means, strict=True)], "curve " + _line_colour(1)
        )
    plot.name_curves(["the largest", "the mean"])
    return plot.sheet.to_text()


def curves(
    title: str, description: str, names: Sequence[str], values: Sequence[Sequence[float]], unit: str
) -> str:
    """Values by number of nodes, from 1."""
    n_most = max(len(of_curve) for of_curve in values)
    top = max(max(of_curve) for of_curve in values)
    plot = _Plot(title, description, n_most, top, "nodes of a pass", unit)
    for i, of_curve in enumerate(values):
        points = [plot.at(n, value) for n, value in enumerate(of_curve, start=1)]
        plot.sheet.curve(points, "curve " + _line_colour(i))
    plot.name_curves(names)
    return plot.sheet.to_text()


def calibration(title: str, description: str, bins: Sequence[Bin]) -> str:
    """A point per bin: mean estimate, acceptance rate, and number of candidates."""
    plot = _Plot(title, description, 1.0, 1.0, "estimated", "accepted")
    plot.sheet.line(plot.at(0.0, 0.0), plot.at(1.0, 1.0), "reference")
    most = max((one.n_guesses for one in bins), default=1)
    for one in bins:
        at = plot.at(one.p_called, one.share_true)
        radius = 3.0 + 9.0 * math.sqrt(one.n_guesses / most)
        hover = f"{one.n_guesses} candidates at {one.p_called:.2f}: {one.share_true:.2f} accepted"
        plot.sheet.circle(at, radius, "point " + _colour(0), hover)
        plot.sheet.text((at[0], at[1] - radius - 6), str(one.n_guesses), "value", "middle")
    return plot.sheet.to_text()


# -- parts of plots


@dataclass(frozen=True, slots=True)
class _Axis:
    """Where values from 0 to ``top`` stand between two coordinates."""

    start: float
    end: float
    top: float

    def at(self, value: float) -> float:
        return self.start + (self.end - self.start) * value / self.top


class _Plot:
    """A field with two axes, both from 0, and their marks."""

    def __init__(
        self,
        title: str,
        description: str,
        x_top: float,
        y_top: float,
        x_name: str,
        y_name: str,
    ) -> None:
        bottom, left = _PLOT_HEIGHT + _LINE, 3.5 * _LINE
        self.sheet = Sheet(_WIDTH, bottom + 2.6 * _LINE, title, description)
        x_marks, y_marks = ticks(x_top), ticks(y_top)
        x_end = max(x_top, 1e-9)
        self._x = _Axis(left, _WIDTH - _LINE, x_end)
        self._y = _Axis(bottom, _LINE, y_marks[-1])
        for mark in y_marks:
            self.sheet.line(self.at(0.0, mark), self.at(x_end, mark), "grid")
            at = (left - 8, self._y.at(mark))
            self.sheet.text(at, f"{mark:g}", "tick", "end")
        for mark in (mark for mark in x_marks if mark <= x_end):
            at = (self._x.at(mark), bottom + 0.8 * _LINE)
            self.sheet.text(at, f"{mark:g}", "tick", "middle")
        middle = (left + _WIDTH - _LINE) / 2
        self.sheet.text((middle, bottom + 1.9 * _LINE), x_name, "label", "middle")
        self.sheet.text((0.0, _LINE / 3), y_name, "label")

    def at(self, x: float, y: float) -> Point:
        return self._x.at(x), self._y.at(y)

    def name_curves(self, names: Sequence[str]) -> None:
        """Tell which curve is which, at the top."""
        left = _WIDTH / 4
        for i, name in enumerate(names):
            self.sheet.rectangle((left, 0.0), 10.0, 10.0, _colour(i))
            self.sheet.text((left + 15, 5.5), name, "label")
            left += 40 + CHARACTER_WIDTH * len(name)


class _Legend:
    """Names and their colours, in as many lines as they need."""

    def __init__(self, names: Sequence[str], width: float) -> None:
        self._places: list[tuple[str, Point]] = []
        x, y = 0.0, 0.0
        for name in names:
            needed = 34 + CHARACTER_WIDTH * len(name)
            if x and x + needed > width:
                x, y = 0.0, y + _LINE
            self._places.append((name, (x, y)))
            x += needed
        self.height = y + 1.5 * _LINE

    def draw(self, sheet: Sheet) -> None:
        for i, (name, (x, y)) in enumerate(self._places):
            sheet.rectangle((x, y), 10.0, 10.0, _colour(i))
            sheet.text((x + 15, y + 5.5), name, "label")


def _left_of(names: Sequence[str]) -> float:
    """Where bars begin, so that their names stand before them."""
    longest = max((len(_shortened(name)) for name in names), default=0)
    return 16 + CHARACTER_WIDTH * longest


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"


def _colour(i: int) -> str:
    return f"c{i % N_COLOURS}"


def _line_colour(i: int) -> str:
    return f"l{i % N_COLOURS}"
