"""What the documents point to exists, and what they promise to list they list."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]

_READS = re.compile(
    r"""(?:environ(?:\.get\(|\[)|getenv\(|envvar=|_VARIABLE = )\s*["']([A-Z][A-Z0-9_]+)["']"""
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
