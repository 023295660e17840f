"""Mamba-2 alone and beside attention: Falcon-H1, Granite 4 H, Nemotron-H, PLaMo 2."""

from __future__ import annotations

from gguf import GGUFWriter

from tiny_architectures.parts import (
    D_CONV,
    D_STATE,
    N_STATE_HEAD,
    SIGMOID,
    attends,
    conv,
    decay,
    ends,
    expert_keys,
    experts,
    mamba2_keys,
    mamba2_mixer,
    model_keys,
    mtp_ends,
    only_attending,
)
from tiny_models import (
    ATTN_OUT_GAIN,
    N_EXPERT,
    QK_GAIN,
    Kind,
    Shape,
    Weights,
    attention_out,
    blocks,
    gated_ffn,
    separate_qkv,
)

D_STEP = 64  # PLaMo 2's least


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
    _granite_keys(g, s)
    ends(w, s, stops)
    for layer, b in enumerate(blocks(s)):
        _granite_mixer(w, s, b, layer)
        gated_ffn(w, s, b)


def _granitehybrid_moe(g: GGUFWriter, w: Weights, s: Shape, stops: bool) -> None:
    _granite_keys(g, s)
    expert_keys(g, s, expert_shared_feed_forward_length=s.n_ff)
    ends(w, s, stops)
    for layer, b in enumerate(blocks(s)):
        _granite_mixer(w, s, b, layer)
        experts(w, s, b, shared=1)


def _granite_keys(g: GGUFWriter, s: Shape) -> None:
    model_keys(g, s, attention__head_count_kv=only_attending(s, s.n_head_kv))
    mamba2_keys(g, s)


def _granite_mixer(w: Weights, s: Shape, b: str, layer: int) -> None:
    """All of a layer but its feed-forward part."""
    w.norm(f"{b}.attn_norm.weight", s.n_embd)
    if attends(layer):
        separate_qkv(w, s, b)
    else:
        mamba2_mixer(w, s, b)
    w.norm(f"{b}.ffn_norm.weight", s.n_embd)


def _nemotron_h(g: GGUFWriter, w: Weights, s: Shape, stops: bool) -> None:
    """A layer is one thing alone: a mixer, attention or a feed-forward part, in turn."""
    _nemotron_keys(g, s)
    ends(w, s, stops)
    for layer, b in enumerate(blocks(s)):
        _nemotron_layer(w, s, b, layer)
        if layer % 3 == 2:
            w.matrix(f"{b}.ffn_up.weight", s.n_ff, s.n_embd, gain=1.4)
            w.matrix(f"{b}.ffn_down.weight", s.n_embd, s.n_ff)


def _nemotron_h_moe(g: GGUFWriter, w: Weights, s: Shape, stops: bool, n_mtp: int = 0) -> None:
    _nemotron_keys(g, s, n_mtp)
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


def _nemotron_h_moe_mtp(g: GGUFWriter, w: Weights, s: Shape, stops: bool) -> None:
    _nemotron_h_moe(g, w, s, stops, n_mtp=1)
    g.add_nextn_predict_layers(1)
    b = f"blk.{s.n_layer}"
    w.norm(f"{b}.attn_norm.weight", s.n_embd)
    separate_qkv(w, s, b)
    w.norm(f"{b}.post_attention_norm.weight", s.n_embd)
    _ungated_experts(w, s, b)
    mtp_ends(w, s, b)


def _nemotron_keys(g: GGUFWriter, s: Shape, n_mtp: int = 0) -> None:
    model_keys(
        g,
        s,
        attention__head_count_kv=only_attending(s, s.n_head_kv, n_mtp),
        attention__layer_norm_epsilon=1e-5,
        feed_forward_length=[s.n_ff if layer % 3 == 2 else 0 for layer in range(s.n_layer)]
        + [s.n_ff] * n_mtp,
    )
    mamba2_keys(g, s)


def _nemotron_layer(w: Weights, s: Shape, b: str, layer: int) -> None:
    w.norm(f"{b}.attn_norm.weight", s.n_embd)
    if layer % 3 == 0:
        mamba2_mixer(w, s, b)
    elif attends(layer):
        separate_qkv(w, s, b)


def _plamo2(g: GGUFWriter, w: Weights, s: Shape, stops: bool) -> None:
    """Mamba-2's scan behind Mamba-1's products, all of it normed."""
    model_keys(g, s, attention__head_count_kv=only_attending(s, s.n_head_kv))
    mamba2_keys(g, s, n_group=0)
    ends(w, s, stops)
    for layer, b in enumerate(blocks(s)):
        w.norm(f"{b}.attn_norm.weight", s.n_embd)
        if attends(layer):
            _qkv_normed_by_head(w, s, b)
        else:
            _plamo2_mixer(w, s, b)
        w.norm(f"{b}.post_attention_norm", s.n_embd)
        w.norm(f"{b}.ffn_norm.weight", s.n_embd)
        w.matrix(f"{b}.ffn_up.weight", 2 * s.n_ff, s.n_embd, gain=1.4)
        w.matrix(f"{b}.ffn_down.weight", s.n_embd, s.n_ff)
        w.norm(f"{b}.post_ffw_norm", s.n_embd)


def _qkv_normed_by_head(w: Weights, s: Shape, b: str) -> None:
    n_qkv = (s.n_head + 2 * s.n_head_kv) * s.head_dim
    w.matrix(f"{b}.attn_qkv.weight", n_qkv, s.n_embd)
    for name, n in (("q", s.n_head), ("k", s.n_head_kv)):
        norm = f"{b}.attn_{name}_norm.weight"
        w.plain(norm, QK_GAIN * (1 + 0.1 * w.normal(norm, n, s.head_dim)))
    attention_out(w, s, b)


def _plamo2_mixer(w: Weights, s: Shape, b: str) -> None:
    d_inner = 2 * s.n_embd
    w.matrix(f"{b}.ssm_in.weight", 2 * d_inner, s.n_embd, gain=1.4)
    conv(w, f"{b}.ssm_conv1d.weight", d_inner, D_CONV)
    w.matrix(f"{b}.ssm_x.weight", D_STEP + 2 * D_STATE, d_inner)
    w.matrix(f"{b}.ssm_dt.weight", N_STATE_HEAD, D_STEP)
    decay(w, b, N_STATE_HEAD)
    w.norm(f"{b}.ssm_d", N_STATE_HEAD)
    for name, n in (("dt", D_STEP), ("b", D_STATE), ("c", D_STATE)):
        w.norm(f"{b}.ssm_{name}_norm", n)
    w.matrix(f"{b}.ssm_out.weight", s.n_embd, d_inner, gain=ATTN_OUT_GAIN)


def _ungated_experts(w: Weights, s: Shape, b: str) -> None:
    router = f"{b}.ffn_gate_inp.weight"
    w.plain(router, w.normal(router, N_EXPERT, s.n_embd) * (2 / s.n_embd**0.5))
    w.bias(f"{b}.exp_probs_b.bias", N_EXPERT)
    w.matrix(f"{b}.ffn_up_exps.weight", N_EXPERT, s.n_ff, s.n_embd, gain=1.4)
    w.matrix(f"{b}.ffn_down_exps.weight", N_EXPERT, s.n_embd, s.n_ff)
    w.matrix(f"{b}.ffn_up_shexp.weight", s.n_ff, s.n_embd, gain=1.4)
    w.matrix(f"{b}.ffn_down_shexp.weight", s.n_embd, s.n_ff)


KINDS = {
    "plamo2": Kind("plamo2", _plamo2, grouped=True, memory="hybrid", n_layer=3),
    "mamba2": Kind("mamba2", _mamba2, tied=True, memory="recurrent"),
    "falcon-h1": Kind("falcon-h1", _falcon_h1, grouped=True, memory="hybrid"),
    "granitehybrid": Kind(
        "granitehybrid", _granitehybrid, grouped=True, memory="hybrid", n_layer=3
    ),
    "granitehybrid-moe": Kind(
        "granitehybrid", _granitehybrid_moe, grouped=True, memory="hybrid", n_ff=64, n_layer=3
    ),
    "nemotron_h": Kind("nemotron_h", _nemotron_h, grouped=True, memory="hybrid", n_layer=4),
    "nemotron_h_moe": Kind(
        "nemotron_h_moe", _nemotron_h_moe, grouped=True, memory="hybrid", n_ff=64, n_layer=4
    ),
    "nemotron_h_moe-mtp": Kind(
        "nemotron_h_moe",
        _nemotron_h_moe_mtp,
        grouped=True,
        memory="hybrid",
        n_ff=64,
        n_layer=4,
        n_mtp=1,
    ),
}
