"""All that is to be known of a GPU machine, in the minutes that it is lent for.

    python bench/gpu.py --backend cuda [--minutes 14] [--models default 1B 8B] [--out FILE]
    python bench/gpu.py --backend cpu --quick         # tries every step here

Builds for the backend, runs the tests of trees on the device, then measures: passes over 1 to 256
nodes at several depths, plain beside drafted decoding (greedy and sampled, one request and many),
and a profile of a step. Each step is a process of its own, and the results are written after each,
so a crash or the end of the time loses no step before it. What was left out is listed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PYTHON = ROOT / ".venv/bin/python"
TESTS = (
    *("tests/native/test_devices.py", "tests/native/test_tree.py", "tests/native/test_hidden.py"),
    *("tests/native/test_heads.py", "tests/native/test_memory.py", "tests/native/test_engine.py"),
)
STEPS = ("build", "doctor", "passes", "engine", "profile", "tests")
# seconds that a step may take beyond which it is ended, so that those after it have their turn
LIMITS_S = {"build": 480, "doctor": 60, "passes": 240, "engine": 240, "profile": 60, "tests": 300}


def main() -> None:
    options = parse_options()
    if options.step:
        work(options)
        return
    out = options.out or ROOT / f"bench/results/gpu-{options.backend}-{date.today()}.json"
    report: dict[str, Any] = {
        "bench": "gpu",
        "backend": options.backend,
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "steps": {},
    }
    for name, found in run_all(options):
        report["steps"][name] = found
        out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        print(f"{name}: {summary(found)}", flush=True)
    print(f"written to {out}")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", default="cpu", choices=("cpu", "cuda", "metal", "vulkan"))
    parser.add_argument("--minutes", type=float, default=14.0, help="when no step begins any more")
    parser.add_argument("--steps", nargs="+", default=STEPS, choices=STEPS, metavar="STEP")
    parser.add_argument("--out", type=Path, help="JSON file; by default in bench/results")
    parser.add_argument("--quick", action="store_true", help="small sizes, to try the script")
    parser.add_argument("--models", nargs="+", default=["default", "1B", "8B"], metavar="M")
    parser.add_argument("--depths", nargs="+", type=int, default=[512, 4096, 16_384])
    parser.add_argument("--nodes", nargs="+", type=int, default=NODES)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--requests", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--drafters", nargs="+", default=["suffix+recycling", "auto"])
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.models, options.depths = ["default", "0.1B"], [64, 256]
        options.nodes, options.repeats = [1, 4, 9, 16], 2
        options.requests, options.tokens, options.drafters = [1, 3], 12, ["suffix+recycling"]
    return options


NODES = [1, 2, 3, 4, 6, 8, 9, 12, 16, 17, 24, 32, 33, 48, 64, 65, 96, 128, 192, 256]


def run_all(options: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """What each step found, in order."""
    started_s = time.monotonic()
    for name in options.steps:
        left_s = 60 * options.minutes - (time.monotonic() - started_s)
        if left_s < 5:
            yield name, {"left_out": "no time was left"}
            continue
        limit_s = min(left_s, LIMITS_S[name])
        begun_s = time.monotonic()
        found = run_step(name, options, limit_s)
        yield name, found | {"seconds": round(time.monotonic() - begun_s, 1)}


def run_step(name: str, options: argparse.Namespace, limit_s: float) -> dict[str, Any]:
    """One step as a process; its JSON, or its exit status and the last of what it printed."""
    command = command_of(name, options)
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment(options.backend),
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"ended after {limit_s:.0f} s"}
    tail = (done.stdout + done.stderr)[-2000:]
    if name == "tests":
        return {"status": done.returncode, "output": tail}
    if done.returncode != 0:
        return {"error": f"exit status {done.returncode}", "output": tail}
    if name == "build":
        return {"output": tail}
    return dict(json.loads(done.stdout[done.stdout.index("{") :]))


def command_of(name: str, options: argparse.Namespace) -> list[str]:
    if name == "build":
        build = [sys.executable, "build.py", "build", "--backend", options.backend]
        return [*build, "--extra", "test", "--extra", "bench"]
    if name == "doctor":
        return [str(PYTHON), "-m", "pytreellama", "doctor", "--json", "--no-speed"]
    if name == "tests":
        chosen = TESTS[:1] if options.quick else TESTS
        return [str(PYTHON), "-m", "pytest", "-q", "--timeout", "120", *chosen]
    words = [str(PYTHON), str(Path(__file__)), "--step", name, "--backend", options.backend]
    for option in ("models", "depths", "nodes", "requests", "drafters"):
        words += [f"--{option}", *map(str, getattr(options, option))]
    return [*words, "--repeats", str(options.repeats), "--tokens", str(options.tokens)]


def environment(backend: str) -> dict[str, str]:
    """The devices of this backend alone, for the tests too."""
    seen = {
        "cpu": {"CUDA_VISIBLE_DEVICES": "", "GGML_DISABLE_VULKAN": "1"},
        # in software it is a CPU, which llama.cpp leaves out otherwise
        "vulkan": {"GGML_VK_VISIBLE_DEVICES": "0"},
    }
    return {**os.environ, "PYTREELLAMA_TEST_BACKEND": backend, **seen.get(backend, {})}


def work(options: argparse.Namespace) -> None:
    """One step, in the process that was made for it."""
    sys.path.insert(0, str(ROOT / "bench"))
    from lib.gpu_steps import run_step

    print(json.dumps(run_step(options.step, options)))


def summary(found: dict[str, Any]) -> str:
    """A step in one line."""
    seconds = f" in {found['seconds']} s" if "seconds" in found else ""
    if "error" in found or "left_out" in found:
        return f"{found.get('error') or found['left_out']}{seconds}"
    if "rows" in found:
        return f"{len(found['rows'])} rows{seconds}"
    last = str(found.get("output", "")).strip().splitlines()
    return f"{last[-1] if last else 'done'}{seconds}"


if __name__ == "__main__":
    main()
