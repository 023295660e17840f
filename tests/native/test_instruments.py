"""The test instruments are for those who test: the product neither has nor needs them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("pytreellama.native", reason="needs the native build")

ROOT = Path(__file__).parents[2]

WITHOUT = """
import sys
sys.modules["pytreellama.native._native_testing"] = None
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_without_them_the_error_says_how_to_get_them() -> None:
    result = run(WITHOUT + "import pytreellama.testing.library\n")
    assert result.returncode != 0
    assert "ImportError: the test instruments are not built" in result.stderr
    assert "python3 build.py build --extra test" in result.stderr


def test_the_product_imports_none_of_them() -> None:
    modules = "pytreellama, pytreellama.cli, pytreellama.draft, pytreellama.engine"
    code = (
        f"import sys, {modules}\nprint(*(m for m in sys.modules if m.startswith('pytreellama')))\n"
    )
    result = run(WITHOUT + code)
    assert "pytreellama.engine" in result.stdout
    assert "pytreellama.testing" not in result.stdout


def test_no_source_of_the_product_names_them() -> None:
    for path in [*(ROOT / "src/pytreellama").rglob("*.py"), *(ROOT / "vendor/bridge").glob("*")]:
        if path.is_file() and "testing" not in path.parts:
            assert "pytreellama.testing" not in path.read_text(encoding="utf-8"), path
            assert "_native_testing" not in path.read_text(encoding="utf-8"), path
