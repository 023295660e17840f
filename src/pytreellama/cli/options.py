"""Options that several commands share: one dataclass with a field for each option."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_type_hints

import typer

from pytreellama.cli.failures import remember_debug
from pytreellama.errors import RequestError
from pytreellama.text_files import read_text

if TYPE_CHECKING:
    from pytreellama.sampling.params import SamplingParams

_Options = TypeVar("_Options")
_MODEL, _DRAFTING = "Model", "Drafting"
_TEXT, _SAMPLING, _RARE = "Text", "Sampling", "More sampling options"


def unpacked(options: type[_Options]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate a command whose first parameter is a dataclass: each field becomes an option."""
    hints = get_type_hints(options, include_extras=True)
    names = [field.name for field in fields(options)]  # type: ignore[arg-type]
    shared = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in fields(options)  # type: ignore[arg-type]
    ]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
        parameters = [*shared, *(p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own)]

        def run(**values: Any) -> None:
            packed = options(**{name: values.pop(name) for name in names})
            command(packed, **values)

        functools.update_wrapper(run, command)
        del run.__wrapped__  # type: ignore[attr-defined]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorate


def option(*names: str, help: str, panel: str | None = None, **settings: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel, **settings)


def complete_drafter(incomplete: str) -> list[str]:
    """Shell completion: names of drafters that start with ``incomplete``."""
    from pytreellama.draft import DRAFTERS

    return [name for name in DRAFTERS if name.startswith(incomplete)]


ModelPath = Annotated[
    Path | None,
    option(
        "--model",
        "-m",
        help="Path of a GGUF file. Default: PYTREELLAMA_MODEL if set, else SmolLM2-135M-Instruct "
        "(98 MB, downloaded once).",
        panel=_MODEL,
        show_default=False,
    ),
]
Threads = Annotated[
    int | None,
    option(
        "--threads",
        "-t",
        help="Number of threads. Default: the number of physical cores.",
        panel=_MODEL,
        min=1,
    ),
]
GpuLayers = Annotated[
    int,
    option("--n-gpu-layers", help="Number of layers to put on the GPU; -1 for all.", panel=_MODEL),
]
Debug = Annotated[
    bool,
    option("--debug", help="Print the traceback of an error.", callback=remember_debug),
]
Json = Annotated[
    bool,
    option("--json", help="Print a single JSON object on stdout; everything else goes to stderr."),
]


@dataclass(frozen=True, slots=True)
class GenerationOptions:
    """Options of one generation.

    Sampling fields are named as those of ``SamplingParams`` and have the same defaults.
    """

    prompt: Annotated[
        str | None,
        typer.Argument(
            help="The text to continue. If '-' or missing, it is read from stdin, without the "
            "final line break.",
            show_default=False,
        ),
    ] = None

    chat: Annotated[
        bool,
        option(
            "--chat",
            help="Treat the prompt as a user message and apply the model's chat template.",
            panel=_TEXT,
        ),
    ] = False
    system: Annotated[
        str | None,
        option("--system", help="System message; requires --chat.", panel=_TEXT),
    ] = None
    max_tokens: Annotated[
        int, option("--max-tokens", "-n", help="Maximum number of tokens to generate.", panel=_TEXT)
    ] = 128
    stop: Annotated[
        list[str] | None,
        option(
            "--stop",
            help="Stop string: generation ends when it appears. May be repeated.",
            panel=_TEXT,
        ),
    ] = None
    ignore_eos: Annotated[
        bool, option("--ignore-eos", help="Do not stop at end-of-sequence tokens.", panel=_TEXT)
    ] = False
    grammar_file: Annotated[
        Path | None,
        option(
            "--grammar-file",
            help="File with a GBNF grammar that constrains the output.",
            panel=_TEXT,
        ),
    ] = None
    json_schema: Annotated[
        str | None,
        option(
            "--json-schema",
            help="JSON schema that constrains the output: a file, or the schema itself.",
            panel=_TEXT,
        ),
    ] = None

    model: ModelPath = None
    n_ctx: Annotated[
        int | None,
        option(
            "--n-ctx",
            "--ctx",
            "-c",
            help="Size of the KV cache in tokens: prompt, output and draft nodes. Default: 4096, "
            "or the model's training context if that is smaller.",
            panel=_MODEL,
            min=1,
        ),
    ] = None
    threads: Threads = None
    n_gpu_layers: GpuLayers = -1

    drafter: Annotated[
        str,
        option(
            "--drafter",
            "-d",
            help="Drafter: auto (several, planned by cost), none (plain decoding), suffix "
            "(continuations of repeated text), recycling (top tokens of earlier passes), ngram "
            "(n-gram counts over all requests), medusa (heads on the hidden state; medusa=FILE "
            "for a file of heads), mtp (the model's own NextN layers), eagle3 (an EAGLE-3 file "
            "next to the model; eagle3=FILE for another), or a merge such as suffix+recycling.",
            panel=_DRAFTING,
            autocompletion=complete_drafter,
        ),
    ] = "auto"
    n_draft: Annotated[
        int | None,
        option(
            "--n-draft",
            help="Maximum number of draft nodes in a tree. Default: 64 for auto, else 8.",
            panel=_DRAFTING,
            min=0,
            show_default=False,
        ),
    ] = None

    temperature: Annotated[
        float,
        option(
            "--temperature", help="Sampling temperature; 0 for greedy decoding.", panel=_SAMPLING
        ),
    ] = 0.0
    top_k: Annotated[
        int,
        option(
            "--top-k", help="Sample from the k most likely tokens; 0 to disable.", panel=_SAMPLING
        ),
    ] = 0
    top_p: Annotated[
        float,
        option(
            "--top-p",
            help="Nucleus sampling: keep the most likely tokens with this total probability; 1 "
            "to disable.",
            panel=_SAMPLING,
        ),
    ] = 1.0
    min_p: Annotated[
        float,
        option(
            "--min-p",
            help="Keep tokens with at least this fraction of the top token's probability; 0 to "
            "disable.",
            panel=_SAMPLING,
        ),
    ] = 0.0
    repeat_penalty: Annotated[
        float,
        option(
            "--repeat-penalty",
            help="Penalty for tokens that occurred recently; 1 to disable.",
            panel=_SAMPLING,
        ),
    ] = 1.0
    seed: Annotated[
        int | None,
        option(
            "--seed",
            help="Random seed; the same seed gives the same text. Default: random.",
            panel=_SAMPLING,
        ),
    ] = None

    dynatemp_range: Annotated[
        float,
        option(
            "--dynatemp-range",
            help="Dynamic temperature: how far the temperature moves with entropy; 0 to disable.",
            panel=_RARE,
        ),
    ] = 0.0
    dynatemp_exponent: Annotated[
        float,
        option(
            "--dynatemp-exponent", help="Dynamic temperature: exponent of the entropy.", panel=_RARE
        ),
    ] = 1.0
    typical_p: Annotated[
        float, option("--typical-p", help="Locally typical sampling; 1 to disable.", panel=_RARE)
    ] = 1.0
    top_n_sigma: Annotated[
        float,
        option(
            "--top-n-sigma",
            help="Keep logits within this many standard deviations of the maximum; 0 to disable.",
            panel=_RARE,
        ),
    ] = 0.0
    frequency_penalty: Annotated[
        float,
        option(
            "--frequency-penalty",
            help="Penalty per occurrence of a recent token; 0 to disable.",
            panel=_RARE,
        ),
    ] = 0.0
    presence_penalty: Annotated[
        float,
        option(
            "--presence-penalty",
            help="Penalty for each recent token, once; 0 to disable.",
            panel=_RARE,
        ),
    ] = 0.0
    penalty_last_n: Annotated[
        int,
        option(
            "--penalty-last-n",
            help="Number of recent tokens to which the penalties apply.",
            panel=_RARE,
        ),
    ] = 64
    dry_multiplier: Annotated[
        float,
        option(
            "--dry-multiplier",
            help="Strength of the DRY repetition penalty; 0 to disable.",
            panel=_RARE,
        ),
    ] = 0.0
    dry_base: Annotated[
        float,
        option(
            "--dry-base", help="DRY: base of the exponential growth of the penalty.", panel=_RARE
        ),
    ] = 1.75
    dry_allowed_length: Annotated[
        int,
        option(
            "--dry-allowed-length",
            help="DRY: longest repetition without a penalty, in tokens.",
            panel=_RARE,
        ),
    ] = 2
    dry_penalty_last_n: Annotated[
        int,
        option(
            "--dry-penalty-last-n",
            help="DRY: number of recent tokens to search for repetitions.",
            panel=_RARE,
        ),
    ] = 1024
    dry_sequence_breaker: Annotated[
        list[str] | None,
        option(
            "--dry-sequence-breaker",
            help="DRY: string that ends a repetition. May be repeated.",
            panel=_RARE,
        ),
    ] = None
    xtc_probability: Annotated[
        float,
        option(
            "--xtc-probability",
            help="XTC: probability of removing the top choices; 0 to disable.",
            panel=_RARE,
        ),
    ] = 0.0
    xtc_threshold: Annotated[
        float,
        option("--xtc-threshold", help="XTC: minimum probability of a top choice.", panel=_RARE),
    ] = 0.1
    mirostat: Annotated[
        int, option("--mirostat", help="Mirostat version, 1 or 2; 0 to disable.", panel=_RARE)
    ] = 0
    mirostat_tau: Annotated[
        float,
        option("--mirostat-tau", help="Mirostat: target entropy (tau), in bits.", panel=_RARE),
    ] = 5.0
    mirostat_eta: Annotated[
        float, option("--mirostat-eta", help="Mirostat: learning rate (eta).", panel=_RARE)
    ] = 0.1
    logit_bias: Annotated[
        list[str] | None,
        option(
            "--logit-bias",
            help="ID=BIAS: value to add to the logit of a token; -inf bans the token. May be "
            "repeated.",
            panel=_RARE,
        ),
    ] = None

    debug: Debug = False

    def sampling(self) -> SamplingParams:
        """The sampling options, checked; with a seed drawn if none was given.

        The seed is drawn here, so that two runs that are compared share it.

        Raises:
            SamplerError, RequestError: a value out of range, or a file that cannot be read.
        """
        import secrets

        from pytreellama.sampling.params import MAX_SEED, SamplingParams

        known = SamplingParams.__dataclass_fields__
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name in known}
        values["logit_bias"] = dict(map(_bias, self.logit_bias or []))
        values["json_schema"] = self._schema()
        if self.dry_sequence_breaker:
            values["dry_sequence_breakers"] = tuple(self.dry_sequence_breaker)
        if self.grammar_file is not None:
            values["grammar"] = read_text(self.grammar_file, "--grammar-file")
        if self.seed is None:
            values["seed"] = secrets.randbelow(MAX_SEED + 1)
        return SamplingParams(**values)

    def _schema(self) -> str | None:
        schema = self.json_schema
        if schema is None or schema.lstrip().startswith("{"):
            return schema
        return read_text(Path(schema), "--json-schema")


def _bias(text: str) -> tuple[int, float]:
    token, _, bias = text.partition("=")
    try:
        return int(token), float(bias)
    except ValueError:
        raise RequestError(
            f"--logit-bias {text} is not of the form ID=BIAS; write for example 13=-inf or 42=1.5"
        ) from None


def require_writable(path: Path) -> None:
    """Raise ``RequestError`` now if --html cannot be written, not after the run."""
    if path.is_dir():
        raise RequestError(f"--html {path} is a directory; give the path of a file in it")
    if not path.parent.is_dir():
        raise RequestError(f"--html {path}: there is no directory {path.parent}; make it first")
    if not os.access(path.parent, os.W_OK):
        raise RequestError(f"--html {path}: nothing may be written in {path.parent}")
