"""``pytreellama eagle``: EAGLE-3 heads for a model: trained, measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pytreellama.cli.option import option, unpacked
from pytreellama.cli.options import Debug, Json, ModelPath
from pytreellama.cli.output import ProgressBar, facts_table, print_json, stdout_console
from pytreellama.cli.placement_flags import GpuLayers, PlacementFlags
from pytreellama.cli.training_options import (
    AnswerPrompts,
    AnswerTokens,
    Distil,
    Epochs,
    EvalNodes,
    EvalPrompts,
    EvalTokens,
    LearningRate,
    ProgressView,
    PromptLimit,
    Seed,
    TargetModel,
    TextTokens,
    WorkFolder,
    eval_prompts,
    shares_text,
    text_options,
    times_text,
)
from pytreellama.units import gibibytes

if TYPE_CHECKING:
    from pytreellama.eagle.training import EagleOptions
    from pytreellama.training.trained import Trained

app = typer.Typer(
    no_args_is_help=True,
    help="Train and evaluate EAGLE-3 heads.",
)


@dataclass(frozen=True, slots=True)
class HeadTrainOptions:
    """Options of training."""

    model: TargetModel = None
    output: Annotated[
        Path | None,
        option(
            "--output",
            "-o",
            help="Output file for the head (GGUF). Default: next to the model, where the "
            "drafters eagle3 and auto find it.",
            show_default=False,
        ),
    ] = None
    tokens: TextTokens = 1_000_000
    epochs: Epochs = 4
    minutes: Annotated[
        float,
        option(
            "--minutes",
            help="Maximum training time, without the generation of text; 0 for no limit. The "
            "learning rate falls to zero by then.",
            min=0.0,
        ),
    ] = 0.0
    unroll: Annotated[
        int,
        option(
            "--unroll",
            help="Steps of the training-time test: after the first, the head reads its own "
            "hidden states.",
            min=1,
            max=16,
        ),
    ] = 4
    ff: Annotated[
        int,
        option(
            "--ff",
            help="Width of the feed-forward block; 0 for 8/3 of the model's hidden size.",
            min=0,
        ),
    ] = 0
    shortlist: Annotated[
        int,
        option(
            "--shortlist",
            help="Draft vocabulary: the N most frequent tokens; 0 for all tokens.",
            min=0,
        ),
    ] = 8192
    batch: Annotated[int, option("--batch", help="Batch size: texts per training step.", min=1)] = 8
    learning_rate: LearningRate = 1.5e-3
    distil: Distil = 0.8
    file_type: Annotated[
        Literal["f32", "f16", "q8_0", "q5_1", "q4_1"],
        option("--type", help="Data type of the weights in the file."),
    ] = "q8_0"
    prompts: AnswerPrompts = None
    answer_tokens: AnswerTokens = 192
    seed: Seed = 1
    work: WorkFolder = None
    n_gpu_layers: GpuLayers = -1
    debug: Debug = False

    def training_options(self) -> EagleOptions:
        """What is trained. Raises MedusaError if out of range."""
        from pytreellama.eagle.training import EagleOptions

        return EagleOptions(
            n_shortlist=self.shortlist,
            n_ff=self.ff,
            n_unroll=self.unroll,
            n_epochs=self.epochs,
            minutes=self.minutes,
            n_batch=self.batch,
            learning_rate=self.learning_rate,
            distil=self.distil,
            seed=self.seed,
        )


@app.command("train")
@unpacked(HeadTrainOptions)
def train(options: HeadTrainOptions, as_json: Json = False) -> None:
    """Train an EAGLE-3 head for a model on text that it generates. Needs pytreellama\\[train].

    The file is of llama.cpp's eagle3 format: llama-server --spec-type draft-eagle3 loads it too.
    Texts and checkpoints are saved, so that an interrupted training resumes.
    """
    from pytreellama.cli.session import load_model
    from pytreellama.draft.eagle3 import beside
    from pytreellama.eagle import run

    texts = text_options(options.prompts, options.answer_tokens, options.seed)
    training = options.training_options()
    with (
        load_model(options.model, PlacementFlags(options.n_gpu_layers)) as model,
        ProgressBar("writing", refreshes_per_s=1.0) as bar,
    ):
        trained = run.train(
            model,
            options.output or beside(model),
            n_tokens=options.tokens,
            texts=texts,
            options=training,
            file_type=options.file_type,
            folder=options.work,
            report=ProgressView(bar).on_progress,
        )
    if as_json:
        print_json(trained.to_dict())
    else:
        _print_trained(trained)


def _print_trained(trained: Trained) -> None:
    facts: dict[str, object] = {
        "head": trained.path,
        "tokens": f"{trained.n_tokens:,}",
        "time": times_text(trained.writing_s, trained.training_s),
        "most memory": gibibytes(trained.peak_bytes) if trained.peak_bytes else "not told",
        "accuracy, by depth": shares_text(trained.accuracy.top1),
        "among the first five": shares_text(trained.accuracy.top5),
        "tokens per step": f"{trained.accuracy.tokens_per_step:.2f} with chains",
    }
    stdout_console().print(facts_table("trained", facts))


@dataclass(frozen=True, slots=True)
class HeadEvalOptions:
    """Options of an evaluation."""

    head: Annotated[
        Path | None,
        typer.Argument(
            help="File of the head. Default: the file next to the model.",
            show_default=False,
        ),
    ] = None
    model: ModelPath = None
    prompts: EvalPrompts = None
    limit: PromptLimit = None
    tokens: EvalTokens = 128
    nodes: EvalNodes = None
    n_gpu_layers: GpuLayers = -1
    debug: Debug = False


@app.command("eval")
@unpacked(HeadEvalOptions)
def evaluate(options: HeadEvalOptions, as_json: Json = False) -> None:
    """Evaluate a head: accepted tokens per step by tree size."""
    from pytreellama.bench.runs import prompt_tokens
    from pytreellama.cli.session import load_model
    from pytreellama.draft.eagle3 import beside
    from pytreellama.eagle.evaluation import evaluate as measured

    prompts = eval_prompts(options.prompts, options.limit)
    with (
        load_model(options.model, PlacementFlags(options.n_gpu_layers)) as model,
        ProgressBar("measuring", refreshes_per_s=1.0) as bar,
    ):
        path = options.head or Path(beside(model))
        steps = measured(
            model,
            path,
            [prompt_tokens(model, prompt) for prompt in prompts],
            sizes=tuple(options.nodes or (8, 16, 32)),
            n_tokens=options.tokens,
            report=bar.report,
        )
    facts: dict[str, Any] = {"head": str(path)}
    saved = {n: one.tokens_per_step for n, one in steps.items()}
    if as_json:
        print_json(facts | {"tokens_per_step": {str(n): share for n, share in saved.items()}})
        return
    facts |= {f"tokens per step, {n} draft nodes": f"{share:.2f}" for n, share in saved.items()}
    stdout_console().print(facts_table("head", facts))
