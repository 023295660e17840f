"""``pytreellama bench``: every drafter beside plain decoding, with your model and your prompts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pytreellama.cli.options import (
    Debug,
    GpuLayers,
    Json,
    ModelPath,
    Threads,
    complete_drafter,
    option,
    require_writable,
    unpacked,
)
from pytreellama.cli.output import ProgressBar, print_json, stderr_console, stdout_console
from pytreellama.errors import RequestError
from pytreellama.files import write_text

if TYPE_CHECKING:
    from pytreellama.bench.facts import Report
    from pytreellama.bench.prompts import BenchPrompt
    from pytreellama.bench.runs import BenchSettings, Measured
    from pytreellama.model.model import Model


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """What a benchmark is asked for on the command line."""

    model: ModelPath = None
    prompts: Annotated[
        Path | None,
        option(
            "--prompts",
            "-p",
            help="A file of prompts: JSON lines with 'messages', 'turns' (as Spec-Bench) or "
            "'prompt', and 'category' or 'task'; or plain text, one prompt a paragraph. Without "
            "it, eight prompts that come with the package.",
            show_default=False,
        ),
    ] = None
    chat: Annotated[
        bool, option("--chat", help="Prompts that are text are messages to a chat model.")
    ] = False
    limit: Annotated[
        int | None,
        option("--limit", help="Most prompts of each category.", min=1, show_default=False),
    ] = None
    drafter: Annotated[
        list[str] | None,
        option(
            "--drafter",
            "-d",
            help="What to measure beside plain decoding; may be repeated. A name as of generate, "
            "or NAME:N for trees of at most N nodes. By default suffix, recycling, ngram, "
            "suffix+recycling and auto.",
            autocompletion=complete_drafter,
            show_default=False,
        ),
    ] = None
    tokens: Annotated[int, option("--tokens", "-n", help="Most tokens of an answer.", min=1)] = 64
    repeats: Annotated[
        int,
        option("--repeats", help="Rounds of all prompts, each with new engines.", min=1),
    ] = 3
    n_ctx: Annotated[
        int | None,
        option(
            "--n-ctx",
            "--ctx",
            "-c",
            help="Tokens that each KV cache holds; by default what the longest prompt needs.",
            min=1,
            show_default=False,
        ),
    ] = None
    threads: Threads = None
    n_gpu_layers: GpuLayers = -1
    html: Annotated[
        Path | None,
        option("--html", help="Write a report with plots into this file.", show_default=False),
    ] = None
    debug: Debug = False

    def settings(self) -> BenchSettings:
        """How to measure.

        Raises:
            DraftError, RequestError: an unknown drafter, one whose size is no number, or none.
        """
        from pytreellama.bench.runs import DRAFTERS, BenchSettings, drafter_and_size

        drafters = tuple(self.drafter or DRAFTERS)
        for name in drafters:
            drafter_and_size(name)
        if set(drafters) == {"none"}:
            raise RequestError(
                "--drafter none is always measured, to compare with; name one more, or leave it out"
            )
        return BenchSettings(drafters, self.tokens, self.repeats, self.n_ctx, self.threads)


@unpacked(BenchOptions)
def bench(options: BenchOptions, as_json: Json = False) -> None:
    """Measure drafters beside plain decoding: your model, your prompts, your machine.

    Answers are greedy. The engines take turns prompt by prompt, and ratios are of one repeat each,
    so that a busy moment hits all. Leave the machine alone meanwhile.
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
    from pytreellama.bench.runs import measure
    from pytreellama.cli.session import load_model
    from pytreellama.system import native_log

    with native_log() as log:
        loaded = load_model(options.model, options.n_gpu_layers)
    with loaded as model, ProgressBar("measuring", refreshes_per_s=1.0) as bar:
        facts = _facts(model, log)
        return measure(model, prompts, settings, bar.report), facts


def _facts(model: Model, log: list[str]) -> Report:
    """The machine's load among them, before anything is measured."""
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
