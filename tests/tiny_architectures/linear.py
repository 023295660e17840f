"""Linear attention whose decay is fixed, beside attention: MiniMax-01."""

from __future__ import annotations

from gguf import GGUFWriter

from tiny_architectures.parts import attends, ends, expert_keys, experts, model_keys
from tiny_models import Kind, Shape, Weights, attention_out, blocks, separate_qkv


def _minimax01(g: GGUFWriter, w: Weights, s: Shape, stops: bool) -> None:
    model_keys(
        g,
        s,
        residual_scale=1.0,
        attention__recurrent_layers=[not attends(layer) for layer in range(s.n_layer)],
    )
    expert_keys(g, s)
    ends(w, s, stops)
    for layer, b in enumerate(blocks(s)):
        w.norm(f"{b}.attn_norm.weight", s.n_embd)
        if attends(layer):
            separate_qkv(w, s, b)
        else:
            _lightning(w, s, b)
        w.norm(f"{b}.ffn_norm.weight", s.n_embd)
        experts(w, s, b)


def _lightning(w: Weights, s: Shape, b: str) -> None:
    n_inner = s.n_head * s.head_dim
    w.matrix(f"{b}.attn_qkv.weight", 3 * n_inner, s.n_embd, gain=1.4)
    w.matrix(f"{b}.attn_gate.weight", n_inner, s.n_embd)
    w.norm(f"{b}.attn_norm_2.weight", n_inner)
    attention_out(w, s, b)


KINDS = {
    "minimax-01": Kind("minimax-01", _minimax01, memory="hybrid", n_ff=64, n_layer=3),
}
