"""Finished artifacts: whether a folder holds them whole, and into the package folder with them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from .cache import sha256_file
from .modules import TESTING

BUILD_INFO = "build_info.json"


def is_whole(folder: Path) -> bool:
    """Whether a folder holds what its build_info.json lists, byte for byte."""
    try:
        info = json.loads((folder / BUILD_INFO).read_text(encoding="utf-8"))
        return all(sha256_file(folder / name) == found for name, found in info["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def stage(entry: Path, package: Path) -> bool:
    """Put the artifacts of a cache entry into the package folder; False if they are there.

    build_info.json comes last and goes first, so that it never stands beside half a library.
    """
    native = entry / "native"
    info = (native / BUILD_INFO).read_bytes()
    try:
        if (package / BUILD_INFO).read_bytes() == info and is_whole(package):
            return False
    except OSError:
        pass
    unstage(package)
    try:
        for name in json.loads(info)["files"]:
            target = package / name
            target.parent.mkdir(parents=True, exist_ok=True)
            copy_whole(native / name, target)
        copy_whole(native / BUILD_INFO, package / BUILD_INFO)
    except BaseException:
        unstage(package)
        raise
    return True


def stage_testing(entry: Path, package: Path) -> None:
    """Put the test instruments of a cache entry beside the artifacts that are staged."""
    for path in (entry / "testing").glob(f"{TESTING.name}.*"):
        target = package / path.name
        if not target.exists() or sha256_file(target) != sha256_file(path):
            copy_whole(path, target)


def unstage(package: Path) -> None:
    (package / BUILD_INFO).unlink(missing_ok=True)
    for module in [*package.glob("_native*.so"), *package.glob("_native*.pyd")]:
        module.unlink()
    shutil.rmtree(package / "lib", ignore_errors=True)


def copy_whole(source: Path, target: Path) -> None:
    """Copy by renaming: a process that has the old file open keeps it."""
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        shutil.copy2(source, temporary)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
