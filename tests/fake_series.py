"""A small llama.cpp with a patch series, for tests of the tools that keep one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from buildlib.checkout import checkout
from buildlib.git import Repository
from buildlib.pin import Pin, read_pin
from buildlib.sources import Source, source_at

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")

PIN = """\
# what is vendored
[archive]
distribution = "llama-cpp-python"
version = "0.3.36"
sha256 = "aaaa"
size_mb = 77

[llama_cpp]
commit = "0c1e57098"
licence = "MIT"
path = "vendor/llama.cpp"
unpack = ["include", "src"]
"""
LINES = "".join(f"line {number}\n" for number in range(1, 31))
HEADER = """\
kv-cache : {subject}

What: {subject}.

Why: it has to be.

Shown by: tests/test_it.py::test_that_it_is

Upstream status: not sent
"""


class Project:
    """A checkout of a project whose two patches change lines 5 and 20 of one file."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.patches = root / "vendor/patches"
        self.llama_cpp = root / "upstream"
        self.put("vendor/llama_cpp.toml", PIN)
        self.put("tests/test_it.py", "def test_that_it_is() -> None: ...\n")
        self.put("upstream/include/llama.h", "// the landmark\n")
        self.put("upstream/src/kv.cpp", LINES)
        self.patches.mkdir(parents=True)
        for number, (subject, line) in enumerate([("change five", 5), ("change twenty", 20)], 1):
            self.put(f"vendor/patches/{number:04d}-first-name.patch", patch(subject, line))

    def put(self, name: str, text: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    @property
    def pin(self) -> Pin:
        return read_pin(self.root / "vendor/llama_cpp.toml")

    @property
    def source(self) -> Source:
        return source_at(self.llama_cpp, self.pin, "test")

    def checkout(self, name: str = "llama.cpp") -> Repository:
        return checkout(self.root / name, self.patches, self.pin, self.source, self.llama_cpp)

    def series(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted(self.patches.iterdir())}


def patch(subject: str, line: int, header: str = HEADER) -> str:
    """A patch that makes a line of ``kv.cpp`` speak louder, with one line of context."""
    hunk = [f" line {line - 1}", f"-line {line}", f"+LINE {line}", f" line {line + 1}"]
    diff = ["--- a/src/kv.cpp", "+++ b/src/kv.cpp", f"@@ -{line - 1},3 +{line - 1},3 @@", *hunk]
    return header.format(subject=subject) + "\n" + "\n".join(diff) + "\n"
