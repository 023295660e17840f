"""``pytreellama bench``: benchmarks drafters against plain decoding."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pytreellama.cli.option import option, unpacked
from pytreellama.cli.options import (
    Debug,
    Json,
    ModelDraft,
    ModelPath,
    Threads,
    complete_drafter,
    require_writable,
    with_model_draft,
)
from pytreellama.cli.output import ProgressBar, print_json, stderr_console, stdout_console
from pytreellama.cli.placement_flags import PlacementFlags
from pytreellama.errors import RequestError
from pytreellama.files import write_text

if TYPE_CHECKING:
    from pytreellama.bench.facts import Report
    from pytreellama.bench.prompts import BenchPrompt
    from pytreellama.bench.runs import BenchSettings, Measured
    from pytreellama.model.model import Model


@dataclass(frozen=True, slots=True)
class BenchOptions(PlacementFlags):
    """Options of a benchmark."""

    model: ModelPath = None
    prompts: Annotated[
        Path | None,
        option(
            "--prompts",
            "-p",
            help="File of prompts: JSON lines with 'messages', 'turns' (Spec-Bench) or 'prompt', "
            "and optionally 'category' or 'task'; or plain text, one prompt per paragraph. "
            "Default: the eight prompts of the package.",
            show_default=False,
        ),
    ] = None
    chat: Annotated[
        bool, option("--chat", help="Apply the chat template to prompts that are plain text.")
    ] = False
    limit: Annotated[
        int | None,
        option(
            "--limit", help="Maximum number of prompts per category.", min=1, show_default=False
        ),
    ] = None
    drafter: Annotated[
        list[str] | None,
        option(
            "--drafter",
            "-d",
            help="Drafter to compare with plain decoding: a name as for generate, or NAME:N to "
            "limit trees to N nodes. May be repeated. Default: suffix, recycling, ngram, "
            "suffix+recycling and auto.",
            autocompletion=complete_drafter,
            show_default=False,
        ),
    ] = None
    model_draft: ModelDraft = None
    tokens: Annotated[
        int, option("--tokens", "-n", help="Maximum number of tokens per answer.", min=1)
    ] = 64
    repeats: Annotated[
        int,
        option(
            "--repeats",
            help="Number of rounds over all prompts; each round uses new engines.",
            min=1,
        ),
    ] = 3
    n_ctx: Annotated[
        int | None,
        option(
            "--n-ctx",
            "--ctx",
            "--ctx-size",
            "-c",
            help="Size of each KV cache in tokens. Default: enough for the longest prompt.",
            min=1,
            show_default=False,
        ),
    ] = None
    threads: Threads = None
    html: Annotated[
        Path | None,
        option("--html", help="Write an HTML report with plots to this file.", show_default=False),
    ] = None
    debug: Debug = False

    def settings(self) -> BenchSettings:
        """The settings of the measurement.

        Raises:
            DraftError, RequestError: an unknown drafter, one whose size is no number, or none.
        """
        from pytreellama.bench.runs import DRAFTERS, BenchSettings, drafter_and_size

        drafters = tuple(self.drafter or DRAFTERS)
        if self.model_draft is not None:
            drafters += (with_model_draft("auto", self.model_draft),)
        for name in drafters:
            drafter_and_size(name)
        if set(drafters) == {"none"}:
            raise RequestError(
                "--drafter none is always measured, to compare with; name one more, or leave it out"
            )
        return BenchSettings(drafters, self.tokens, self.repeats, self.n_ctx, self.threads)


@unpacked(BenchOptions)
def bench(options: BenchOptions, as_json: Json = False) -> None:
    """Benchmark drafters against plain decoding, with your model, prompts and machine.

    Decoding is greedy. Engines take turns prompt by prompt, and speedups are ratios within
    one repeat, so that a busy moment affects all engines. Keep the machine idle.
    """
    from pytreellama.bench.report import report_dict, report_html

    settings, prompts = options.settings(), _prompts(options)
    if options.html is not None:
        require_writable(options.html)
    measured, facts = _measured(options, prompts, settings)
    if options.html is not None:
        write_text(options.html, report_html(measured, facts))
    if as_json:
        print_json(report_dict(measured, facts))
    else:
        _print(measured, options.html)


def _prompts(options: BenchOptions) -> list[BenchPrompt]:
    from pytreellama.bench.prompts import limited, own_prompts, read_prompts

    prompts = own_prompts() if options.prompts is None else read_prompts(options.prompts)
    if options.chat:
        prompts = [prompt.as_chat() for prompt in prompts]
    return limited(prompts, options.limit)


def _measured(
    options: BenchOptions, prompts: list[BenchPrompt], settings: BenchSettings
) -> tuple[Measured, Report]:
    from pytreellama.bench.runs import drafter_and_size, measure
    from pytreellama.cli.session import load_model
    from pytreellama.system import native_log

    with native_log() as log:
        names = "+".join(drafter_and_size(name)[0] for name in settings.drafters)
        loaded = load_model(options.model, options, names)
    with loaded as model, ProgressBar("measuring", refreshes_per_s=1.0) as bar:
        facts = _facts(model, log)
        return measure(model, prompts, settings, bar.report), facts


def _facts(model: Model, log: list[str]) -> Report:
    """Facts about the machine, including its load before the measurement."""
    from pytreellama.bench.facts import model_facts, native_facts, python_facts
    from pytreellama.system import weight_buffers

    described = model_facts(model) | {"weight_buffers": weight_buffers(log)}
    return python_facts() | native_facts() | {"model": described}


def _print(measured: Measured, html: Path | None) -> None:
    from pytreellama.bench.text import headline, results_tables, settings_text

    console, results = stdout_console(), measured.results
    for table in results_tables(results, console):
        console.print(table)
    console.print(settings_text(measured), soft_wrap=True)
    console.print(headline(results), style="bold", markup=False, soft_wrap=True)
    if html is not None:
        stderr_console().print(f"The report is in {html}", markup=False, soft_wrap=True)
