"""What models and answers hold in memory is what is read again."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

import pytreellama as ptl

_MOST_PER_TOKEN = 300
"""Bytes of Python objects that an answer and its engine keep for each token: 145 measured."""


def resident_of_file(path: Path) -> int:
    """Bytes of a mapped file that are in memory, as far as this process sees them."""
    found, is_file = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name = line.split()[0]
        if not name.endswith(":"):
            is_file = line.endswith(str(path))
        elif is_file and name == "Rss:":
            found += 1024 * int(line.split()[1])
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_pages_of_weights_that_were_copied_are_given_back() -> None:
    path = ptl.Model.default().file.real_path
    before, of_others = resident_of_anything(), resident_of_file(path)  # the suite's own model
    with ptl.Model(path) as model:
        n_copied = resident_of_anything() - before
        if n_copied < model.size // 2:
            pytest.skip("no weights are copied on this machine")
        assert resident_of_file(path) - of_others < 0.6 * model.size
        with ptl.Context(model, n_ctx=256) as context:
            context.prefill([1, 2, 3])
        assert resident_of_file(path) - of_others < 0.6 * model.size


def resident_of_anything() -> int:
    """Bytes of this process that belong to no file."""
    status = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in status if line.startswith("RssAnon"))


@pytest.mark.parametrize("drafter", ["none", "auto"])
def test_what_an_answer_keeps_of_each_token_is_bounded(
    tiny_model: Callable[..., ptl.Model], drafter: str
) -> None:
    with ptl.Engine(tiny_model("rope"), drafter=drafter, n_ctx=2048, n_threads=1) as engine:
        engine.generate([1, 2, 3], max_tokens=8, ignore_eos=True)
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            answer = engine.generate([1, 2, 3], max_tokens=1500, ignore_eos=True)
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert len(answer.tokens) == 1500
        assert after - before < _MOST_PER_TOKEN * 1500
