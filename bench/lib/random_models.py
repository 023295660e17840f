"""Models of random weights in the shape of real ones, made once and kept in ``bench_folder``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from lib.models import bench_folder
from lib.report import ROOT, shown
from pytreellama import quantize

sys.path.insert(0, str(ROOT / "tests"))


def hybrid_model(kind: str) -> Path:
    """A model of about 0.5 billion random weights, Q4_K_M, in the shape of "qwen35" or "lfm2"."""
    path = bench_folder() / f"random-{kind}-0.5B.Q4_K_M.gguf"
    if path.exists():
        return path
    from tiny_architectures import deltanet
    from tiny_models import write_tiny_model

    # Qwen3.5 0.8B: 16 heads of 128 for keys and values of the delta net, no vocabulary of 248,000
    deltanet.N_KEY_HEAD = deltanet.N_VALUE_HEAD = 16
    deltanet.D_HEAD, deltanet.D_KEYS, deltanet.D_VALUES = 128, 2048, 2048
    n_layer = {"qwen35": 24, "lfm2": 24}[kind]
    whole, unfinished = path.with_suffix(".f16"), path.with_suffix(f".{os.getpid()}.part")
    try:
        with shown(f"making a random {kind}") as progress:
            write_tiny_model(
                whole, kind, n_layer=n_layer, n_embd=1024, n_head=32, n_head_kv=8, n_ff=3584,
                n_vocab=32_000, n_ctx_train=8192, dtype="f16",
            )  # fmt: skip
            quantize(whole, unfinished, "Q4_K_M", progress=progress)
        os.replace(unfinished, path)
    finally:
        whole.unlink(missing_ok=True)
        unfinished.unlink(missing_ok=True)
    return path


def window_model() -> Path:
    """A small Gemma 3 of random weights, F16, with windows of 512 tokens in every other layer."""
    return _written(
        "random-gemma3-small.F16.gguf", "swa", n_layer=6, n_embd=512, n_head=16, n_head_kv=4,
        n_ff=2048, n_vocab=8_000, n_swa=512, dtype="f16",
    )  # fmt: skip


DENSE: dict[str, Any] = {
    "n_embd": 1024,
    "n_head": 32,
    "n_head_kv": 8,
    "n_ff": 4096,
    "n_vocab": 32_000,
}


def dense_model() -> Path:
    """A Llama of random weights, Q8_0: 24 layers, 0.4 billion weights."""
    return _written("random-dense-0.4B.Q8_0.gguf", "rope", n_layer=24, **DENSE)


def eagle3_model() -> Path:
    """An EAGLE-3 model for ``dense_model``, Q8_0, which drafts every third token."""
    return _written("random-dense-0.4B.eagle3.Q8_0.gguf", "eagle3-d2t", **DENSE)


def _written(name: str, kind: str, *, dtype: str = "q8_0", **shape: Any) -> Path:
    path = bench_folder() / name
    if path.exists():
        return path
    from tiny_models import write_tiny_model

    unfinished = path.with_suffix(f".{os.getpid()}.part")
    try:
        with shown(f"making {name}"):
            write_tiny_model(unfinished, kind, n_ctx_train=8192, dtype=dtype, **shape)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path
