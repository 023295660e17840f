"""The fast lane works where nothing native is built."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
WITHOUT_NATIVE = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if f"{name}.".startswith("pytreellama.native."):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())
import pytest
status = pytest.main(["-q", "-m", "fast", "-p", "no:cacheprovider", *sys.argv[1:]])
assert "pytreellama.native" not in sys.modules
sys.exit(status)
"""
# names of files; all of tests/unit is imported, and these run
FEW = "chance or error_texts or same_vocab or tree_drawing or typical or union"


def without_native(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run pytest on the fast lane where the native modules cannot be imported."""
    command = [sys.executable, "-c", WITHOUT_NATIVE, *arguments]
    return subprocess.run(command, cwd=TESTS.parent, capture_output=True, text=True, check=False)


def test_unit_tests_are_collected_and_pass_without_the_native_build() -> None:
    done = without_native("-k", FEW, str(TESTS / "unit"))
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr


def test_a_test_of_native_code_fails_without_the_native_build(tmp_path: Path) -> None:
    file = tmp_path / "test_native.py"
    file.write_text("def test_it():\n    import pytreellama.native.memory\n", encoding="utf-8")
    done = without_native("-m", "", "-c", "/dev/null", str(file))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "is blocked" in done.stdout
