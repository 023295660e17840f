"""``pytreellama medusa``: heads for a model: trained, converted, measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pytreellama.cli.option import option, unpacked
from pytreellama.cli.options import Debug, Json, ModelPath
from pytreellama.cli.output import (
    ProgressBar,
    facts_table,
    print_json,
    stdout_console,
)
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
from pytreellama.errors import RequestError
from pytreellama.units import gibibytes

if TYPE_CHECKING:
    from pytreellama.medusa.evaluation import HeadsEvaluation
    from pytreellama.medusa.training import TrainingOptions
    from pytreellama.training.trained import Trained

app = typer.Typer(
    no_args_is_help=True,
    help="Train, convert and evaluate Medusa heads.",
)

Output = Annotated[
    Path, option("--output", "-o", help="Output file for the heads (GGUF).", show_default=False)
]


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """Options of training."""

    output: Output
    model: TargetModel = None
    tokens: TextTokens = 1_000_000
    epochs: Epochs = 4
    heads: Annotated[
        int,
        option(
            "--heads", help="Number of heads: tokens predicted beyond the next one.", min=1, max=16
        ),
    ] = 4
    layers: Annotated[
        int, option("--layers", help="Number of residual blocks per head.", min=1, max=16)
    ] = 2
    sees: Annotated[
        Literal["none", "root", "path"],
        option(
            "--sees",
            help="Inputs of a head in addition to the hidden state: none (Medusa), root (the "
            "next token), or path (the next token and all earlier draft tokens, as Hydra).",
        ),
    ] = "path"
    shortlist: Annotated[
        int,
        option(
            "--shortlist",
            help="Output vocabulary of the heads: the N most frequent tokens; 0 for all tokens.",
        ),
    ] = 8192
    deep_shortlist: Annotated[
        int,
        option(
            "--deep-shortlist",
            help="Output vocabulary of all heads after the first; 0 for the whole shortlist.",
            min=0,
        ),
    ] = 2048
    batch: Annotated[
        int, option("--batch", help="Batch size: positions per training step.", min=1)
    ] = 1024
    learning_rate: LearningRate = 3e-3
    distil: Distil = 0.8
    file_type: Annotated[
        Literal["f32", "f16", "q8_0", "q5_1", "q4_1"],
        option("--type", help="Data type of the weights in the file."),
    ] = "q4_1"
    prompts: AnswerPrompts = None
    answer_tokens: AnswerTokens = 192
    seed: Seed = 1
    work: WorkFolder = None
    n_gpu_layers: GpuLayers = -1
    debug: Debug = False

    def training_options(self) -> TrainingOptions:
        """What is trained. Raises MedusaError if out of range."""
        from pytreellama.medusa.training import TrainingOptions

        return TrainingOptions(
            n_heads=self.heads,
            n_layers=self.layers,
            sees=self.sees,
            n_shortlist=self.shortlist,
            n_epochs=self.epochs,
            n_batch=self.batch,
            learning_rate=self.learning_rate,
            distil=self.distil,
            seed=self.seed,
        )


@app.command("train")
@unpacked(TrainOptions)
def train(options: TrainOptions, as_json: Json = False) -> None:
    """Train heads for a model on text that it generates. Needs pytreellama\\[train].

    The model generates questions and answers them. Texts and checkpoints are saved, so that
    an interrupted training resumes. Keep the machine idle.
    """
    from pytreellama.cli.session import load_model
    from pytreellama.medusa import run

    texts = text_options(options.prompts, options.answer_tokens, options.seed)
    training = options.training_options()
    with (
        load_model(options.model, PlacementFlags(options.n_gpu_layers)) as model,
        ProgressBar("writing", refreshes_per_s=1.0) as bar,
    ):
        trained = run.train(
            model,
            options.output,
            n_tokens=options.tokens,
            texts=texts,
            options=training,
            n_deep=options.deep_shortlist,
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
        "heads": trained.path,
        "tokens": f"{trained.n_tokens:,}",
        "time": times_text(trained.writing_s, trained.training_s),
        "most memory": gibibytes(trained.peak_bytes) if trained.peak_bytes else "not told",
        "right, by head": shares_text(trained.accuracy.top1),
        "among the first five": shares_text(trained.accuracy.top5),
        "tokens a step": f"{trained.accuracy.tokens_per_step:.2f} with chains",
    }
    stdout_console().print(facts_table("trained", facts))


@dataclass(frozen=True, slots=True)
class EvalOptions:
    """Options of an evaluation."""

    heads: Annotated[
        Path | None,
        typer.Argument(
            help="File of heads. Default: the file next to the model, or the one in the package.",
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
@unpacked(EvalOptions)
def evaluate(options: EvalOptions, as_json: Json = False) -> None:
    """Evaluate heads: accuracy of each, and accepted tokens per step by tree size."""
    from pytreellama.bench.runs import prompt_tokens
    from pytreellama.cli.session import load_model
    from pytreellama.draft.medusa import require_heads
    from pytreellama.medusa.evaluation import evaluate as measured
    from pytreellama.model.heads import Heads

    prompts = eval_prompts(options.prompts, options.limit)
    with (
        load_model(options.model, PlacementFlags(options.n_gpu_layers)) as model,
        Heads(options.heads or require_heads(model), model) as heads,
        ProgressBar("measuring", refreshes_per_s=1.0) as bar,
    ):
        evaluation = measured(
            model,
            heads,
            [prompt_tokens(model, prompt) for prompt in prompts],
            sizes=tuple(options.nodes or (8, 16, 32)),
            n_tokens=options.tokens,
            report=bar.report,
        )
        facts = {"heads": str(heads.path), "sees": heads.sees, "n_rows": heads.n_rows}
    if as_json:
        print_json(facts | evaluation.to_dict())
    else:
        _print_evaluation(facts, evaluation)


def _print_evaluation(facts: dict[str, Any], evaluation: HeadsEvaluation) -> None:
    hits = evaluation.hits.to_dict()
    facts |= {
        "right, by head": shares_text(tuple(hits["top1"])),
        "among the first five": shares_text(tuple(hits["top5"])),
    }
    facts |= {
        f"tokens per step, {n} draft nodes": f"{steps.tokens_per_step:.2f}"
        for n, steps in evaluation.steps.items()
    }
    stdout_console().print(facts_table("heads", facts))


@app.command("convert")
def convert(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            help="medusa_lm_head.pt or a safetensors file of the Medusa project, or the folder "
            "that holds it."
        ),
    ],
    output: Output,
    model: ModelPath = None,
    file_type: Annotated[
        Literal["f32", "f16", "q8_0", "q5_1", "q4_1"],
        option("--type", help="Data type of the weights in the file."),
    ] = "f16",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Convert a checkpoint of the Medusa project to a file of heads."""
    from pytreellama.cli.session import load_model
    from pytreellama.medusa.convert import convert as converted

    if not output.parent.is_dir():
        raise RequestError(f"--output {output}: there is no directory {output.parent}")
    with load_model(model) as target:
        heads = converted(checkpoint, target)
    heads.write(output, file_type)
    facts: dict[str, Any] = {
        "path": str(output),
        "n_heads": len(heads.heads),
        "n_layers": len(heads.heads[0].weights),
        "model": heads.model_name,
    }
    if as_json:
        print_json(facts)
    else:
        stdout_console().print(facts_table("converted", facts))
