"""GGUF files of the Hugging Face Hub: chosen, downloaded and cached by ``huggingface_hub``.

Its cache, tokens, mirrors, offline mode and resumed downloads work as everywhere else (``HF_HOME``,
``HF_TOKEN``, ``HF_ENDPOINT``, ``HF_HUB_OFFLINE``).
"""

from __future__ import annotations

import fnmatch
import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytreellama.errors import ModelLoadError, shown

if TYPE_CHECKING:
    from types import ModuleType

PREFERRED = ("Q4_K_M", "Q8_0", "Q4_0")
"""Quantisations that are taken when none is named, best first; otherwise the first by name."""

_SPLIT = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$", re.IGNORECASE)
_REPO = re.compile(r"[\w.-]+/[\w.-]+")
_N_LISTED_MAX = 12


def hub_model_path(
    repo_id: str, filename: str | None = None, *, revision: str | None = None, **options: Any
) -> Path:
    """Path of a repository's GGUF file in the cache; downloads it, and its other parts, if need be.

    Args:
        repo_id: "owner/name", or "owner/name:Q4_K_M" for a quantisation, as llama.cpp's ``-hf``.
        filename: a file, or a pattern such as "*q4_k_m.gguf", in any case; by default a file of
            ``PREFERRED``.
        revision: a branch, tag or commit.
        options: further arguments of ``huggingface_hub.hf_hub_download``, such as ``token``,
            ``cache_dir``, ``local_files_only``.

    Raises:
        ModelLoadError: ``huggingface_hub`` is not installed, no such repository or file, several
            models that match, or no network.
    """
    hub = _huggingface_hub()
    repo, _, quantisation = repo_id.partition(":")
    if not _REPO.fullmatch(repo):
        raise ModelLoadError(
            f"invalid repo_id={shown(repo_id)}: expected owner/name, such as "
            "ggml-org/SmolLM3-3B-GGUF or ggml-org/SmolLM3-3B-GGUF:Q4_K_M"
        )
    if quantisation and filename is not None:
        raise ModelLoadError("give a quantisation after the repository's name, or filename")
    try:
        with _quiet():
            names = _files(hub, repo, revision, options)
            wanted = f"*{quantisation}*.gguf" if quantisation else filename
            parts = choose_model(names, repo, wanted)
            paths = [hub.hf_hub_download(repo, one, revision=revision, **options) for one in parts]
    except ModelLoadError:
        raise
    except Exception as error:  # of the library, of its HTTP client, or of the file system
        raise ModelLoadError(
            f"cannot fetch {repo} from the Hugging Face Hub: {_first_line(error)}; check the name "
            "and the network, or give the path of a GGUF file"
        ) from error
    return Path(paths[0])


def choose_model(names: Iterable[str], repo: str, pattern: str | None = None) -> list[str]:
    """The file names of one model, first part first.

    Args:
        names: files of a repository.
        repo: its name, for the message.
        pattern: a name, or a pattern in any case; None for a preferred quantisation.

    Raises:
        ModelLoadError: nothing matches, or several models do.
    """
    models = _models(names)
    if not models:
        raise ModelLoadError(f"{repo} holds no GGUF model; look for a repository named ...-GGUF")
    if pattern is None:
        return models[_preferred(list(models))]
    matching = [name for name, parts in models.items() if _matches(parts, pattern)]
    if len(matching) == 1:
        return models[matching[0]]
    if not matching:
        raise ModelLoadError(
            f"no GGUF model of {repo} matches {pattern}; it holds {_listed(models)}"
        )
    raise ModelLoadError(
        f"{len(matching)} models of {repo} match {pattern}: {_listed(matching)}; name one of them"
    )


def _models(names: Iterable[str]) -> dict[str, list[str]]:
    """First part of each model to all its parts; projectors and importance matrices are none."""
    models: dict[str, list[str]] = {}
    for name in sorted(names):
        base = name.rsplit("/", 1)[-1].lower()
        if not base.endswith(".gguf") or "mmproj" in base or "imatrix" in base:
            continue
        split = _SPLIT.search(name)
        first = name if split is None else f"{name[: split.start()]}-00001-of-{split[2]}.gguf"
        models.setdefault(first, []).append(name)
    return models


def _preferred(names: list[str]) -> str:
    for quantisation in PREFERRED:
        for name in names:
            if quantisation.lower() in name.lower():
                return name
    return names[0]


def _matches(parts: list[str], pattern: str) -> bool:
    wanted = pattern.lower()
    for part in parts:
        name = part.lower()
        if fnmatch.fnmatchcase(name, wanted) or fnmatch.fnmatchcase(
            name.rsplit("/", 1)[-1], wanted
        ):
            return True
    return False


def _listed(names: Iterable[str]) -> str:
    shown_names = list(names)
    more = len(shown_names) - _N_LISTED_MAX
    return ", ".join(shown_names[:_N_LISTED_MAX]) + (f" and {more} more" if more > 0 else "")


def _files(hub: ModuleType, repo: str, revision: str | None, options: dict[str, Any]) -> list[str]:
    """Names of a repository's files; of those in the cache where the Hub cannot be asked."""
    if not options.get("local_files_only"):
        try:
            api = hub.HfApi(endpoint=options.get("endpoint"), token=options.get("token"))
            return list(api.list_repo_files(repo, revision=revision))
        except (hub.errors.OfflineModeIsEnabled, *_no_connection()):
            pass
    where = hub.snapshot_download(
        repo, revision=revision, cache_dir=options.get("cache_dir"), local_files_only=True
    )
    folder = Path(where)
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library's lines on retries off stderr: the error at the end says it once."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _no_connection() -> tuple[type[Exception], ...]:
    """What the HTTP client of any version of the library raises without a network."""
    found: list[type[Exception]] = [ConnectionError, TimeoutError]
    for module, name in (("httpx", "TransportError"), ("requests.exceptions", "ConnectionError")):
        try:
            found.append(getattr(__import__(module, fromlist=[name]), name))
        except ImportError:
            continue
    return tuple(found)


def _huggingface_hub() -> ModuleType:
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise ModelLoadError(
            "models of the Hugging Face Hub need huggingface_hub: pip install huggingface_hub, or "
            "download the GGUF file yourself and give its path"
        ) from error
    return huggingface_hub


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
