"""Mamba-2 alone and beside attention: Falcon-H1, Granite 4 H, Nemotron-H."""

from __future__ import annotations

from gguf import GGUFWriter

from tiny_architectures.parts import (
    SIGMOID,
    attends,
    ends,
    expert_keys,
    mamba2_keys,
    mamba2_mixer,
    model_keys,
    only_attending,
)
from tiny_models import (
    N_EXPERT,
    Kind,
    Shape,
    Weights,
    blocks,
    gated_ffn,
    separate_qkv,
)


def _mamba2(g: GGUFWriter, w: Weights, s: Shape, stops: bool) -> None:
    g.add_feed_forward_length(0)
    g.add_head_count(0)
    g.add_layer_norm_rms_eps(1e-5)
    mamba2_keys(g, s)
    ends(w, s, stops)
    for b in blocks(s):
        w.norm(f"{b}.attn_norm.weight", s.n_embd)
        mamba2_mixer(w, s, b)


def _falcon_h1(g: GGUFWriter, w: Weights, s: Shape, stops: bool) -> None:
    """Every layer has a state and attention, side by side."""
    model_keys(g, s)
    mamba2_keys(g, s)
    ends(w, s, stops)
    for b in blocks(s):
        w.norm(f"{b}.attn_norm.weight", s.n_embd)
        mamba2_mixer(w, s, b)
        separate_qkv(w, s, b)
        w.norm(f"{b}.ffn_norm", s.n_embd)  # without a suffix, of all tensors
        gated_ffn(w, s, b)


def _granitehybrid(g: GGUFWriter, w: Weights, s: Shape, stops: bool) -> None:
    model_keys(g, s, attention__head_count_kv=only_attending(s, s.n_head_kv))
    mamba2_keys(g, s)
    ends(w, s, stops)
    for layer, b in enumerate(blocks(s)):
        w.norm(f"{b}.attn_norm.weight", s.n_embd)
        if attends(layer):
            separate_qkv(w, s, b)
        else:
            mamba2_mixer(w, s, b)
        w.norm(f"{b}.ffn_norm.weight", s.n_embd)
        gated_ffn(w, s, b)


def _nemotron_h(g: GGUFWriter, w: Weights, s: Shape, stops: bool) -> None:
    """A layer is one thing alone: a mixer, attention or a feed-forward part, in turn."""
    _nemotron_keys(g, s)
    ends(w, s, stops)
    for layer, b in enumerate(blocks(s)):
        _nemotron_layer(w, s, b, layer)
        if layer % 3 == 2:
            w.matrix(f"{b}.ffn_up.weight", s.n_ff, s.n_embd, gain=1.4)
            w.matrix(f"{b}.ffn_down.weight", s.n_embd, s.n_ff)


def _nemotron_h_moe(g: GGUFWriter, w: Weights, s: Shape, stops: bool) -> None:
    _nemotron_keys(g, s)
    expert_keys(
        g,
        s,
        expert_gating_func=SIGMOID,
        expert_shared_feed_forward_length=s.n_ff,
        expert_shared_count=1,
        expert_weights_norm=True,
        expert_weights_scale=1.5,
    )
    ends(w, s, stops)
    for layer, b in enumerate(blocks(s)):
        _nemotron_layer(w, s, b, layer)
        if layer % 3 == 2:
            _ungated_experts(w, s, b)


def _nemotron_keys(g: GGUFWriter, s: Shape) -> None:
    model_keys(
        g,
        s,
        attention__head_count_kv=only_attending(s, s.n_head_kv),
        attention__layer_norm_epsilon=1e-5,
        feed_forward_length=[s.n_ff if layer % 3 == 2 else 0 for layer in range(s.n_layer)],
    )
    mamba2_keys(g, s)


def _nemotron_layer(w: Weights, s: Shape, b: str, layer: int) -> None:
    w.norm(f"{b}.attn_norm.weight", s.n_embd)
    if layer % 3 == 0:
        mamba2_mixer(w, s, b)
    elif attends(layer):
        separate_qkv(w, s, b)


def _ungated_experts(w: Weights, s: Shape, b: str) -> None:
    router = f"{b}.ffn_gate_inp.weight"
    w.plain(router, w.normal(router, N_EXPERT, s.n_embd) * (2 / s.n_embd**0.5))
    w.bias(f"{b}.exp_probs_b.bias", N_EXPERT)
    w.matrix(f"{b}.ffn_up_exps.weight", N_EXPERT, s.n_ff, s.n_embd, gain=1.4)
    w.matrix(f"{b}.ffn_down_exps.weight", N_EXPERT, s.n_embd, s.n_ff)
    w.matrix(f"{b}.ffn_up_shexp.weight", s.n_ff, s.n_embd, gain=1.4)
    w.matrix(f"{b}.ffn_down_shexp.weight", s.n_embd, s.n_ff)


KINDS = {
    "mamba2": Kind("mamba2", _mamba2, tied=True, memory="recurrent"),
    "falcon-h1": Kind("falcon-h1", _falcon_h1, grouped=True, memory="hybrid"),
    "granitehybrid": Kind(
        "granitehybrid", _granitehybrid, grouped=True, memory="hybrid", n_layer=3
    ),
    "nemotron_h": Kind("nemotron_h", _nemotron_h, grouped=True, memory="hybrid", n_layer=4),
    "nemotron_h_moe": Kind(
        "nemotron_h_moe", _nemotron_h_moe, grouped=True, memory="hybrid", n_ff=64, n_layer=4
    ),
}
