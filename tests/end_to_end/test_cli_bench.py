"""``bench`` and ``plan`` on the default model, as a shell sees them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest

from alone import started
from pytreellama import Model

PROMPTS: list[dict[str, Any]] = [
    {"category": "counting", "prompt": "Count: one, two, three, one, two, three, one, two,"},
    {"category": "capitals", "turns": ["What is the capital of France?"]},
]
posix_only = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")


@pytest.fixture
def environment(default_model: Model) -> dict[str, str]:
    return {**os.environ, "PYTREELLAMA_MODEL": str(default_model.path)}


@pytest.fixture
def prompts(tmp_path: Path) -> str:
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(map(json.dumps, PROMPTS)), encoding="utf-8")
    return str(path)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pytreellama", *arguments]


def run(environment: dict[str, str], *arguments: str) -> Any:
    return subprocess.run(
        command(*arguments), env=environment, capture_output=True, text=True, check=False
    )


def test_bench_measures_writes_a_report_and_prints_one_object(
    environment: dict[str, str], prompts: str, tmp_path: Path
) -> None:
    html = tmp_path / "report.html"
    arguments = ("-p", prompts, "-n", "16", "--repeats", "1", "-d", "suffix", "-d", "auto")
    done = run(environment, "bench", *arguments, "--json", "--html", str(html))
    assert (done.returncode, done.stderr) == (0, "")
    got = json.loads(done.stdout)
    auto = got["drafters"][2]
    assert auto["drafter"] == "auto" and auto["identical"] is True
    assert auto["categories"]["counting"]["tokens_per_step"]["median"] > 2
    assert len(got["answers"]) == 6
    assert html.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_plan_tells_of_every_step(environment: dict[str, str]) -> None:
    prompt = PROMPTS[0]["prompt"]
    assert isinstance(prompt, str)
    done = run(environment, "plan", prompt, "-n", "16")
    assert (done.returncode, done.stderr) == (0, "")
    assert "step 1: " in done.stdout and "' three, one'" in done.stdout


@posix_only
def test_a_plans_reader_that_goes_away_ends_it_quietly(environment: dict[str, str]) -> None:
    arguments = ("plan", "Once upon a time", "-n", "500", "--ignore-eos")
    with started(command(*arguments), env=environment, stdout=PIPE, stderr=PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.read(1)
        process.stdout.close()
        errors = process.stderr.read()
        assert (process.wait(timeout=60), errors) == (141, b"")


@posix_only
def test_an_interrupted_bench_ends_quietly(environment: dict[str, str]) -> None:
    arguments = ("bench", "-n", "500", "--repeats", "100")
    with started(command(*arguments), env=environment, stdout=PIPE, stderr=PIPE) as process:
        time.sleep(4.0)  # it measures in silence; it may still be loading, which ends as quietly
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
        assert (process.returncode, output, errors) == (130, b"", b"")
