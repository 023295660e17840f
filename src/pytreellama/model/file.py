"""The file of a model: what it was when it was loaded, and checks before llama.cpp sees it."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from pytreellama.errors import ModelLoadError
from pytreellama.native import model as native_model

_GGUF_MAGIC = b"GGUF"


@dataclass(frozen=True, slots=True)
class ModelFile:
    """What a model's file was when it was loaded.

    Attributes:
        path: absolute, as it was given.
        real_path: symbolic links followed.
        n_bytes: its size.
        mtime_ns: when it was changed last, in nanoseconds.
    """

    path: Path
    real_path: Path
    n_bytes: int
    mtime_ns: int

    @classmethod
    def at(cls, path: str | os.PathLike[str]) -> ModelFile:
        """Raises ModelLoadError: there is none, or it is not a regular file."""
        try:
            absolute = Path(path).expanduser().absolute()
            status = absolute.stat()
            real_path = absolute.resolve()
        except (OSError, ValueError, RuntimeError) as error:
            raise _unreadable(Path(path), error) from error
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for its writer
            raise ModelLoadError(f"{path} is not a file; give the path of a GGUF file")
        return cls(absolute, real_path, status.st_size, status.st_mtime_ns)


def check_gguf(path: Path) -> None:
    """Check that a file is a whole GGUF file, before llama.cpp may see it.

    Raises:
        ModelLoadError: it is missing, unreadable, empty, not GGUF, cut short or damaged.
    """
    ModelFile.at(path)
    try:
        magic = _first_bytes(path)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if magic != _GGUF_MAGIC:
        found = f"begins with {magic!r}" if magic else "is empty"
        raise ModelLoadError(
            f"{path} {found}, so it is not a GGUF file (which begins with {_GGUF_MAGIC!r}); "
            "convert the model to GGUF, or fetch the file again"
        )
    what = f"{path} is damaged or incomplete"
    native_model.check_gguf(path, ModelLoadError, what, hint="fetch it again")


def _unreadable(path: Path, error: Exception) -> ModelLoadError:
    hint = ""
    if isinstance(error, FileNotFoundError) and path.suffix != ".gguf":  # perhaps a model's name
        hint = (
            ", or say where it is from: hf:owner/name or ollama:name on the command line, "
            "from_pretrained or from_ollama in Python"
        )
    return ModelLoadError(
        f"cannot read the model file {path}: {getattr(error, 'strerror', None) or error}; "
        f"give the path of a GGUF file{hint}"
    )


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(len(_GGUF_MAGIC))
