"""The sources of the documentation site: the documents, and pages made of README and examples."""

from __future__ import annotations

import ast
import re
import shutil
from pathlib import Path

_PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "NOTICE": "notice.md",
    "docs/README.md": "documents.md",
}
"""Documents that have another name on the site, or none in docs/."""

_LINK = re.compile(r"\]\((?![a-z]+:|#)([^)#\s]+)(#[^)\s]*)?\)")


def stage_pages(root: Path, folder: Path) -> None:
    """Write the site's sources into a folder, which is emptied first."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for source in sorted((root / "docs").iterdir()):
        if source.suffix == ".md" and source.name != "README.md":
            _write(source, folder / source.name, root)
        elif source.suffix in (".svg", ".png"):
            shutil.copy(source, folder)
    for source_name, page in _PAGES.items():
        if (root / source_name).exists():
            _write(root / source_name, folder / page, root)
    (folder / "cookbook.md").write_text(cookbook(root / "examples"), encoding="utf-8")


def cookbook(examples: Path) -> str:
    """A page of all examples: what each says of itself, and its code."""
    parts = [
        "# Cookbook\n\nScripts of one screen each, all run by the tests. Each takes a model as its "
        "first argument, the default model without one.\n"
    ]
    for path in sorted(examples.glob("*.py")):
        source = path.read_text(encoding="utf-8")
        said = ast.get_docstring(ast.parse(source)) or ""
        code = source.split('"""', 2)[2].strip()
        title = path.stem.replace("_", " ").capitalize()
        parts.append(f"## {title}\n\n{_indented_lines_as_code(said)}\n\n```python\n{code}\n```\n")
    return "\n".join(parts)


def _indented_lines_as_code(text: str) -> str:
    return re.sub(r"^ *python examples/.*$", lambda line: f"`{line[0].strip()}`", text, flags=re.M)


def _write(source: Path, page: Path, root: Path) -> None:
    text = source.read_text(encoding="utf-8")
    if source.suffix == "":
        text = f"# {source.name}\n\n```text\n{text}\n```\n"
    page.write_text(_LINK.sub(lambda link: _linked(link, source, root), text), encoding="utf-8")


def _linked(link: re.Match[str], source: Path, root: Path) -> str:
    """A link within the project, to where its target is on the site."""
    target = (source.parent / link[1]).resolve()
    name = target.relative_to(root.resolve()).as_posix()
    if name in _PAGES:
        page = _PAGES[name]
    elif name.startswith("examples"):
        page = "cookbook.md"
    else:
        page = target.name
    return f"]({page}{link[2] or ''})"
