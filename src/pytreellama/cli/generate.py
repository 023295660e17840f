"""``pytreellama generate``: text as it becomes certain, and what it cost."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Annotated

import typer

from pytreellama.bench.facts import model_dict
from pytreellama.cli.marked_text import MarkedText, is_coloured
from pytreellama.cli.option import option, unpacked
from pytreellama.cli.options import GenerationOptions, Json
from pytreellama.cli.output import facts_table, print_json, stderr_console, write
from pytreellama.errors import RequestError
from pytreellama.units import milliseconds

if TYPE_CHECKING:
    from rich.table import Table

    from pytreellama.cli.comparison import Comparison
    from pytreellama.engine import Completion, Stats


@unpacked(GenerationOptions)
def generate(
    options: GenerationOptions,
    stats: Annotated[
        bool,
        option(
            "--stats",
            help="Print statistics: throughput, tokens per step, acceptance, time per phase.",
        ),
    ] = False,
    compare: Annotated[
        bool,
        option("--compare", help="Generate again with plain decoding and compare speed and text."),
    ] = False,
    plain: Annotated[
        bool,
        option("--plain", help="On a terminal too: do not colour the tokens of accepted drafts."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Generate text from a prompt or a chat message.

    The text is streamed to stdout; everything else goes to stderr.
    """
    from pytreellama.cli import session
    from pytreellama.cli.comparison import compare as compare_with_plain

    if compare and options.drafter == "none":
        raise RequestError(
            "--compare with --drafter none compares plain with plain; choose another"
        )
    prompt = session.read_prompt(options)
    options.check_sampling()
    session.check_drafter(options.drafter_spec)
    with session.load_model(options.model, options, options.drafter_spec) as model:
        sampling = options.sampling_for(model)
        with session.open_engine(model, options) as engine:
            marked = MarkedText(model.vocab, in_colour=is_coloured(plain=plain or as_json))
            completion = session.run(
                engine,
                prompt,
                options,
                sampling,
                on_text=None if as_json else marked.write,
                on_step=marked.on_step,
            )
        if not as_json:
            end_line(completion.text)
            _say_cut(completion, options.max_tokens)
        comparison = None
        if compare:
            comparison = compare_with_plain(model, prompt, options, sampling, completion)
        if as_json:
            described = {"model": model_dict(model), "drafter": options.drafter_spec}
            both = comparison.to_dict() if comparison else {}
            print_json(session.completion_dict(completion) | described | both)
    if not as_json:
        _show(completion, comparison, stats)


def _say_cut(completion: Completion, max_tokens: int) -> None:
    """Say on stderr that the output did not end by itself."""
    if completion.finish_reason == "length":
        typer.echo(f"(cut after {max_tokens} tokens; -n sets another limit)", err=True)
    elif completion.finish_reason == "context":
        typer.echo("(cut: the context is full; -c sets its size)", err=True)


def end_line(text: str) -> None:
    """Print a line break if the text does not end with one."""
    if not text.endswith("\n"):
        write("\n")


def _show(completion: Completion, comparison: Comparison | None, stats: bool) -> None:
    if not stats and comparison is None:
        return
    from pytreellama.cli.comparison import comparison_table, parting_text

    console = stderr_console()
    if stats:
        console.print(stats_table(completion))
    if comparison is not None:
        console.print(comparison_table(comparison))
        if not comparison.is_identical:
            console.print(parting_text(comparison), markup=False, soft_wrap=True)


def stats_table(completion: Completion) -> Table:
    """What a generation cost, and what its trees brought."""
    stats = completion.stats
    return facts_table(
        "what it cost",
        {
            "prompt": f"{stats.n_prompt} tokens in {stats.prefill_s:.2f} s",
            "text": f"{stats.n_tokens} tokens in {stats.decode_s:.2f} s "
            f"({stats.tokens_per_s:.1f} tokens/s), ended by {completion.finish_reason}",
            "steps": f"{stats.n_steps}, {stats.tokens_per_step:.2f} tokens a step",
            "guesses": _candidates(stats),
            **_drafters(stats),
            "trees": _trees(stats),
            "passes": f"{stats.target_s:.2f} s",
            "drafting": f"{stats.draft_s:.3f} s",
            **_planning(stats),
            "verifying": f"{stats.verify_s:.3f} s",
            "overhead": f"{stats.overhead_s:.3f} s",
            "seed": str(completion.seed),
        },
    )


def _candidates(stats: Stats) -> str:
    return _brought(stats.n_drafted, stats.n_accepted)


def _brought(n_drafted: int, n_accepted: int) -> str:
    if not n_drafted:
        return "none"
    return f"{n_drafted} drafted, {n_accepted} accepted ({n_accepted / n_drafted:.0%})"


def _drafters(stats: Stats) -> dict[str, str]:
    """Where trees were planned, whose guesses they were; what two propose counts for both."""
    return {
        f"  of {name}": _brought(one.n_drafted, one.n_accepted)
        for name, one in stats.drafters.items()
    }


def _planning(stats: Stats) -> dict[str, str]:
    if not stats.plan_s:
        return {}
    expected = (
        f"{stats.n_expected:.1f} draft nodes expected to be accepted, {stats.n_accepted} were"
    )
    return {"planning": f"{milliseconds(stats.plan_s)}; {expected}"}


def _trees(stats: Stats) -> str:
    if not stats.tree_sizes:
        return "none"
    middle = statistics.median(stats.tree_sizes)
    return f"{middle:g} nodes in the middle, {max(stats.tree_sizes)} at most"
