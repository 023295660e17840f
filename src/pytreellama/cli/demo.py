"""``pytreellama demo``: three tasks, plain and with trees, to see what speculation is for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pytreellama.cli.marked_text import LEGEND, MarkedText, is_coloured
from pytreellama.cli.option import option, unpacked
from pytreellama.cli.options import EngineFlags, Json
from pytreellama.cli.output import ProgressBar, print_json, stderr_console, stdout_console

if TYPE_CHECKING:
    from rich.table import Table

    from pytreellama.engine import Completion, Engine
    from pytreellama.engine.prompts import Prompt

_WHY = (
    "A draft helps where the next words can be guessed: in lists, in code, and most of all where "
    "a text repeats or edits another. Free prose gains little. The text is the model's own in "
    "each case."
)


@dataclass(frozen=True, slots=True)
class Task:
    """A prompt of the demonstration."""

    name: str
    question: str


TASKS = (
    Task("free prose", "Write a short story about a lighthouse."),
    Task("a list", "Count from 1 to 30, one number on each line."),
    Task(
        "editing a text",
        "Fix the spelling in this text and write it out again: Teh quick brwon fox jumps ovr the "
        "lazy dog. It was a brigth cold day in Aprl, and the clocks wer striking thirteen.",
    ),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One task, with trees and by plain decoding."""

    task: Task
    trees: Completion
    plain: Completion

    @property
    def times_plain(self) -> float:
        """Ratio of tokens a second, prefill left out."""
        plain = self.plain.stats.tokens_per_s
        return self.trees.stats.tokens_per_s / plain if plain else 0.0

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "task": self.task.name,
            "question": self.task.question,
            "text": self.trees.text,
            "identical": self.trees.tokens == self.plain.tokens,
            "tokens_per_step": self.trees.stats.tokens_per_step,
            "plain_tokens_per_s": self.plain.stats.tokens_per_s,
            "tokens_per_s": self.trees.stats.tokens_per_s,
            "times_plain": self.times_plain,
        }


@dataclass(frozen=True, slots=True)
class DemoOptions(EngineFlags):
    """As ``generate`` has them; greedy by default."""

    max_tokens: Annotated[
        int, option("--max-tokens", "-n", help="Maximum number of tokens of an answer.", min=1)
    ] = 120


@unpacked(DemoOptions)
def demo(
    options: DemoOptions,
    plain: Annotated[
        bool, option("--plain", help="Do not colour the tokens of accepted drafts.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show what trees are good for: free prose, a list, and a text to edit.

    Each answer is streamed, then written again by plain decoding and compared.
    """
    from pytreellama.cli import session

    requested = {**session.as_keywords(options.sampling()), "max_tokens": options.max_tokens}
    session.check_drafter(options.drafter_spec)
    with (
        session.load_model(options.model, options, options.drafter_spec) as model,
        session.open_engine(model, options) as trees,
        session.open_engine(model, options, "none") as alone,
    ):
        marked = MarkedText(model.vocab, in_colour=is_coloured(plain=plain) and not as_json)
        with ProgressBar("measuring the cost of passes"):
            trees.prepare()
        has_template = model.chat_template is not None
        outcomes = []
        for task in TASKS:
            prompt = _prompt(task, has_template=has_template)
            shown = None if as_json else marked
            if shown is not None:
                typer.echo(f"\n{task.name}: {task.question}\n", err=True)
            drafted = _streamed(trees, prompt, shown, requested)
            with ProgressBar("the same by plain decoding"):
                outcomes.append(Outcome(task, drafted, alone.generate(prompt, **requested)))
    if as_json:
        print_json({"tasks": [outcome.to_dict() for outcome in outcomes]})
        return
    stdout_console().print("\n", _table(outcomes))
    legend = f" In {LEGEND}." if marked.in_colour else ""
    stderr_console().print(_WHY + legend, markup=False, soft_wrap=True)
    typer.echo("\nNext: pytreellama chat, pytreellama serve, pytreellama tree --html", err=True)


def _prompt(task: Task, *, has_template: bool) -> Prompt:
    return [{"role": "user", "content": task.question}] if has_template else task.question


def _streamed(
    engine: Engine, prompt: Prompt, marked: MarkedText | None, requested: dict[str, Any]
) -> Completion:
    """Generate, and write the text as it comes."""
    if marked is None:
        completion: Completion = engine.generate(prompt, **requested)
        return completion
    generation = engine.submit(prompt, on_step=marked.on_step, **requested)
    try:
        for chunk in generation:
            marked.write(chunk.text)
    finally:
        generation.cancel()  # where it was interrupted
    marked.reset()
    typer.echo("")
    return generation.result()


def _table(outcomes: list[Outcome]) -> Table:
    from rich.table import Table

    table = Table(title="tokens a second, plain and with trees", title_justify="left")
    table.add_column("task", no_wrap=True)
    for column in ("tokens a pass", "plain", "trees", "ratio", "same text"):
        table.add_column(column, justify="right")
    for outcome in sorted(outcomes, key=lambda outcome: outcome.times_plain):
        trees, plain = outcome.trees, outcome.plain
        table.add_row(
            outcome.task.name,
            f"{trees.stats.tokens_per_step:.2f}",
            f"{plain.stats.tokens_per_s:.1f}",
            f"{trees.stats.tokens_per_s:.1f}",
            f"{outcome.times_plain:.2f}",
            "yes" if trees.tokens == plain.tokens else "no",
        )
    return table
