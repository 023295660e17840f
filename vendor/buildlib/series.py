"""The rules of the patch series: what a header says, what a file is called, how large it may be."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from .patches import FileDiff, list_patches, parse_patch

FIELDS = ("What", "Why", "Shown by", "Upstream status")
NO_TEST = "no test"  # a patch that none can show says so, and why
N_LINES_MAX = 350
N_SERIES_LINES_MAX = 1575

_ONLY_ON = re.compile(r"only on CPUs with (\w+)")
_FIELD = re.compile(rf"^({'|'.join(FIELDS)}):", re.MULTILINE)
_TEST = re.compile(r"[\w./-]*test_\w+\.py(?:::\w+)*")


@dataclass(frozen=True)
class Header:
    """What stands before a patch's first file: its subject, then fields."""

    text: str

    @property
    def subject(self) -> str:
        return self.text.split("\n", 1)[0].strip()

    @property
    def fields(self) -> dict[str, str]:
        """The text of each field that is there, in one line."""
        _, *parts = _FIELD.split(self.text)
        return {n: " ".join(t.split()) for n, t in zip(parts[::2], parts[1::2], strict=True)}

    @property
    def tests(self) -> list[str]:
        """The tests named by ``Shown by``: files, or ``file::name``."""
        return _TEST.findall(self.fields.get("Shown by", ""))

    @property
    def cpu_feature(self) -> str | None:
        """The instruction set without which the tests show nothing, as /proc/cpuinfo calls it."""
        match = _ONLY_ON.search(self.fields.get("Shown by", ""))
        return match[1] if match else None


@dataclass(frozen=True)
class Patch:
    """One file of the series, measured."""

    name: str
    header: Header
    n_lines: int
    diffs: tuple[FileDiff, ...]

    @property
    def n_hunks(self) -> int:
        return sum(len(diff.hunks) for diff in self.diffs)


def read_patch(path: Path) -> Patch:
    content = path.read_bytes()
    diffs = tuple(parse_patch(path))
    return Patch(path.name, read_header(content), len(content.splitlines()), diffs)


def read_series(folder: Path) -> list[Patch]:
    return [read_patch(path) for path in list_patches(folder)]


def read_header(content: bytes) -> Header:
    """The text before the first file of a patch, or a commit's whole message."""
    text = re.split(rb"^--- ", content, maxsplit=1, flags=re.MULTILINE)[0]
    return Header(text.decode("utf-8", "replace").strip())


def file_name(number: int, subject: str) -> str:
    """A patch's name: its number and its subject, without the part that says where."""
    words = re.findall(r"[a-z0-9]+", subject.split(" : ")[-1].lower())
    return f"{number:04d}-{'-'.join(words)}.patch"


#
# faults
#


def header_faults(header: Header, root: Path) -> list[str]:
    """What a header lacks; ``root`` is the checkout that holds the tests."""
    fields = header.fields
    faults = [f"no {name}:" for name in FIELDS if not fields.get(name)]
    if not header.subject or _FIELD.match(header.subject):
        faults.append("no subject in the first line")
    if not fields.get("Shown by") or fields["Shown by"].startswith(NO_TEST):
        return faults
    if not header.tests:
        faults.append(f"Shown by: names no test (write '{NO_TEST}: the reason' if there is none)")
    return faults + [f"no test {name}" for name in header.tests if find_test(root, name) is None]


def find_test(root: Path, name: str) -> str | None:
    """The path from ``root`` of a test named in a header; None if there is no such test."""
    file, *functions = name.split("::")
    paths = [root / file] if "/" in file else sorted((root / "tests").rglob(file))
    if not paths or not paths[0].is_file():
        return None
    text = paths[0].read_text(encoding="utf-8")
    if not all(re.search(rf"^\s*(?:def|class) {part}\b", text, re.MULTILINE) for part in functions):
        return None
    return "::".join([paths[0].relative_to(root).as_posix(), *functions])


def size_faults(series: list[Patch]) -> list[str]:
    """Which patches are too large, and whether the series is."""
    faults = [
        f"{patch.name}: {patch.n_lines} lines, {N_LINES_MAX} are allowed"
        for patch in series
        if patch.n_lines > N_LINES_MAX
    ]
    n_lines = sum(patch.n_lines for patch in series)
    if n_lines > N_SERIES_LINES_MAX:
        faults.append(f"the series: {n_lines} lines, {N_SERIES_LINES_MAX} are allowed")
    return faults
