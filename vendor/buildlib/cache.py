"""The user's cache of builds: what is finished, what can be resumed, and what is old.

sources/<id>/   llama.cpp as unpacked, never changed, with a manifest
work/<id>/      patched source and build folder of one toolchain: rebuilt step by step
builds/<key>/   finished artifacts, made by renaming a complete folder
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .errors import BuildError
from .progress import Progress

N_KEPT = 3
LAST_USED = "last_used"
TEMPORARY = "tmp-"


def cache_root() -> Path:
    """Where builds are cached: PYTREELLAMA_CACHE, or the platform's cache folder."""
    chosen = os.environ.get("PYTREELLAMA_CACHE")
    if chosen:
        return Path(chosen).expanduser().absolute() / "build"
    try:
        from platformdirs import user_cache_path
    except ImportError:
        return _user_cache_path() / "build"
    return user_cache_path("pytreellama", appauthor=False) / "build"


def _user_cache_path() -> Path:
    """What platformdirs says, for the time before it is installed."""
    home = Path.home()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", home / "AppData/Local")) / "pytreellama/Cache"
    if sys.platform == "darwin":
        return home / "Library/Caches/pytreellama"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "pytreellama"


def sha256_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


class Cache:
    """The folders of the cache; writing to it happens under `locked`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.sources = root / "sources"
        self.work = root / "work"
        self.builds = root / "builds"

    def make(self) -> None:
        try:
            for folder in (self.sources, self.work, self.builds):
                folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root):
                pass
        except OSError as error:
            raise BuildError(
                f"cannot write to the cache folder {self.root}: {error.strerror or error}",
                "set PYTREELLAMA_CACHE to a folder that you can write to",
            ) from None

    @contextlib.contextmanager
    def locked(self, progress: Progress) -> Iterator[None]:
        """One build at a time: two would fight for the processors and for the same files."""
        from filelock import FileLock, Timeout

        lock = FileLock(self.root / "lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            progress.phase(f"waiting for another build to end ({lock.lock_file})")
            lock.acquire()
        try:
            self._remove_leftovers()
            yield
        finally:
            lock.release()

    @contextlib.contextmanager
    def temporary(self) -> Iterator[Path]:
        """A folder on the cache's disk that is gone afterwards, whatever happens."""
        folder = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=self.root))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def require_free(self, n_megabytes: int) -> None:
        free = shutil.disk_usage(self.root).free // 2**20
        if free < n_megabytes:
            raise BuildError(
                f"no space left for the build: {self.root} has {free} MB free, "
                f"it needs about {n_megabytes} MB",
                "free some space, or set PYTREELLAMA_CACHE to a folder on another disk",
            )

    def prune(self) -> None:
        """Keep the entries used last; call it under `locked`, after using one."""
        for folder in (self.sources, self.work, self.builds):
            entries = [entry for entry in folder.iterdir() if entry.is_dir()]
            entries.sort(key=_last_used_s, reverse=True)
            for entry in entries[N_KEPT:]:
                shutil.rmtree(entry, ignore_errors=True)

    def _remove_leftovers(self) -> None:
        """What a killed build left; nobody else writes while we hold the lock."""
        for folder in (self.root, self.sources, self.work, self.builds):
            for leftover in folder.glob(TEMPORARY + "*"):
                shutil.rmtree(leftover, ignore_errors=True)


def mark_used(entry: Path) -> None:
    """Remember that an entry was needed now; a read-only cache may forget it."""
    with contextlib.suppress(OSError):
        (entry / LAST_USED).touch()


def _last_used_s(entry: Path) -> float:
    for path in (entry / LAST_USED, entry):
        with contextlib.suppress(OSError):
            return path.stat().st_mtime
    return 0.0
