"""Multi-head latent attention: DeepSeek V2, V3 and R1, Mistral 4."""

from __future__ import annotations

from gguf import GGUFWriter

from tiny_architectures.parts import (
    SIGMOID,
    dense_then_experts,
    ends,
    expert_keys,
    latent_attention,
    latent_keys,
    mtp_ends,
)
from tiny_models import Kind, Shape, Weights, blocks


def _deepseek2(g: GGUFWriter, w: Weights, s: Shape, stops: bool) -> None:
    latent_keys(g, s, leading_dense_block_count=1)
    expert_keys(
        g,
        s,
        expert_shared_count=1,
        expert_gating_func=SIGMOID,
        expert_weights_norm=True,
        expert_weights_scale=1.5,
    )
    ends(w, s, stops)
    for layer, b in enumerate(blocks(s)):
        _block(w, s, b, layer)


def _deepseek2_mtp(g: GGUFWriter, w: Weights, s: Shape, stops: bool) -> None:
    _deepseek2(g, w, s, stops)
    g.add_nextn_predict_layers(1)
    b = f"blk.{s.n_layer}"
    _block(w, s, b, s.n_layer)
    mtp_ends(w, s, b)


def _block(w: Weights, s: Shape, b: str, layer: int) -> None:
    w.norm(f"{b}.attn_norm.weight", s.n_embd)
    latent_attention(w, s, b)
    dense_then_experts(w, s, b, layer)


KINDS = {
    "deepseek2": Kind("deepseek2", _deepseek2, n_ff=64),
    "deepseek2-mtp": Kind("deepseek2", _deepseek2_mtp, n_ff=64, n_mtp=1),
    "mistral4": Kind("mistral4", _deepseek2, n_ff=64),
}
