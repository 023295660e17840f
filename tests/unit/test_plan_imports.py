"""Trees, verification and planning run without a native build."""

from __future__ import annotations

import subprocess
import sys

import pytest

CHECK = """
import importlib, sys
importlib.import_module(sys.argv[1])
outside = [
    name for name in sys.modules
    if name.startswith("pytreellama.") and name.split(".")[1] in {"native", "core", "engine"}
]
assert not outside, outside
assert "_cffi_backend" not in sys.modules
"""


@pytest.mark.parametrize("package", ["plan", "tree", "verify"])
def test_no_native_code_is_imported(package: str) -> None:
    command = [sys.executable, "-c", CHECK, f"pytreellama.{package}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_check_itself_sees_native_code() -> None:
    command = [sys.executable, "-c", CHECK, "pytreellama.errors"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    command[-1] = "pytreellama.engine"
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0
