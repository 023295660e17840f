"""Lanes of the suite: which marks a test carries, read from its folder, fixtures and imports."""

from __future__ import annotations

import ast
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

_TESTS = Path(__file__).parent
_NATIVE_FOLDERS = {"attack", "end_to_end", "native"}
_NATIVE_FIXTURES = {"default_model", "tiny_model"}
# of the package, what imports no native code (tests/unit/test_imports.py holds it to that)
_PURE = {"chat", "constraints", "draft", "errors", "plan", "tree", "units", "verify", "TokenTree"}
# they compile, clone, or draw thousands of texts
_SLOW_FILES = {"test_build_checkout.py", "test_build_native.py", "test_probes.py"}
_SLOW_FOLDERS = {"attack", "properties"}
LANES = ("native", "model", "slow", "train", "browser")


def has_native_build() -> bool:
    """Whether the native modules are built here."""
    try:
        return find_spec("pytreellama.native._native") is not None
    except ImportError:
        return False


def needs_native(path: Path) -> bool:
    """Whether a test file cannot be imported without the native build."""
    folder = path.relative_to(_TESTS).parts[0]
    return folder in _NATIVE_FOLDERS or (folder != "unit" and not _imports(path) <= _PURE)


@cache
def _imports(path: Path) -> frozenset[str]:
    """What a file and the helpers that it imports take from the package at import."""
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "pytreellama":
            modules = [f"pytreellama.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
        else:
            continue
        for module in modules:
            helper = _TESTS / f"{module}.py"
            if module.startswith("pytreellama."):
                found.add(module.split(".")[1])
            elif helper.exists():
                found |= _imports(helper)
    return frozenset(found)


def lanes_of(item: pytest.Item) -> set[str]:
    """The marks of one test; none of them puts it into the fast lane."""
    fixtures = set(getattr(item, "fixturenames", ()))
    parts = item.path.relative_to(_TESTS).parts
    source = item.path.read_text(encoding="utf-8")
    uses = {
        "native": needs_native(item.path) or bool(fixtures & _NATIVE_FIXTURES),
        "model": "default_model" in fixtures
        or parts[0] == "attack"
        or "default_model_path" in source,
        "slow": parts[0] in _SLOW_FOLDERS or parts[-1] in _SLOW_FILES,
        "train": "import torch" in source or 'importorskip("torch"' in source,
        "browser": "\nfrom browser import" in source or "\nimport browser" in source,
    }
    return {lane for lane, is_used in uses.items() if is_used}
