"""Several models of one server: their options, and how one is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pytreellama.cli.option import option
from pytreellama.errors import RequestError

_MODELS = "Several models"

ModelPaths = Annotated[
    list[Path] | None,
    option(
        "--model",
        "-m",
        help="A GGUF file: its path, hf:owner/name or hf:owner/name:Q4_K_M of the Hugging Face Hub "
        "(downloaded once), or ollama:name of Ollama's store. May be repeated: requests then "
        "choose by name, and models are loaded when they are asked for. Default: "
        "PYTREELLAMA_MODEL if set, else SmolLM2-135M-Instruct (98 MB, downloaded once).",
        panel="Model",
        show_default=False,
    ),
]
ModelsDir = Annotated[
    Path | None,
    option(
        "--models-dir",
        help="Serve all GGUF files of this folder and of those directly below it.",
        panel=_MODELS,
    ),
]
ModelsMax = Annotated[
    int | None,
    option(
        "--models-max",
        help="Maximum number of models in memory. Default: as many as there is memory for.",
        panel=_MODELS,
        min=1,
        show_default=False,
    ),
]
ModelIdle = Annotated[
    float | None,
    option(
        "--model-idle-s",
        help="Unload a model that was not used for this many seconds. Default: never.",
        panel=_MODELS,
        min=0.1,
        show_default=False,
    ),
]


def served_models(given: Sequence[Path] | None, folder: Path | None) -> dict[str, Path] | None:
    """Files of the models by name; None for one model that is loaded at once.

    Raises:
        ModelLoadError: no models in the folder, or two of one name.
    """
    if folder is None and len(given or ()) < 2:
        return None
    from pytreellama.cli.session import model_path
    from pytreellama.serve.host.model_files import models_in, named_models

    paths = [model_path(one) for one in given or ()]
    return named_models([*paths, *(models_in(folder) if folder is not None else ())])


def require_for_one(alias: Sequence[str] | None, lora: Sequence[str] | None) -> None:
    """Refuse options that belong to one model."""
    for name, value in (("--alias", alias), ("--lora", lora)):
        if value:
            raise RequestError(f"{name} is for one model; leave it out, or serve one")
