"""The snippets of README and docs: Python runs, and shell commands have the options they name.

A snippet below ``<!-- not run: needs ... -->`` is compiled only.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer

from pytreellama import Model
from pytreellama.cli import app
from pytreellama.cli.typed import require_readable
from random_heads import write_random_heads

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

_FENCE = re.compile(r"(<!-- not run: needs [\w ]+ -->\n)?^```(python|sh)\n(.*?)^```$", re.M | re.S)
_PRELUDE = """\
import pytreellama as ptl
model = ptl.Model.default()
"""


class Snippet(NamedTuple):
    language: str
    code: str
    runs: bool


def snippets(page: Path) -> list[Snippet]:
    found = _FENCE.findall(page.read_text(encoding="utf-8"))
    return [Snippet(language, code, not marker) for marker, language, code in found]


def pages_with(language: str) -> list[Any]:
    found = [page for page in PAGES if any(s.language == language for s in snippets(page))]
    return [pytest.param(page, id=page.name) for page in found]


@pytest.fixture
def folder(tmp_path: Path, tiny_model_path: Callable[..., Path]) -> Path:
    """A folder with the files that snippets name."""
    small = tiny_model_path("rope")
    for name in ("model.gguf", "small.gguf"):
        shutil.copy(small, tmp_path / name)
    with Model(small) as model:
        write_random_heads(model, tmp_path / "heads.gguf")
        write_random_heads(model, tmp_path / "model.medusa.gguf")
    return tmp_path


@pytest.mark.parametrize("page", pages_with("python"))
def test_the_python_of_a_page_runs_from_top_to_bottom(page: Path, folder: Path) -> None:
    code = [s for s in snippets(page) if s.language == "python"]
    for snippet in code:
        compile(snippet.code, page.name, "exec")
    script = folder / "page.py"
    script.write_text(_PRELUDE + "\n".join(s.code for s in code if s.runs), encoding="utf-8")
    environment = {**os.environ, "PYTREELLAMA_MODEL": str(folder / "model.gguf")}
    run = subprocess.run(
        [sys.executable, script.name], cwd=folder, env=environment,
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr


def _lines(page: Path) -> list[list[str]]:
    """The commands of a page's shell snippets, as words."""
    text = "\n".join(s.code for s in snippets(page) if s.language == "sh")
    joined = text.replace("\\\n", " ")
    return [words for line in joined.splitlines() if (words := shlex.split(line, comments=True))]


def _check_command(words: list[str]) -> None:
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        assert words[0] in command.commands, words
        command, words = command.commands[words[0]], words[1:]
    words = [word for word in words if word not in ("|", ">")]
    require_readable(command, words)
    names = {name for parameter in command.params for name in parameter.opts}
    typed = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
    assert typed <= names, f"{sorted(typed - names)} of {words}"


@pytest.mark.parametrize("page", pages_with("sh"))
def test_the_commands_of_a_page_exist_with_their_options(page: Path) -> None:
    for words in _lines(page):
        program, *rest = words
        if program == "pytreellama":
            _check_command(rest)
        elif program.rpartition("/")[2] in ("python", "python3") and rest[0] != "-m":
            assert (ROOT / rest[0]).exists(), words


def test_snippets_are_found() -> None:
    assert sum(len(snippets(page)) for page in PAGES) >= 30
    assert not any("```py\n" in page.read_text(encoding="utf-8") for page in PAGES)
