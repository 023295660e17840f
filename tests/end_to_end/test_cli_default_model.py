"""The installed command on the default model: streams, signals and pipes as a shell sees them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from subprocess import PIPE
from typing import Any

import pytest

from alone import started
from pytreellama import Model

REPEATING = "Count: one, two, three, one, two, three, one, two,"
posix_only = pytest.mark.skipif(os.name != "posix", reason="signals and pipes of POSIX")


@pytest.fixture
def environment(default_model: Model) -> dict[str, str]:
    return {**os.environ, "PYTREELLAMA_MODEL": str(default_model.path)}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pytreellama", *arguments]


def run(environment: dict[str, str], *arguments: str, **options: Any) -> Any:
    return subprocess.run(
        command(*arguments), env=environment, capture_output=True, text=True, check=False, **options
    )


@contextmanager
def endless(environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A generation that goes on for minutes, past its first words."""
    arguments = ("generate", "Once upon a time", "-n", "3000", "--ignore-eos")
    with started(command(*arguments), env=environment, stdout=PIPE, stderr=PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(1)
        yield process


def test_generate_continues_a_pattern_and_drafts_it(environment: dict[str, str]) -> None:
    done = run(environment, "generate", REPEATING, "-n", "16", "--stats")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(" three, one, two, three")
    assert "tokens a step" in done.stderr


def test_a_prompt_through_a_pipe_and_json_out(environment: dict[str, str]) -> None:
    done = run(environment, "generate", "-n", "16", "--json", "--compare", input=REPEATING + "\n")
    got = json.loads(done.stdout)
    assert got["text"].startswith(" three, one, two, three")
    assert got["stats"]["n_accepted"] > 0
    assert got["stats"]["tokens_per_step"] > got["plain"]["stats"]["tokens_per_step"] == 1.0
    assert done.stderr == ""


def test_a_chat_model_answers_by_a_schema(environment: dict[str, str]) -> None:
    schema = {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "blue"]}},
        "required": ["colour"],
        "additionalProperties": False,
    }
    arguments = ("--chat", "--json-schema", json.dumps(schema), "-n", "40")
    done = run(environment, "generate", "Name a colour as JSON.", *arguments)
    assert json.loads(done.stdout)["colour"] in ("red", "blue")


def test_tree_draws_accepted_paths(environment: dict[str, str]) -> None:
    done = run(environment, "tree", REPEATING, "-n", "12")
    assert "draft nodes accepted" in done.stdout and "✓" in done.stdout


def test_doctor_finds_nothing_wrong(environment: dict[str, str]) -> None:
    done = run(environment, "doctor", "--json")
    got = json.loads(done.stdout)
    assert done.returncode == 0 and got["problems"] == []
    assert got["model"]["file_type"] and got["speed"]["tokens_per_s"] > 0


def test_no_prompt_and_no_input_is_one_line(environment: dict[str, str]) -> None:
    done = run(environment, "generate", stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: there is no prompt: stdin is empty\n"


@posix_only
def test_an_interrupt_ends_it_quietly(environment: dict[str, str]) -> None:
    with endless(environment) as process:
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (130, b"")


@posix_only
def test_a_reader_that_goes_away_ends_it_quietly(environment: dict[str, str]) -> None:
    with endless(environment) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        errors = process.stderr.read()
        assert (process.wait(timeout=60), errors) == (141, b"")
