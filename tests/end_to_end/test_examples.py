"""Every script of ``examples/`` runs to its end and shows what it is there to show."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pytreellama import Model

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))

SHOWN = {
    "beam_search": r"^ *-\d+\.\d\d '",
    "best_of_n": r"The best of 6:\n.",
    "chat": r"\[[1-9]\d* of \d+ prompt tokens were cached\]\n> $",
    "custom_drafter": r"the same text without drafts: True\n[1-9]\d* of \d+ draft tokens",
    "custom_verification": r"\n\d+ tokens in (\d|1\d) passes\n",
    "json_schema": r'^\{\n  "city": ',
    "logits_processor": r"tokens in [12]?\d passes; the same text as without drafts: True",
    "many_requests": r"\n\d+ tokens/s; [1-9]\d* prompt tokens came from the prefix cache",
    "speculative_sampling": r"\n[1-9]\.\d\d tokens per pass of the target",
    "stream": r"64 tokens in \d+ passes of the model",
    "tree_search": r"reward 0\.[5-9]|reward 1\.00",
    "watermark": r"watermarked, z = [4-9]\.",
}


def test_each_example_is_known_here() -> None:
    assert [example.stem for example in EXAMPLES] == sorted(SHOWN)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.stem)
def test_an_example_runs(example: Path, default_model: Model) -> None:
    run = subprocess.run(
        [sys.executable, example, default_model.path],
        input="Hello!\nWhat is your name?\n\n",
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    assert re.search(SHOWN[example.stem], run.stdout), run.stdout
