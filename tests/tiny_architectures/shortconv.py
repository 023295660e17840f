"""Short convolutions beside attention: LFM2, dense, with sliding windows and with experts."""

from __future__ import annotations

from gguf import GGUFWriter

from tiny_architectures.parts import (
    SIGMOID,
    attends,
    conv,
    dense_then_experts,
    expert_keys,
    model_keys,
    normed_qk,
    only_attending,
)
from tiny_models import (
    ATTN_OUT_GAIN,
    Kind,
    Shape,
    Weights,
    blocks,
    embeddings,
    gated_ffn,
    separate_qkv,
)

L_CACHE = 3


def _lfm2(g: GGUFWriter, w: Weights, s: Shape, stops: bool) -> None:
    _keys(g, s)
    _ends(w, s, stops)
    for layer, b in enumerate(blocks(s)):
        _mixer(w, s, b, layer)
        w.norm(f"{b}.ffn_norm.weight", s.n_embd)
        gated_ffn(w, s, b)


def _lfm2_swa(g: GGUFWriter, w: Weights, s: Shape, stops: bool) -> None:
    g.add_sliding_window(s.n_swa)
    _lfm2(g, w, s, stops)


def _lfm2moe(g: GGUFWriter, w: Weights, s: Shape, stops: bool) -> None:
    _keys(g, s)
    expert_keys(g, s, leading_dense_block_count=1, expert_gating_func=SIGMOID)
    _ends(w, s, stops)
    for layer, b in enumerate(blocks(s)):
        _mixer(w, s, b, layer)
        dense_then_experts(w, s, b, layer, shared=0)


def _keys(g: GGUFWriter, s: Shape) -> None:
    model_keys(
        g, s, attention__head_count_kv=only_attending(s, s.n_head_kv), shortconv__l_cache=L_CACHE
    )


def _ends(w: Weights, s: Shape, stops: bool) -> None:
    embeddings(w, s, stops=stops)
    w.norm("token_embd_norm.weight", s.n_embd)  # LFM2's name for the norm at the output


def _mixer(w: Weights, s: Shape, b: str, layer: int) -> None:
    w.norm(f"{b}.attn_norm.weight", s.n_embd)
    if attends(layer):
        separate_qkv(w, s, b, gain=1.0)
        normed_qk(w, s, b)
    else:
        w.matrix(f"{b}.shortconv.in_proj.weight", 3 * s.n_embd, s.n_embd, gain=1.4)
        conv(w, f"{b}.shortconv.conv.weight", s.n_embd, L_CACHE)
        w.matrix(f"{b}.shortconv.out_proj.weight", s.n_embd, s.n_embd, gain=ATTN_OUT_GAIN)


KINDS = {
    "lfm2": Kind("lfm2", _lfm2, tied=True, grouped=True, memory="hybrid", n_layer=3),
    "lfm2-swa": Kind("lfm2", _lfm2_swa, tied=True, grouped=True, memory="hybrid", n_layer=3),
    "lfm2moe": Kind(
        "lfm2moe", _lfm2moe, tied=True, grouped=True, memory="hybrid", n_ff=64, n_layer=3
    ),
}
