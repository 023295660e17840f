"""Heads that draft: the last block of GLM 4.5, and EAGLE-3, a model of its own."""

from __future__ import annotations

import numpy as np
from gguf import GGUFWriter

from tiny_architectures.parts import (
    SIGMOID,
    ends,
    expert_keys,
    experts,
    model_keys,
    mtp_ends,
    normed_qk,
)
from tiny_models import (
    ATTN_OUT_GAIN,
    LOGIT_GAIN,
    QK_GAIN,
    Kind,
    Shape,
    Weights,
    blocks,
    gated_ffn,
    rope_keys,
    separate_qkv,
)

TARGET_LAYERS = (0, 1, 1)
"""Whose inputs EAGLE-3 reads: those of a target with two layers, as "rope" is."""


def _glm4v_moe(g: GGUFWriter, w: Weights, s: Shape, stops: bool) -> None:
    """GLM 4.5V: positions of several parts, as llama.cpp asserts not to meet in `-mtp`."""
    g.add_rope_dimension_sections([s.head_dim // 2 - 10, 5, 5, 0])
    _glm4moe(g, w, s, stops)


def _glm4moe(g: GGUFWriter, w: Weights, s: Shape, stops: bool) -> None:
    model_keys(g, s)
    expert_keys(
        g,
        s,
        leading_dense_block_count=1,
        expert_shared_count=1,
        expert_gating_func=SIGMOID,
        expert_weights_norm=True,
        expert_weights_scale=1.5,
    )
    ends(w, s, stops)
    for layer, b in enumerate(blocks(s)):
        _glm4moe_block(w, s, b, layer)


def _glm4moe_mtp(g: GGUFWriter, w: Weights, s: Shape, stops: bool, n_mtp: int = 1) -> None:
    _glm4moe(g, w, s, stops)
    g.add_nextn_predict_layers(n_mtp)
    for layer in range(s.n_layer, s.n_layer + n_mtp):
        _glm4moe_block(w, s, f"blk.{layer}", layer)
        mtp_ends(w, s, f"blk.{layer}")


def _glm4moe_mtp2(g: GGUFWriter, w: Weights, s: Shape, stops: bool) -> None:
    """Two NextN layers, of which llama.cpp's graph takes one alone."""
    _glm4moe_mtp(g, w, s, stops, n_mtp=2)


def _glm4moe_block(w: Weights, s: Shape, b: str, layer: int) -> None:
    w.norm(f"{b}.attn_norm.weight", s.n_embd)
    separate_qkv(w, s, b, gain=1.0)
    normed_qk(w, s, b)
    w.norm(f"{b}.post_attention_norm.weight", s.n_embd)
    if layer == 0:
        gated_ffn(w, s, b)
    else:
        experts(w, s, b, shared=1, biased=True)


DRAFT_TOKEN_STEP = 3
"""EAGLE-3 with a vocabulary of its own drafts every third token."""


def _eagle3(g: GGUFWriter, w: Weights, s: Shape, stops: bool) -> None:
    ends(w, s, stops)
    _eagle3_block(g, w, s)


def _eagle3_d2t(g: GGUFWriter, w: Weights, s: Shape, stops: bool) -> None:
    """With the target's embeddings, and an output for some of its tokens."""
    tokens = np.arange(5, s.n_vocab, DRAFT_TOKEN_STEP, dtype=np.int64)
    g.add_tensor("d2t", tokens)
    w.norm("output_norm.weight", s.n_embd)
    w.matrix("output.weight", len(tokens), s.n_embd, gain=LOGIT_GAIN)
    _eagle3_block(g, w, s)


def _eagle3_block(g: GGUFWriter, w: Weights, s: Shape) -> None:
    """One block, for a target of the same width."""
    rope_keys(g, s)
    g.add_array("eagle3.target_layers", list(TARGET_LAYERS))
    g.add_uint32("eagle3.target_hidden_size", s.n_embd)
    w.matrix("fc.weight", s.n_embd, len(TARGET_LAYERS) * s.n_embd)
    for b in blocks(s):
        w.norm(f"{b}.attn_norm.weight", s.n_embd)
        w.norm(f"{b}.attn_norm_2.weight", s.n_embd)
        w.matrix(f"{b}.attn_q.weight", s.n_head * s.head_dim, 2 * s.n_embd, gain=QK_GAIN)
        w.matrix(f"{b}.attn_k.weight", s.n_head_kv * s.head_dim, 2 * s.n_embd, gain=QK_GAIN)
        w.matrix(f"{b}.attn_v.weight", s.n_head_kv * s.head_dim, 2 * s.n_embd)
        w.matrix(f"{b}.attn_output.weight", s.n_embd, s.n_head * s.head_dim, gain=ATTN_OUT_GAIN)
        w.norm(f"{b}.ffn_norm.weight", s.n_embd)
        gated_ffn(w, s, b)


KINDS = {
    "glm4moe": Kind("glm4moe", _glm4moe, grouped=True, n_ff=64),
    "glm4moe-mrope": Kind("glm4moe", _glm4v_moe, grouped=True, n_ff=64),
    "glm4moe-mtp": Kind("glm4moe", _glm4moe_mtp, grouped=True, n_ff=64, n_mtp=1),
    "glm4moe-mtp2": Kind("glm4moe", _glm4moe_mtp2, grouped=True, n_ff=64, n_mtp=2),
    "eagle3-d2t": Kind("eagle3", _eagle3_d2t, grouped=True, memory="none", n_layer=1),
    "eagle3": Kind("eagle3", _eagle3, grouped=True, memory="none", n_layer=1),
}
