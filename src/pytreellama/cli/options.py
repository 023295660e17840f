"""The options that ``generate`` and ``tree`` share: one dataclass, a field an option."""

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
_TEXT, _SAMPLING, _RARE = "Text", "Sampling", "Sampling, more rarely"


def unpacked(options: type[_Options]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let a command take a dataclass first: each of its fields becomes an option of the command."""
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
    """Drafters whose names begin so, for a shell's completion."""
    from pytreellama.draft import DRAFTERS

    return [name for name in DRAFTERS if name.startswith(incomplete)]


ModelPath = Annotated[
    Path | None,
    option(
        "--model",
        "-m",
        help="A GGUF file. Without it, the small model that comes by itself (98 MB, fetched "
        "once), or the one that PYTREELLAMA_MODEL names.",
        panel=_MODEL,
        show_default=False,
    ),
]
Threads = Annotated[
    int | None,
    option("--threads", "-t", help="Threads; by default the physical cores.", panel=_MODEL, min=1),
]
GpuLayers = Annotated[
    int,
    option("--n-gpu-layers", help="Layers on the GPU, if any; -1 means all.", panel=_MODEL),
]
Debug = Annotated[
    bool,
    option("--debug", help="Show the traceback of an error.", callback=remember_debug),
]
Json = Annotated[
    bool, option("--json", help="Print one JSON object on stdout, and nothing else there.")
]


@dataclass(frozen=True, slots=True)
class GenerationOptions:
    """What a generation is asked for on the command line.

    Sampling fields are named as those of ``SamplingParams`` and have the same defaults.
    """

    prompt: Annotated[
        str | None,
        typer.Argument(
            help="The text to continue. '-', or none, reads it from stdin, without the line break "
            "at its end.",
            show_default=False,
        ),
    ] = None

    chat: Annotated[
        bool,
        option(
            "--chat",
            help="The prompt is a user's message to a chat model, not a text.",
            panel=_TEXT,
        ),
    ] = False
    system: Annotated[
        str | None,
        option("--system", help="The system's message; needs --chat.", panel=_TEXT),
    ] = None
    max_tokens: Annotated[
        int, option("--max-tokens", "-n", help="Most tokens to write.", panel=_TEXT)
    ] = 128
    stop: Annotated[
        list[str] | None,
        option("--stop", help="A string that ends the text; may be repeated.", panel=_TEXT),
    ] = None
    ignore_eos: Annotated[
        bool, option("--ignore-eos", help="Write on past end tokens.", panel=_TEXT)
    ] = False
    grammar_file: Annotated[
        Path | None,
        option("--grammar-file", help="A GBNF grammar that the text must follow.", panel=_TEXT),
    ] = None
    json_schema: Annotated[
        str | None,
        option(
            "--json-schema",
            help="A JSON schema that the text must satisfy: a file, or the schema itself.",
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
            help="Tokens that the KV cache holds: prompt, text and guesses. By default 4096, or "
            "less if the model was trained for less.",
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
            help="What guesses the tree: auto, none (plain decoding), suffix (what followed the "
            "same words before), recycling (what the model foresaw in earlier passes), ngram "
            "(counts over all texts), medusa (heads on its hidden state; medusa=FILE for a file of "
            "them); or several in one tree, as suffix+recycling.",
            panel=_DRAFTING,
            autocompletion=complete_drafter,
        ),
    ] = "auto"
    n_draft: Annotated[
        int | None,
        option(
            "--n-draft",
            help="Most guessed nodes in a tree; by default 8, or 64 where trees are planned.",
            panel=_DRAFTING,
            min=0,
            show_default=False,
        ),
    ] = None

    temperature: Annotated[
        float,
        option("--temperature", help="0 takes the likeliest token.", panel=_SAMPLING),
    ] = 0.0
    top_k: Annotated[
        int, option("--top-k", help="Keep the k likeliest tokens; 0 is off.", panel=_SAMPLING)
    ] = 0
    top_p: Annotated[
        float,
        option("--top-p", help="Keep this much probability; 1 is off.", panel=_SAMPLING),
    ] = 1.0
    min_p: Annotated[
        float,
        option("--min-p", help="Keep this share of the likeliest's; 0 is off.", panel=_SAMPLING),
    ] = 0.0
    repeat_penalty: Annotated[
        float, option("--repeat-penalty", help="1 is off.", panel=_SAMPLING)
    ] = 1.0
    seed: Annotated[
        int | None,
        option("--seed", help="Same seed, same text. Drawn if not given.", panel=_SAMPLING),
    ] = None

    dynatemp_range: Annotated[
        float,
        option("--dynatemp-range", help="Temperature moves with entropy.", panel=_RARE),
    ] = 0.0
    dynatemp_exponent: Annotated[
        float, option("--dynatemp-exponent", help="How it moves.", panel=_RARE)
    ] = 1.0
    typical_p: Annotated[
        float, option("--typical-p", help="Locally typical sampling; 1 is off.", panel=_RARE)
    ] = 1.0
    top_n_sigma: Annotated[
        float,
        option("--top-n-sigma", help="Keep logits so many deviations from the top.", panel=_RARE),
    ] = 0.0
    frequency_penalty: Annotated[
        float, option("--frequency-penalty", help="0 is off.", panel=_RARE)
    ] = 0.0
    presence_penalty: Annotated[
        float, option("--presence-penalty", help="0 is off.", panel=_RARE)
    ] = 0.0
    penalty_last_n: Annotated[
        int, option("--penalty-last-n", help="Tokens that penalties look back.", panel=_RARE)
    ] = 64
    dry_multiplier: Annotated[
        float, option("--dry-multiplier", help="DRY against repetition; 0 is off.", panel=_RARE)
    ] = 0.0
    dry_base: Annotated[float, option("--dry-base", help="Its growth.", panel=_RARE)] = 1.75
    dry_allowed_length: Annotated[
        int, option("--dry-allowed-length", help="Repetition that is free.", panel=_RARE)
    ] = 2
    dry_penalty_last_n: Annotated[
        int, option("--dry-penalty-last-n", help="Tokens that it looks back.", panel=_RARE)
    ] = 1024
    dry_sequence_breaker: Annotated[
        list[str] | None,
        option("--dry-sequence-breaker", help="Ends a repetition; may be repeated.", panel=_RARE),
    ] = None
    xtc_probability: Annotated[
        float, option("--xtc-probability", help="Leave out top choices; 0 is off.", panel=_RARE)
    ] = 0.0
    xtc_threshold: Annotated[
        float, option("--xtc-threshold", help="What counts as a top choice.", panel=_RARE)
    ] = 0.1
    mirostat: Annotated[
        int, option("--mirostat", help="Version 1 or 2; 0 is off.", panel=_RARE)
    ] = 0
    mirostat_tau: Annotated[
        float, option("--mirostat-tau", help="Surprise to aim at, in bits.", panel=_RARE)
    ] = 5.0
    mirostat_eta: Annotated[
        float, option("--mirostat-eta", help="How fast it is corrected.", panel=_RARE)
    ] = 0.1
    logit_bias: Annotated[
        list[str] | None,
        option(
            "--logit-bias",
            help="ID=BIAS is added to a token's logit; -inf bans it; may be repeated.",
            panel=_RARE,
        ),
    ] = None

    debug: Debug = False

    def sampling(self) -> SamplingParams:
        """The sampling options, checked; with a seed drawn if none was given.

        The seed is drawn here so that two runs to be compared draw alike.

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
    """Raise RequestError for a --html that cannot be written: at the end it would be too late."""
    if path.is_dir():
        raise RequestError(f"--html {path} is a directory; give the path of a file in it")
    if not path.parent.is_dir():
        raise RequestError(f"--html {path}: there is no directory {path.parent}; make it first")
    if not os.access(path.parent, os.W_OK):
        raise RequestError(f"--html {path}: nothing may be written in {path.parent}")
