"""Imports run one way, and what needs no native build imports none."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

CHECK = """
import importlib, sys
importlib.import_module(sys.argv[1])
assert "pytreellama.native" not in sys.modules
assert "_cffi_backend" not in sys.modules
"""

# files of a copy of the package, and a line more that breaks a contract
BROKEN = {
    "draft/none.py": "from pytreellama.native import limits",
    "draft/suffix.py": "from pytreellama.plan import cost",
    "plan/policy.py": "import pytreellama.draft.protocol",
    "plan/planner.py": "from pytreellama.context import params",
    "context/cache.py": "from pytreellama.native.library import lib",
    "native/memory.py": "import pytreellama.context.params",
    "new_package.py": "",
}


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """The contracts of pyproject.toml, on the package in a folder."""
    command: list[Any] = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    environment = os.environ | {"PYTHONPATH": str(folder)}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_imports_run_one_way() -> None:
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", BROKEN)
def test_an_import_that_runs_up_is_found(path: str, tmp_path: Path) -> None:
    package = tmp_path / "pytreellama"
    skip = shutil.ignore_patterns("lib", "_native*", "__pycache__", "assets", "data", "*.gguf")
    shutil.copytree(ROOT / "src/pytreellama", package, ignore=skip)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (package / path).open("a") as file:
        file.write(f"\n{BROKEN[path]}\n")
    done = lint(tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "BROKEN" in done.stdout or "not listed as layers" in done.stdout


@pytest.mark.parametrize("package", ["draft", "plan", "tree", "verify"])
def test_an_import_loads_no_native_code(package: str) -> None:
    """Imports inside functions count where they run: drafters load theirs when they are made."""
    command: list[Any] = [sys.executable, "-c", CHECK, f"pytreellama.{package}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_check_itself_sees_native_code() -> None:
    command: list[Any] = [sys.executable, "-c", CHECK, "pytreellama.engine"]
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0
