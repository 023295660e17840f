"""compile_commands.json in the checkout, for clangd: our sources where they are edited.

A build compiles copies in its work folder, and most of llama.cpp in bundles (CMake's unity build).
Here each source has its own entry, and those of ours name the file in the checkout.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .cache import sha256_file
from .sources import write_if_changed

NAME = "compile_commands.json"
SUFFIXES = (".c", ".cc", ".cpp", ".cxx")

Entry = dict[str, Any]


def write_compile_commands(root: Path, build: Path) -> bool:
    """Write the commands of a build folder to the checkout.

    Returns:
        Whether the build folder has them: a cached build may have lost it.
    """
    try:
        entries: list[Entry] = json.loads((build / NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    ours = _find_ours(root)
    found = [_in_checkout(single, ours) for entry in entries for single in _unbundled(entry)]
    text = json.dumps(found, indent=1) + "\n"
    write_if_changed(root / NAME, text.encode())
    return True


def _find_ours(root: Path) -> dict[str, Path]:
    """The sources in the checkout by their content."""
    paths = (path for path in (root / "vendor").rglob("*") if path.suffix in SUFFIXES)
    return {sha256_file(path): path for path in paths}


def _unbundled(entry: Entry) -> Iterator[Entry]:
    """An entry for each source that a bundle includes; of any other file, its own."""
    file = Path(entry["file"])
    included: list[str] = []
    if re.fullmatch(r"unity_\d+_c(xx)?\.c(xx)?", file.name) and file.is_file():
        included = re.findall(r'^#include "(.+)"$', file.read_text(encoding="utf-8"), re.MULTILINE)
    if not included:
        yield entry
    for source in included:
        yield _of_file(entry, source)


def _in_checkout(entry: Entry, ours: dict[str, Path]) -> Entry:
    file = Path(entry["file"])
    place = ours.get(sha256_file(file)) if file.is_file() else None
    if place is None:
        return entry
    moved = _of_file(entry, place.as_posix())
    # what the copy includes by its neighbours' names stays there
    moved["command"] = moved["command"].replace(" -c ", f" -I{file.parent.as_posix()} -c ", 1)
    return moved


def _of_file(entry: Entry, file: str) -> Entry:
    before, _, after = entry["command"].rpartition(entry["file"])
    return {**entry, "file": file, "command": before + file + after}
