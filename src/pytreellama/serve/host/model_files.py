"""Names of the models that a server has, and their files."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from pytreellama.errors import ModelLoadError

_PART = re.compile(r"-(\d{5})-of-\d{5}$")
_NO_MODELS = ("mmproj", "ggml-vocab")
_DRAFTS = (".eagle3.gguf", ".medusa.gguf")  # next to the models that they draft for


def models_in(folder: Path) -> list[Path]:
    """Model files in a folder and in those directly below it, sorted.

    Of split models, the first part. Projectors, vocabularies and heads next to a model are left
    out; other files that are no models are found out when they are loaded.

    Raises:
        ModelLoadError: no such folder, or no models in it.
    """
    if not folder.is_dir():
        raise ModelLoadError(f"invalid --models-dir={folder}: expected a folder of GGUF files")
    found = [path for pattern in ("*.gguf", "*/*.gguf") for path in folder.glob(pattern)]
    models = sorted(path for path in found if path.is_file() and _is_model(path))
    if not models:
        raise ModelLoadError(f"there is no GGUF model in --models-dir {folder}")
    return models


def named_models(paths: Iterable[Path]) -> dict[str, Path]:
    """Model files by name: that of the file, without .gguf and the number of a part.

    Raises:
        ModelLoadError: two models of one name.
    """
    models: dict[str, Path] = {}
    for path in paths:
        name = _PART.sub("", path.stem)
        if models.setdefault(name, path) != path:
            raise ModelLoadError(
                f"two models are called {name!r}, {models[name]} and {path}; rename one"
            )
    return models


def _is_model(path: Path) -> bool:
    part = _PART.search(path.stem)
    is_later_part = part is not None and int(part[1]) != 1
    is_other = path.name.startswith(_NO_MODELS) or path.name.endswith(_DRAFTS)
    return not is_later_part and not is_other
