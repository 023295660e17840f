"""Options that several commands share: one dataclass with a field for each option."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pytreellama.cli.failures import remember_debug
from pytreellama.cli.lora_flags import LoraFiles
from pytreellama.cli.option import option
from pytreellama.cli.placement_flags import PlacementFlags
from pytreellama.cli.sampling_flags import SamplingFlags
from pytreellama.errors import RequestError

if TYPE_CHECKING:
    from pytreellama.model.model import Model
    from pytreellama.sampling.params import SamplingParams

_MODEL, _DRAFTING, _TEXT = "Model", "Drafting", "Text"


def complete_drafter(incomplete: str) -> list[str]:
    """Shell completion: names of drafters that start with ``incomplete``."""
    from pytreellama.draft import DRAFTERS

    return [name for name in DRAFTERS if name.startswith(incomplete)]


ModelPath = Annotated[
    Path | None,
    option(
        "--model",
        "-m",
        help="A GGUF file: its path, hf:owner/name or hf:owner/name:Q4_K_M of the Hugging Face Hub "
        "(downloaded once), or ollama:name of Ollama's store. Default: PYTREELLAMA_MODEL if set, "
        "else SmolLM2-135M-Instruct (98 MB, downloaded once).",
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
ModelDraft = Annotated[
    str | None,
    option(
        "--model-draft",
        "-md",
        help="A draft model: a smaller model of the same vocabulary, named as for --model. It "
        "drafts together with --drafter.",
        panel=_DRAFTING,
        show_default=False,
    ),
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
class EngineFlags(SamplingFlags, PlacementFlags):
    """Options of a model, its engine, and sampling."""

    model: ModelPath = None
    n_ctx: Annotated[
        int | None,
        option(
            "--n-ctx",
            "--ctx",
            "--ctx-size",
            "-c",
            help="Size of the KV cache in tokens: prompt, output and draft nodes; 0 for the "
            "model's training context. Default: 4096, or the model's training context if that is "
            "smaller.",
            panel=_MODEL,
            min=0,
        ),
    ] = None
    threads: Threads = None
    lora: LoraFiles = None

    drafter: Annotated[
        str,
        option(
            "--drafter",
            "-d",
            help="Drafter: auto (several, planned by cost), none (plain decoding), suffix "
            "(continuations of repeated text), recycling (top tokens of earlier passes), ngram "
            "(n-gram counts over all requests), medusa (heads on the hidden state; medusa=FILE "
            "for a file of heads), mtp (the model's own NextN layers), eagle3 (an EAGLE-3 file "
            "next to the model; eagle3=FILE for another), the GGUF file of a draft model, or a "
            "merge such as suffix+recycling.",
            panel=_DRAFTING,
            autocompletion=complete_drafter,
        ),
    ] = "auto"
    model_draft: ModelDraft = None
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
    debug: Debug = False

    @property
    def drafter_spec(self) -> str:
        """``--drafter``, with the draft model of ``--model-draft``."""
        return with_model_draft(self.drafter, self.model_draft)


@dataclass(frozen=True, slots=True)
class GenerationOptions(EngineFlags):
    """Options of one generation."""

    prompt: Annotated[
        str | None,
        typer.Argument(
            help="The text to continue. If '-' or missing, it is read from stdin, without the "
            "final line break.",
            show_default=False,
        ),
    ] = None
    prompt_option: Annotated[
        str | None,
        option("--prompt", "-p", help="The text to continue, as an option.", panel=_TEXT),
    ] = None
    file: Annotated[
        Path | None,
        option("--file", "-f", help="A file with the text to continue.", panel=_TEXT),
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
        int,
        option(
            "--max-tokens",
            "--n-predict",
            "-n",
            help="Maximum number of tokens to generate; -1 for what the context holds.",
            panel=_TEXT,
            min=-1,
        ),
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

    def check_sampling(self) -> None:
        """Raise ``SamplerError`` or ``RequestError`` now, before a model is loaded."""
        self.sampling(is_chat=self.chat)

    def sampling_for(self, model: Model) -> SamplingParams:
        """Sampling parameters; of a chat, as the model recommends where nothing was given."""
        return self.sampling(model.metadata, is_chat=self.chat)

    @property
    def token_limit(self) -> int | None:
        """``max_tokens`` as an engine takes it: None for what the context holds."""
        return None if self.max_tokens == -1 else self.max_tokens


def with_model_draft(drafter: str, model_draft: str | None) -> str:
    """The drafter that both options name.

    Raises:
        RequestError: a draft model for plain decoding.
    """
    if model_draft is None:
        return drafter
    if drafter == "none":
        raise RequestError("--drafter none takes no --model-draft; leave one of them out")
    return f"{drafter}+model={model_draft}"


def require_writable(path: Path) -> None:
    """Raise ``RequestError`` now if --html cannot be written, not after the run."""
    if path.is_dir():
        raise RequestError(f"--html {path} is a directory; give the path of a file in it")
    if not path.parent.is_dir():
        raise RequestError(f"--html {path}: there is no directory {path.parent}; make it first")
    if not os.access(path.parent, os.W_OK):
        raise RequestError(f"--html {path}: nothing may be written in {path.parent}")
