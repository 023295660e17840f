"""Tiny models of the architecture families that `tiny_models` has no kind of memory for.

A kind is named as llama.cpp names its architecture; what follows a hyphen at the end tells a
variant: ``-mtp`` has a block that predicts several tokens, ``-swa`` a sliding window, ``-mrope``
positions of several parts, ``-ple`` embeddings of n-grams, ``-moe`` experts, ``-d2t`` a vocabulary
of the draft's own.
"""

from __future__ import annotations

from tiny_architectures import (
    compressed,
    decoders,
    deltanet,
    encoders,
    heads,
    kda,
    linear,
    mamba2,
    mla,
    qwen4exp,
    rwkv,
    shortconv,
    sparse,
)

FAMILIES = (
    mla,
    sparse,
    compressed,
    deltanet,
    kda,
    qwen4exp,
    mamba2,
    rwkv,
    linear,
    shortconv,
    heads,
    decoders,
    encoders,
)

KINDS = {name: kind for family in FAMILIES for name, kind in family.KINDS.items()}
"""Every kind, by name."""
