"""Models without any layer of a kind that their memory has a part for: refused, not run."""

from __future__ import annotations

from pathlib import Path

import pytest

from alone import survives
from tiny_models import write_tiny_model

HYBRIDS = (
    "hybrid",
    "bailingmoe3",
    "glm5-next",
    "granitehybrid",
    "kimi-k3",
    "kimi-linear",
    "lfm2",
    "lfm2-swa",
    "minimax-01",
    "nemotron_h",
    "plamo2",
    "qwen35",
    "qwen3next",
    "qwen4exp",
)
"""Whose first layer is recurrent."""

LOAD = """
import sys
from pytreellama import Context, Model
from pytreellama.errors import ContextError
with Model(sys.argv[1]) as model:
    try:
        Context(model, n_ctx=64).close()
    except ContextError as error:
        print(error)
"""


def refusal(directory: Path, kind: str, n_layer: int | None = None, n_swa: int = 8) -> str:
    """What a context of a tiny model says, in a process of its own."""
    path = directory / f"{kind}.gguf"
    write_tiny_model(path, kind, n_layer=n_layer, n_swa=n_swa)
    return survives(LOAD, str(path))


@pytest.mark.parametrize("kind", HYBRIDS)
def test_a_hybrid_without_attention_is_refused(kind: str, tmp_path: Path) -> None:
    assert "none of its layers has attention" in refusal(tmp_path, kind, n_layer=1)


def test_a_hybrid_without_a_recurrent_layer_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("parts", "shortconv"):
        monkeypatch.setattr(f"tiny_architectures.{module}.attends", lambda layer: True)
    assert "none of its layers is recurrent" in refusal(tmp_path, "lfm2", n_layer=2)


def test_dots3note_without_a_window_is_refused(tmp_path: Path) -> None:
    assert "has a sliding window" in refusal(tmp_path, "dots3note", n_swa=0)


def test_dots3note_with_windows_alone_is_refused(tmp_path: Path) -> None:
    assert "all of its layers have a sliding window" in refusal(tmp_path, "dots3note", n_layer=1)


@pytest.mark.parametrize("n_layer", [1, 2])
def test_deepseek4_without_all_its_compressors_is_refused(n_layer: int, tmp_path: Path) -> None:
    assert "compress 4 cells, or 128" in refusal(tmp_path, "deepseek4", n_layer=n_layer)


def test_falcon_h1_may_have_one_layer_which_is_both(tmp_path: Path) -> None:
    assert refusal(tmp_path, "falcon-h1", n_layer=1) == ""
