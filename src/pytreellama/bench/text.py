"""A benchmark's results in words and tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pytreellama.bench.results import AUTO, PLAIN, Results, Spread

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from pytreellama.bench.runs import Measured

_ALL = "all"
_UNLIMITED = 10_000

Cell = Callable[[str, "str | None"], str]


def headline(results: Results) -> str:
    """What came of it, in one or two sentences."""
    drafters = [name for name in results.drafters if name != PLAIN]
    told = AUTO if AUTO in drafters else results.fastest(drafters)
    ratio = results.ratio(told) if told is not None else None
    if told is None or ratio is None:
        return "Too little was written to compare."
    sentence = _speed_sentence(results, told, ratio)
    fastest = results.fastest(results.drafters)
    best = results.ratio(fastest) if fastest is not None else None
    if fastest is None or fastest == told or best is None:
        return sentence
    return f"{sentence} The fastest was {_name_of(fastest)}, at {best.median:.2f}."


def _speed_sentence(results: Results, drafter: str, ratio: Spread) -> str:
    n_same = results.n_prompts - results.n_different(drafter)
    span = ""
    if results.n_repeats > 1:
        span = f" ({ratio.smallest:.2f} to {ratio.largest:.2f} in {results.n_repeats} repeats)"
    return (
        f"With {_name_of(drafter)}, text came {ratio.median:.2f} times as fast as plainly{span}; "
        f"it was the same text for {n_same} of {results.n_prompts} prompts."
    )


def _name_of(drafter: str) -> str:
    return "plain decoding" if drafter == PLAIN else f"drafter {drafter}"


def ratio_text(spread: Spread | None, with_span: bool = False) -> str:
    """A median, and least and most behind it if asked for; a dash for None."""
    if spread is None:
        return "-"
    span = f" ({spread.smallest:.2f} to {spread.largest:.2f})" if with_span else ""
    return f"{spread.median:.2f}{span}"


def settings_text(measured: Measured) -> str:
    """How it was measured, and how to read the tables."""
    results, settings = measured.results, measured.settings
    facts = (
        _counted(results.n_prompts, "prompt"),
        f"at most {settings.n_tokens} tokens each",
        _counted(results.n_repeats, "repeat"),
        _counted(settings.n_threads or 1, "thread"),
    )
    spans = " Medians; below a ratio, its least and most." if results.n_repeats > 1 else ""
    return f"{', '.join(facts)}.{spans}"


def _counted(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def results_tables(results: Results, console: Console) -> list[Table]:
    """Ratios to plain decoding, tokens a second, and tokens a step; each by drafter and category.

    Rows are drafters, unless the console is too narrow for a column for each category.
    """

    def ratio(drafter: str, category: str | None) -> str:
        spread = results.ratio(drafter, category)
        text = ratio_text(spread)
        if spread is None or category is not None or results.n_repeats == 1 or drafter == PLAIN:
            return text
        return f"{text}\n{spread.smallest:.2f}-{spread.largest:.2f}"

    def speed(drafter: str, category: str | None) -> str:
        return f"{results.tokens_per_s(drafter, category).median:.1f}"

    def per_step(drafter: str, category: str | None) -> str:
        return f"{results.tokens_per_step(drafter, category).median:.2f}"

    return [
        _fitting_table("times as fast as plain decoding", results, ratio, True, console),
        _fitting_table("tokens a second", results, speed, False, console),
        _fitting_table("tokens a step", results, per_step, False, console),
    ]


def _fitting_table(
    title: str, results: Results, cell: Cell, tells_same: bool, console: Console
) -> Table:
    drafters = results.drafters
    names = [*results.categories, _ALL]
    columns = [
        [cell(drafter, category) for drafter in drafters]
        for category in (*results.categories, None)
    ]
    if tells_same:
        names.append("same text")
        columns.append([_same_text(results, drafter) for drafter in drafters])
    upright = _table(title, "drafter", names, drafters, list(zip(*columns, strict=True)))
    unlimited = console.options.update(width=_UNLIMITED)
    if console.measure(upright, options=unlimited).maximum <= console.width:
        return upright
    return _table(title, "category", drafters, names, columns)


def _same_text(results: Results, drafter: str) -> str:
    n_different = results.n_different(drafter)
    if drafter == PLAIN:
        return ""
    return "yes" if not n_different else f"not {n_different} of {results.n_prompts}"


def _table(
    title: str,
    corner: str,
    names: Sequence[str],
    row_names: Sequence[str],
    rows: Sequence[Sequence[str]],
) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left")
    table.add_column(corner)
    for name in names:
        table.add_column(Text(name), justify="right")
    for row_name, row in zip(row_names, rows, strict=True):
        table.add_row(Text(row_name), *map(Text, row))
    return table
