"""The patch series: unified diffs read and applied strictly, in memory.

A user's machine may have neither git nor patch, and the libraries at hand forgive too much: one
takes a hunk that is applied already, one drops lines that a wrong count leaves over. Here a hunk
must match at its own line, every line of it; nothing is searched for and nothing is skipped.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from .errors import BuildError

DEV_NULL = "/dev/null"
HUNK_HEADER = re.compile(rb"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")
UNSUPPORTED = (b"rename from ", b"copy from ", b"Binary files ", b"GIT binary patch")
NO_NEWLINE = b"\\ No newline at end of file\n"
MAIL_SIGNATURE = b"-- \n"

# relative path -> new content, None for a file that the series removes
Changes = dict[str, "bytes | None"]
Reader = Callable[[str], "bytes | None"]


@dataclass(frozen=True)
class Hunk:
    header: str
    start: int  # first line that it replaces, from 0
    old: tuple[bytes, ...]
    new: tuple[bytes, ...]


@dataclass(frozen=True)
class FileDiff:
    source: str
    target: str
    hunks: tuple[Hunk, ...]


def list_patches(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.patch"))


def apply_series(patches: Iterable[Path], read: Reader) -> Changes:
    """What the series makes of a source tree, as the files that end up different.

    `read` gives the pristine content of a relative path, or None if there is no such file.
    Raises BuildError with patch, file and hunk where one does not apply.
    """
    changes: Changes = {}
    for patch in patches:
        for diff in parse_patch(patch):
            _apply_diff(patch.name, diff, changes, read)
    return changes


#
# reading
#


def parse_patch(patch: Path) -> list[FileDiff]:
    """The files of one patch; what stands before the first `---` line is for people."""
    lines = _split(patch.read_bytes())
    if lines and not lines[-1].endswith(b"\n"):
        lines[-1] += b"\n"
    diffs: list[FileDiff] = []
    at = 0
    while at < len(lines):
        if _is_file_header(lines[at : at + 2]):
            diff, at = _parse_file(patch.name, lines, at)
            diffs.append(diff)
        else:
            _refuse_stray(patch.name, lines[at], at, after_header=bool(diffs))
            at += 1
    if not diffs:
        raise BuildError(f"{patch.name} changes no file", "remove it, or write it anew")
    return diffs


def _is_file_header(pair: list[bytes]) -> bool:
    return len(pair) == 2 and pair[0].startswith(b"--- ") and pair[1].startswith(b"+++ ")


def _parse_file(name: str, lines: list[bytes], at: int) -> tuple[FileDiff, int]:
    source, target = _path(name, lines[at]), _path(name, lines[at + 1])
    at += 2
    hunks: list[Hunk] = []
    while at < len(lines) and lines[at].startswith(b"@@"):
        hunk, at = _parse_hunk(name, lines, at)
        hunks.append(hunk)
    if not hunks:
        raise BuildError(f"{name}, line {at + 1}: a file header without a hunk")
    return FileDiff(source, target, tuple(hunks)), at


def _parse_hunk(name: str, lines: list[bytes], at: int) -> tuple[Hunk, int]:
    match = HUNK_HEADER.match(lines[at])
    if match is None:
        raise BuildError(f"{name}, line {at + 1}: not a hunk header: {_readable(lines[at])}")
    first, n_old, _, n_new = (1 if group is None else int(group) for group in match.groups())
    header = match.group().decode()
    old: list[bytes] = []
    new: list[bytes] = []
    at += 1
    sides: list[list[bytes]] = []
    while len(old) < n_old or len(new) < n_new or lines[at : at + 1] == [NO_NEWLINE]:
        if at == len(lines):
            raise BuildError(f"{name}: the patch ends inside the hunk {header}")
        if lines[at] == NO_NEWLINE:
            for side in sides:
                side[-1] = side[-1].removesuffix(b"\n")
        else:
            sides = _sides_of(lines[at][:1], old, new)
            if not sides:
                text = _readable(lines[at])
                raise BuildError(f"{name}, line {at + 1}: not a line of the hunk {header}: {text}")
            for side in sides:
                # an editor may have stripped the one blank of an empty context line
                side.append(lines[at][1:] or b"\n")
        at += 1
    if (len(old), len(new)) != (n_old, n_new):
        raise BuildError(f"{name}, line {at}: the hunk {header} is longer than its header says")
    return Hunk(header, first - 1 if n_old else first, tuple(old), tuple(new)), at


def _sides_of(mark: bytes, old: list[bytes], new: list[bytes]) -> list[list[bytes]]:
    return {b" ": [old, new], b"\n": [old, new], b"-": [old], b"+": [new]}.get(mark, [])


def _refuse_stray(name: str, line: bytes, at: int, *, after_header: bool) -> None:
    if line.startswith(UNSUPPORTED):
        raise BuildError(
            f"{name}, line {at + 1}: renames, copies and binary files are not supported",
            "write the patch as plain text changes (git diff --no-renames)",
        )
    if after_header and line[:1] in (b" ", b"+", b"-", b"@", b"\\") and line != MAIL_SIGNATURE:
        raise BuildError(
            f"{name}, line {at + 1} belongs to no hunk: {_readable(line)}",
            "the counts in the hunk header before it are wrong: write the patch anew",
        )


def _path(name: str, header: bytes) -> str:
    """The path of a `---` or `+++` line, without a/ or b/ and without a time stamp."""
    path = header[4:].split(b"\t")[0].rstrip(b"\r\n").decode("utf-8", "replace")
    if path == DEV_NULL:
        return path
    path = path[2:] if path[:2] in ("a/", "b/") else path
    if path.startswith("/") or ".." in path.split("/"):
        raise BuildError(f"{name} names the path {path}, outside the source")
    return path


def _split(content: bytes) -> list[bytes]:
    return io.BytesIO(content).readlines()


#
# applying
#


def _apply_diff(patch: str, diff: FileDiff, changes: Changes, read: Reader) -> None:
    label = f"{patch}, file {diff.source if diff.target == DEV_NULL else diff.target}"
    before = b"" if diff.source == DEV_NULL else _current(diff.source, changes, read)
    if before is None:
        raise BuildError(
            f"{label}: there is no such file in the source",
            "check that the patch belongs to the pinned llama.cpp (vendor/llama_cpp.toml)",
        )
    if diff.source == DEV_NULL and _current(diff.target, changes, read) is not None:
        raise BuildError(f"{label}: the patch creates the file, but it is there already")
    after = _apply_hunks(label, diff.hunks, before)
    if diff.target == DEV_NULL:
        if after:
            raise BuildError(f"{label}: the patch removes the file, but lines would be left")
        changes[diff.source] = None
    elif diff.source not in (diff.target, DEV_NULL):
        raise BuildError(f"{label}: the patch renames {diff.source}, which is not supported")
    else:
        changes[diff.target] = after


def _current(path: str, changes: Changes, read: Reader) -> bytes | None:
    return changes[path] if path in changes else read(path)


def _apply_hunks(label: str, hunks: tuple[Hunk, ...], before: bytes) -> bytes:
    lines = _split(before)
    after: list[bytes] = []
    n_taken = 0
    for number, hunk in enumerate(hunks, 1):
        place = f"{label}, hunk {number} of {len(hunks)} ({hunk.header})"
        if not n_taken <= hunk.start <= len(lines):
            raise BuildError(f"{place}: it starts before the hunk above it ends, or after the file")
        end = hunk.start + len(hunk.old)
        if tuple(lines[hunk.start : end]) != hunk.old:
            raise _mismatch(place, hunk, lines)
        after += lines[n_taken : hunk.start]
        after += hunk.new
        n_taken = end
    return b"".join(after + lines[n_taken:])


def _mismatch(place: str, hunk: Hunk, lines: list[bytes]) -> BuildError:
    found = [*lines[hunk.start : hunk.start + len(hunk.old)], *[b"(end of file)"] * len(hunk.old)]
    wrong = next(i for i, line in enumerate(hunk.old) if found[i] != line)
    elsewhere = [i for i in range(len(lines)) if tuple(lines[i : i + len(hunk.old)]) == hunk.old]
    advice = (
        f"the same lines stand at line {elsewhere[0] + 1}: give the patch its line numbers anew"
        if len(elsewhere) == 1
        else "check that the patch belongs to the pinned llama.cpp and to its place in the series"
    )
    return BuildError(
        f"{place} does not apply at line {hunk.start + wrong + 1}:\n"
        f"  the patch wants  {_readable(hunk.old[wrong])}\n"
        f"  the source has   {_readable(found[wrong])}",
        advice,
    )


def _readable(line: bytes) -> str:
    return line.decode("utf-8", "replace").rstrip("\r\n")
