"""A benchmark's report: one HTML file that needs nothing else, light or dark."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytreellama.bench import plots as report_plots
from pytreellama.bench.facts import Report, build_lines, machine_lines, model_lines
from pytreellama.bench.planning import Planning
from pytreellama.bench.plots import Series
from pytreellama.bench.results import AUTO, PHASES, PLAIN, Results, Spread
from pytreellama.bench.svg import clean
from pytreellama.bench.text import headline, ratio_text

if TYPE_CHECKING:
    from pytreellama.bench.runs import Measured

_ALL = "all"
_CURVE_SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)


@dataclass(frozen=True, slots=True)
class Table:
    """Names of columns, and rows of texts; the first of each is a row's name."""

    names: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Figure:
    """A plot, what to see in it, and its numbers.

    Attributes:
        svg: an ``<svg>`` element.
    """

    title: str
    caption: str
    svg: str
    table: Table


def report_html(measured: Measured, facts: Report) -> str:
    """The report as one file.

    Args:
        facts: of the build, the machine and the model (``facts.native_facts`` and so on).
    """
    from jinja2 import Environment
    from markupsafe import Markup

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["svg"] = Markup  # made by ElementTree, which escapes all texts
    source = (files("pytreellama.bench") / "data" / "bench_report.html").read_text(encoding="utf-8")
    html = environment.from_string(source).render(
        headline=headline(measured.results),
        made=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %z"),
        settings=_settings_lines(measured),
        figures=list(_figures(measured)),
        facts=_facts_tables(facts),
        prompts=_prompts_table(measured),
    )
    return clean(html)


# -- figures


def _figures(measured: Measured) -> Iterator[Figure]:
    results = measured.results
    yield _speed_figure(results)
    yield _step_figure(results)
    yield _time_figure(results)
    if measured.planning is not None:
        yield from _planning_figures(results, measured.planning)


def _speed_figure(results: Results) -> Figure:
    title = "Throughput relative to plain decoding, by task"
    names = [name for name in results.drafters if name != PLAIN]
    caption = (
        "Tokens a second, the reading of the prompt left out, divided by those of plain decoding "
        "in the same repeat: the median of all repeats, and a thin line from the smallest to the "
        "largest. Left of the line at 1, plain decoding is faster."
    )
    series, groups = _series(results, names, results.ratio), _groups(results)
    svg = report_plots.grouped_bars(title, caption, groups, series, reference=1.0)
    return Figure(title, caption, svg, _table_of(groups, series))


def _step_figure(results: Results) -> Figure:
    title = "Tokens per step, by task"
    names = [name for name in results.drafters if name != PLAIN]
    caption = (
        "Tokens per pass of the model: its own and the accepted draft tokens. Plain decoding "
        "is at 1. The cost of a step is not included."
    )
    series, groups = _series(results, names, results.tokens_per_step), _groups(results)
    svg = report_plots.grouped_bars(title, caption, groups, series, reference=1.0)
    return Figure(title, caption, svg, _table_of(groups, series))


def _time_figure(results: Results) -> Figure:
    title = "Where time went"
    unit = "ms a token"
    caption = (
        f"Milliseconds per generated token: prefill ({PHASES[0]}), drafting, planning, passes of "
        "the model (target), verification, and the rest (overhead)."
    )
    totals = {name: results.totals(name) for name in results.drafters}
    values = [[totals[name].ms_per_token(phase) for phase in PHASES] for name in totals]
    svg = report_plots.stacked_bars(title, caption, list(totals), PHASES, values, unit)
    rows = [
        [name, *(f"{value:.3f}" for value in of_name), f"{sum(of_name):.3f}"]
        for name, of_name in zip(totals, values, strict=True)
    ]
    return Figure(title, caption, svg, Table((unit, *PHASES, "sum"), rows))


def _planning_figures(results: Results, planning: Planning) -> Iterator[Figure]:
    if AUTO in results.drafters:
        yield _sizes_figure(results)
    if planning.calibration.n_guesses:
        yield _calibration_figure(planning)
    if len(planning.pass_s) > 1:
        yield _curve_figure(planning)


def _sizes_figure(results: Results) -> Figure:
    title = "Sizes of planned trees over time"
    caption = (
        "Nodes of the trees of 'auto' in the last repeat, prompt after prompt, root included: 1 is "
        "a plain step. If there are many steps, neighbours share a point."
    )
    sizes = results.tree_sizes(AUTO, results.n_repeats - 1)
    rows = [[str(size), str(sizes.count(size))] for size in sorted(set(sizes))]
    svg = report_plots.over_steps(title, caption, sizes)
    return Figure(title, caption, svg, Table(("nodes", "steps"), rows))


def _calibration_figure(planning: Planning) -> Figure:
    title = "Calibration: acceptance rate by estimated probability"
    caption = (
        "All candidates whose parent was accepted, verified or not, in ten bins of estimated "
        "probability: mean estimate and acceptance rate. On the line both are equal; the number "
        "above a point is its number of candidates."
    )
    bins = planning.calibration.filled
    rows = [
        [
            f"{one.low:.1f} to {one.high:.1f}",
            f"{one.p_called:.3f}",
            f"{one.share_true:.3f}",
            str(one.n_guesses),
        ]
        for one in bins
    ]
    svg = report_plots.calibration(title, caption, bins)
    return Figure(title, caption, svg, Table(("bin", "estimated", "accepted", "candidates"), rows))


def _curve_figure(planning: Planning) -> Figure:
    title = "What a pass costs"
    behind = f"after {planning.n_text} tokens of text"
    caption = (
        "Milliseconds of a pass by the number of its nodes, as the planner held it at the end: "
        "measured at the start, corrected by every pass since."
    )
    bare_ms = [1e3 * s for s in planning.pass_s[1:]]
    behind_ms = [1e3 * s for s in planning.pass_behind_text_s[1:]]
    rows = [
        [str(n), f"{bare_ms[n - 1]:.2f}", f"{behind_ms[n - 1]:.2f}", f"{bare_ms[n - 1] / one:.2f}"]
        for n in _CURVE_SIZES
        if n <= len(bare_ms) and (one := bare_ms[0])
    ]
    names = ("without text", behind)
    svg = report_plots.curves(title, caption, names, (bare_ms, behind_ms), "ms")
    return Figure(title, caption, svg, Table(("nodes", *names, "passes over one node"), rows))


def _groups(results: Results) -> list[str]:
    return [_ALL, *results.categories]


def _series(
    results: Results,
    drafters: Sequence[str],
    value: Callable[[str, str | None], Spread | None],
) -> list[Series]:
    categories = (None, *results.categories)
    return [Series(name, [value(name, category) for category in categories]) for name in drafters]


def _table_of(groups: Sequence[str], series: Sequence[Series]) -> Table:
    rows = [
        [group, *(ratio_text(one.values[i], with_span=True) for one in series)]
        for i, group in enumerate(groups)
    ]
    return Table(("", *(one.name for one in series)), rows)


# -- facts and prompts


def _settings_lines(measured: Measured) -> Report:
    settings, results = measured.settings, measured.results
    return {
        "prompts": str(len(measured.prompts)),
        "repeats": f"{results.n_repeats}, each with new engines; the engines take turns",
        "answers": f"at most {settings.n_tokens} tokens, greedy",
        "threads": str(settings.n_threads),
        "context": f"{settings.n_ctx} tokens",
    }


def _facts_tables(facts: Report) -> dict[str, Report]:
    """What a reader needs to know, without the paths of whoever measured."""
    model = facts["model"] | {"path": Path(facts["model"]["path"]).name}
    build = build_lines(facts | {"python": platform.python_version()})
    return {
        "This model": model_lines(model),
        "This machine": machine_lines(facts),
        "This build": build,
    }


def _prompts_table(measured: Measured) -> Table:
    results = measured.results
    drafters = [name for name in results.drafters if name != PLAIN]
    rows = [
        [
            str(prompt.line),
            prompt.category,
            prompt.excerpt,
            *(ratio_text(results.prompt_ratio(name, i)) for name in drafters),
        ]
        for i, prompt in enumerate(measured.prompts)
    ]
    return Table(("line", "category", "prompt", *drafters), rows)


def report_dict(measured: Measured, facts: Report) -> dict[str, Any]:
    """Everything, for JSON."""
    settings = measured.settings
    return {
        "facts": facts,
        "settings": {
            "tokens": settings.n_tokens,
            "repeats": settings.n_repeats,
            "n_ctx": settings.n_ctx,
            "n_threads": settings.n_threads,
        },
        "prompts": [
            {"line": prompt.line, "category": prompt.category, "text": prompt.text}
            for prompt in measured.prompts
        ],
        "headline": headline(measured.results),
        **measured.results.to_dict(),
        "planning": None if measured.planning is None else measured.planning.to_dict(),
    }
