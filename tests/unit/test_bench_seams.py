"""Benches measure what users get: they read no private names of a package and replace none."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench"
FILES = sorted(BENCH.rglob("*.py"))
_REPLACING = {"setattr", "delattr"}


def offences(source: str) -> list[str]:
    """Each use of a private name of another object, and each replaced part of the package."""
    tree = ast.parse(source)
    ours = set(_names_of_package(tree))
    found = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            found += [f"{node.lineno}: imports {name}" for name in _private_imports(node)]
        elif isinstance(node, ast.Attribute):
            found += [f"{node.lineno}: {what}" for what in _attribute_offences(node, ours)]
        elif isinstance(node, ast.Call):
            found += [f"{node.lineno}: {what}" for what in _call_offences(node)]
    return found


def _is_private(name: str) -> bool:
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__"))


def _private_imports(node: ast.Import | ast.ImportFrom) -> list[str]:
    paths = [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        paths.append(node.module or "")
    return [path for path in paths if any(map(_is_private, path.split(".")))]


def _names_of_package(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pytreellama"):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("pytreellama"):
                    yield alias.asname or alias.name.split(".")[0]


def _root(node: ast.expr) -> str:
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _attribute_offences(node: ast.Attribute, ours: set[str]) -> Iterator[str]:
    is_own = isinstance(node.value, ast.Name) and node.value.id in {"self", "cls"}
    is_documented = ast.unparse(node) == "os._exit"  # how a child of os.fork() ends
    if _is_private(node.attr) and not (is_own or is_documented):
        yield f"reads {ast.unparse(node)}"
    if not isinstance(node.ctx, ast.Load) and _root(node) in ours:
        yield f"replaces {ast.unparse(node)}"


def _call_offences(node: ast.Call) -> Iterator[str]:
    name = ast.unparse(node.func)
    if name in _REPLACING or "patch" in name.split("."):
        yield f"replaces by {name}"
    is_named = name == "getattr" and len(node.args) > 1 and isinstance(node.args[1], ast.Constant)
    if is_named and _is_private(str(ast.literal_eval(node.args[1]))):
        yield f"reads {ast.unparse(node)}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(BENCH)))
def test_a_bench_needs_nothing_private(path: Path) -> None:
    assert offences(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "from pytreellama.engine.loop import _loops",
        "import pytreellama.native._native",
        "from pytreellama.native._native import ffi",
        "from lib import stock\nstock._compile()",
        "class A:\n def f(self): return self.engine._loop",
        "getattr(engine, '_loop')",
        "setattr(engine, name, 1)",
        "patch.object(sampler, 'new_stages', stages)",
        "with mock.patch('pytreellama.Engine'): pass",
        "import pytreellama\npytreellama.sampling.sampler.new_stages = 1",
        "import pytreellama.sampling.sampler as s\ns.new_stages = 1",
        "from pytreellama import Engine\nEngine.generate = 1",
        "from pytreellama import Engine\ndel Engine.generate",
    ],
)
def test_the_check_sees(source: str) -> None:
    assert offences(source)


@pytest.mark.parametrize(
    "source",
    [
        "from __future__ import annotations",
        "class A:\n def f(self): self._x = self._y()",
        "type(self).__name__",
        "from pytreellama import Engine\nengine = Engine()\nengine.generate()",
        "tally.n_tokens += 1",
    ],
)
def test_the_check_lets_be(source: str) -> None:
    assert not offences(source)
