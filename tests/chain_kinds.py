"""Kinds of tiny models whose recurrent states can be rolled back, and texts for them."""

from __future__ import annotations

import numpy as np

KINDS = (
    "mamba2",
    "falcon-h1",
    "granitehybrid",
    "nemotron_h",
    "nemotron_h_moe",
    "qwen35",
    "qwen35moe",
    "qwen3next",
    "qwen4exp",
    "qwen4exp-ple",
    "kimi-k3",
    "bailingmoe3",
    "glm5-next",
    "lfm2",
    "lfm2-swa",
    "lfm2moe",
)
"""Kinds whose passes can keep the state behind each of their last tokens."""
ALONE = ("qwen4exp", "qwen4exp-ple", "glm5-next")
"""Kinds whose attention depends on the other texts of a pass."""
FEW = ("mamba2", "qwen35", "kimi-k3", "lfm2", "qwen4exp")
N_CHAIN = 8
N_CTX = 512


def text_of(n_tokens: int, seed: int = 7) -> list[int]:
    return [int(t) for t in np.random.default_rng(seed).integers(3, 250, n_tokens)]
