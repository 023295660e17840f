"""What ``medusa train`` and ``eagle train`` share: options of texts, and how progress is shown."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pytreellama.cli.option import option
from pytreellama.cli.output import ProgressBar, stderr_console

if TYPE_CHECKING:
    from pytreellama.bench.prompts import BenchPrompt
    from pytreellama.training.own_texts import TextOptions
    from pytreellama.training.progress import Progress

_TOLD_EVERY_S = 30.0  # where no bar can be shown

TargetModel = Annotated[
    Path | None,
    typer.Argument(
        help="Path of the model's GGUF file. Default: SmolLM2-135M-Instruct.",
        show_default=False,
    ),
]
TextTokens = Annotated[
    int,
    option("--tokens", "-n", help="Number of training tokens, which the model generates.", min=1),
]
Epochs = Annotated[int, option("--epochs", help="Number of training epochs.", min=1)]
LearningRate = Annotated[float, option("--learning-rate", help="Peak learning rate.")]
Distil = Annotated[
    float,
    option(
        "--distil",
        help="Weight of the distillation loss (the model's distribution); the rest is the "
        "loss on the token that followed.",
        min=0.0,
        max=1.0,
    ),
]
AnswerPrompts = Annotated[
    Path | None,
    option(
        "--prompts",
        "-p",
        help="File of user messages to answer, in the format of bench --prompts. Default: "
        "the model generates them.",
        show_default=False,
    ),
]
AnswerTokens = Annotated[
    int,
    option(
        "--answer-tokens",
        help="Maximum number of tokens per answer and per user message.",
        min=2,
    ),
]
Seed = Annotated[int, option("--seed", help="Random seed.", min=0)]
WorkFolder = Annotated[
    Path | None,
    option(
        "--work",
        help="Folder for generated texts and checkpoints, from which an interrupted training "
        "resumes. Default: a folder in the user's cache.",
        show_default=False,
    ),
]
EvalPrompts = Annotated[
    Path | None,
    option(
        "--prompts",
        "-p",
        help="File of prompts, in the format of bench --prompts. Default: the prompts of the "
        "package.",
        show_default=False,
    ),
]
PromptLimit = Annotated[
    int | None,
    option("--limit", help="Maximum number of prompts per category.", min=1, show_default=False),
]
EvalTokens = Annotated[
    int, option("--tokens", "-n", help="Maximum number of tokens per answer.", min=2)
]
EvalNodes = Annotated[
    list[int] | None,
    option(
        "--nodes",
        help="Number of draft nodes in a tree. May be repeated. Default: 8, 16 and 32.",
        min=1,
        show_default=False,
    ),
]


def text_options(prompts: Path | None, answer_tokens: int, seed: int) -> TextOptions:
    """How the model writes. Raises ``RequestError`` for prompts that cannot be read."""
    from pytreellama.bench.prompts import read_prompts
    from pytreellama.training.own_texts import TextOptions

    asked = [] if prompts is None else read_prompts(prompts)
    return TextOptions(
        seed=seed,
        n_turn=answer_tokens,
        n_answer=answer_tokens,
        prompts=tuple(prompt.text for prompt in asked),
    )


def eval_prompts(path: Path | None, limit: int | None) -> list[BenchPrompt]:
    """The prompts to evaluate on. Raises ``RequestError`` if they cannot be read."""
    from pytreellama.bench.prompts import limited, own_prompts, read_prompts

    asked = own_prompts() if path is None else read_prompts(path)
    return limited([prompt.as_chat() for prompt in asked], limit)


class ProgressView:
    """Shows progress: on a terminal a bar, elsewhere a line now and then."""

    def __init__(self, bar: ProgressBar) -> None:
        self._bar = bar
        self._console = stderr_console()
        self._told_s = time.monotonic()

    def on_progress(self, progress: Progress) -> None:
        share = progress.n_done / progress.n_all
        self._bar.retitle(_progress_text(progress))
        self._bar.report(min(share, 0.999))
        now_s = time.monotonic()
        if not self._console.is_terminal and now_s - self._told_s > _TOLD_EVERY_S:
            self._told_s = now_s
            self._console.print(_progress_text(progress), markup=False, soft_wrap=True)


def _progress_text(progress: Progress) -> str:
    what = "tokens" if progress.phase == "writing" else "steps"
    loss = "" if progress.loss is None else f", loss {progress.loss:.3f}"
    return (
        f"{progress.phase}: {progress.n_done:,} of {progress.n_all:,} {what}{loss}, "
        f"about {_minutes_text(progress.left_s)} left"
    )


def times_text(writing_s: float, training_s: float) -> str:
    """What a training took."""
    return f"{_minutes_text(writing_s)} writing, {_minutes_text(training_s)} training"


def _minutes_text(seconds: float) -> str:
    """A time in minutes, or in seconds where it is short."""
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def shares_text(shares: tuple[float, ...]) -> str:
    """Some shares in a row."""
    return ", ".join(f"{share:.3f}" for share in shares)
