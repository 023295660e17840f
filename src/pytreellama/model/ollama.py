"""GGUF files that Ollama has pulled: its manifests name them by their hashes.

A store is ``models/manifests/<registry>/<namespace>/<name>/<tag>``, JSON whose layers name files of
``models/blobs``. (https://github.com/ollama/ollama/blob/main/docs/faq.md says where it is.)
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pytreellama.errors import FileError, ModelLoadError, shown
from pytreellama.files import read_json

_MODEL_LAYER = "application/vnd.ollama.image.model"
_REGISTRY, _NAMESPACE, _TAG = "registry.ollama.ai", "library", "latest"
_MANIFEST_BYTES = 2**20
_N_LISTED_MAX = 12


def ollama_model_path(name: str, *, store: str | os.PathLike[str] | None = None) -> Path:
    """Path of the GGUF file of a model that ``ollama pull`` has fetched.

    Args:
        name: as Ollama's commands take it: "llama3.2", "llama3.2:1b", "user/model:tag".
        store: Ollama's folder ``models``; by default ``OLLAMA_MODELS``, the user's or the
            service's.

    Raises:
        ModelLoadError: no store, or no such model in it.
    """
    folder = _store(store)
    manifest = folder.joinpath("manifests", *_parts(name))
    if not manifest.is_file():
        known = sorted(_names(folder))
        listed = ", ".join(known[:_N_LISTED_MAX]) if known else "no model"
        raise ModelLoadError(
            f"Ollama's store {folder} has no model {name}; it has {listed}: run `ollama pull "
            f"{name}`"
        )
    digest = _model_digest(manifest)
    path = folder / "blobs" / digest.replace(":", "-")
    if not path.is_file():
        raise ModelLoadError(f"{path} is missing; run `ollama pull {name}` again")
    return path


def _store(given: str | os.PathLike[str] | None) -> Path:
    candidates = [Path(given).expanduser()] if given is not None else list(_usual_stores())
    for folder in candidates:
        if (folder / "manifests").is_dir():
            return folder
    tried = ", ".join(map(str, candidates))
    raise ModelLoadError(
        f"there is no store of Ollama in {tried}: set OLLAMA_MODELS, or give store= (a folder that "
        "has manifests and blobs)"
    )


def _usual_stores() -> Iterator[Path]:
    chosen = os.environ.get("OLLAMA_MODELS")
    if chosen:
        yield Path(chosen).expanduser()
        return
    yield Path.home() / ".ollama" / "models"
    if sys.platform.startswith("linux"):
        yield Path("/usr/share/ollama/.ollama/models")  # of the service


def _parts(name: str) -> tuple[str, str, str, str]:
    """Registry, namespace, name and tag."""
    path, _, tag = name.rpartition(":") if ":" in name.rsplit("/", 1)[-1] else (name, "", _TAG)
    parts = path.split("/")
    ok = 1 <= len(parts) <= 3 and all(part.strip(".") for part in [*parts, tag])
    if not ok or any(sep in name for sep in ("\\", "\0")):
        raise ModelLoadError(
            f"invalid name={shown(name)}: expected name, name:tag, or user/name:tag"
        )
    defaults = [_REGISTRY, _NAMESPACE]
    registry, namespace, model = [*defaults[: 3 - len(parts)], *parts]
    return registry, namespace, model, tag


def _names(folder: Path) -> Iterator[str]:
    """Names of all models in a store, as a user types them."""
    root = folder / "manifests"
    for path in root.glob("*/*/*/*"):
        registry, namespace, model, tag = path.relative_to(root).parts
        prefix = "" if namespace == _NAMESPACE else f"{namespace}/"
        host = "" if registry == _REGISTRY else f"{registry}/{'' if prefix else namespace + '/'}"
        yield f"{host}{prefix}{model}:{tag}"


def _model_digest(manifest: Path) -> str:
    try:
        content: Any = read_json(manifest, max_bytes=_MANIFEST_BYTES)
        layers = [layer for layer in content["layers"] if layer["mediaType"] == _MODEL_LAYER]
        digest = layers[0]["digest"]
    except (FileError, KeyError, IndexError, TypeError) as error:
        raise ModelLoadError(f"{manifest} is no manifest of a GGUF model: {error}") from error
    algorithm, _, digits = str(digest).partition(":")
    if algorithm != "sha256" or len(digits) != 64 or set(digits) - set("0123456789abcdef"):
        raise ModelLoadError(f"{manifest} names its model by {shown(digest)}, which is no SHA-256")
    return str(digest)
