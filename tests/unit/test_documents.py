"""What the documents point to exists, and what they promise to list they list."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from pytreellama.cli import app

ROOT = Path(__file__).parents[2]
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]

_READS = re.compile(
    r"""(?:environ(?:\.get\(|\[)|getenv\(|envvar=|_VARIABLE = )\s*["']([A-Z][A-Z0-9_]+)["']"""
)
# The field says: draft, accept, preempt, prefix cache, prefill, error, expensive, next to, again.
_AVOIDED = re.compile(
    r"\b(?:g[ia]ves? way|kept texts?|beg[ia]ns? alike|guess(?:es|ed|ing)?|c[oa]mes? true|vigilan\w+"
    r"|faults?|guards?|desks?|dear(?:er|est)?|at the price of|anew|besides?|comes by itself"
    r"|sooner|tells?|told|those who (?:write|guess))\b",
    re.IGNORECASE,
)
_OF_THE_SYSTEM = {"LOCALAPPDATA", "PROCESSOR_IDENTIFIER"}


def _anchors(document: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_every_link_within_the_project_leads_somewhere(document: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), f"{document.name} links to {link}"
        assert not anchor or anchor in _anchors(target), f"{document.name} links to {link}"


def test_the_index_names_every_document() -> None:
    index = (ROOT / "docs/README.md").read_text(encoding="utf-8")
    names = {document.name for document in ROOT.glob("docs/*.md")} - {"README.md"}
    assert names == set(re.findall(r"^\| \[(\w+\.md)\]", index, re.MULTILINE))


def test_every_environment_variable_is_documented() -> None:
    sources = [ROOT / "build.py"]
    for folder in ("src", "vendor"):
        sources += [p for p in (ROOT / folder).rglob("*") if p.suffix in {".py", ".cpp", ".h"}]
    read = {name for path in sources for name in _READS.findall(path.read_text(encoding="utf-8"))}
    assert len(read) >= 8  # the pattern still finds them
    text = (ROOT / "docs/environment.md").read_text(encoding="utf-8")
    assert {name for name in read - _OF_THE_SYSTEM if f"`{name}" not in text} == set()


def _words_to_avoid(name: str, text: str) -> list[str]:
    """Words that the field does not use, as ``file:line: word``; code spans are left out."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        prose = re.sub(r"`[^`]*`", "", line)
        found += [f"{name}:{number}: {match[0]}" for match in _AVOIDED.finditer(prose)]
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_documents_use_the_words_of_the_field(document: Path) -> None:
    if document.name != "CHANGELOG.md":  # what was released is not rewritten
        assert _words_to_avoid(document.name, document.read_text(encoding="utf-8")) == []


def _helps(command: Any, name: str) -> Iterator[tuple[str, str]]:
    """The text of ``--help`` of a command and of those below it."""
    texts = [command.help or "", *(getattr(p, "help", None) or "" for p in command.params)]
    yield f"{name} --help", "\n".join(texts)
    for child, below in getattr(command, "commands", {}).items():
        yield from _helps(below, f"{name} {child}")


@pytest.mark.parametrize(("name", "text"), [*_helps(typer.main.get_command(app), "pytreellama")])
def test_help_uses_the_words_of_the_field(name: str, text: str) -> None:
    assert len(text) > 20
    assert _words_to_avoid(name, text) == []


@pytest.mark.parametrize(
    "line", ["What guesses the tree.", "It comes back anew", "the youngest gives way", "a desk"]
)
def test_a_word_that_the_field_does_not_use_is_found(line: str) -> None:
    (found,) = _words_to_avoid("README.md", f"fine\n{line}")
    assert found.startswith("README.md:2: ")
