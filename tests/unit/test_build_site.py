"""The documentation site: what is staged for it links to itself, and nothing is fetched."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from buildlib.site import cookbook, stage_pages

ROOT = Path(__file__).parents[2]


def test_every_document_and_example_is_on_the_site(tmp_path: Path) -> None:
    stage_pages(ROOT, tmp_path / "docs")
    pages = {page.name for page in (tmp_path / "docs").glob("*.md")}
    assert {document.name for document in ROOT.glob("docs/*.md")} - {"README.md"} <= pages
    assert {"index.md", "contributing.md", "cookbook.md"} <= pages
    for page in (tmp_path / "docs").glob("*.md"):
        for link in re.findall(r"\]\((?![a-z]+:|#)([^)#\s]+)", page.read_text(encoding="utf-8")):
            assert (tmp_path / "docs" / link).exists(), f"{page.name} links to {link}"


def test_the_cookbook_has_each_example_with_its_code(tmp_path: Path) -> None:
    (tmp_path / "beam_search.py").write_text(
        '"""Says it.\n\n    python examples/b.py\n"""\n\nx = 1\n'
    )
    text = cookbook(tmp_path)
    assert "## Beam search\n\nSays it.\n\n`python examples/b.py`\n\n```python\nx = 1\n```" in text


def test_pages_are_named_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for document in ROOT.glob("docs/*.md"):
        assert document.name in navigation or document.name == "README.md"


@pytest.mark.slow
def test_the_site_is_built_and_fetches_nothing(tmp_path: Path) -> None:
    pytest.importorskip("mkdocstrings", reason="needs the extra docs: pip install '.[docs]'")
    stage_pages(ROOT, ROOT / "build" / "docs")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    for page in tmp_path.glob("*.html"):
        html = page.read_text(encoding="utf-8")
        fetched = re.findall(r'(?:src|<link[^>]+href)="(https?://[^"]+)"', html)
        assert [url for url in fetched if "canonical" not in url] == [], page.name
    api = (tmp_path / "api.html").read_text(encoding="utf-8")
    assert all(f'id="pytreellama.{name}"' in api for name in (
        "engine.engine.Engine.generate", "model.model.Model.from_pretrained",
        "verify.rejection", "sampling.params.SamplingParams",
    ))  # fmt: skip
