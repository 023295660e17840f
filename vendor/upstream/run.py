"""Build the programs of this folder against a llama.cpp and run them.

    python3 vendor/upstream/run.py LLAMA_CPP [--build FOLDER]

Needs CMake, Ninja and a C++17 compiler. Status 0 if none fails; status 77 of a program is a skip.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
SKIPPED = 77


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("llama_cpp", type=Path, help="folder of llama.cpp, stock or patched")
    parser.add_argument(
        "--build", type=Path, help="build folder to keep (default: a temporary one)"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        build = options.build or Path(temporary)
        _compile(options.llama_cpp.resolve(), build)
        ends = {test: _run(build / test) for test in _tests()}
    for test, end in ends.items():
        print(f"{end:10} {test}")
    return 1 if "fails" in ends.values() else 0


def _tests() -> list[str]:
    return sorted(path.parent.name for path in HERE.glob("*/test.cpp"))


def _compile(llama_cpp: Path, build: Path) -> None:
    configure = ["cmake", "-G", "Ninja", "-S", HERE, "-B", build]
    options = [f"-DLLAMA_CPP_DIR={llama_cpp}", "-DCMAKE_BUILD_TYPE=Release"]
    subprocess.run([*configure, *options], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["cmake", "--build", build], check=True)


def _run(program: Path) -> str:
    done = subprocess.run([program], capture_output=True, text=True, errors="replace", check=False)
    print(done.stdout, end="")
    if done.returncode not in (0, SKIPPED):  # such as an assertion that ends the process
        print(
            "".join(line for line in done.stderr.splitlines(True) if "GGML_ASSERT" in line), end=""
        )
    return {0: "passes", SKIPPED: "is skipped"}.get(done.returncode, "fails")


if __name__ == "__main__":
    sys.exit(main())
