"""Kinds of tiny models whose recurrent states can be rolled back."""

from __future__ import annotations

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
