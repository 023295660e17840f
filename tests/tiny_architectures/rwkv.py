"""RWKV 6 and 7, and their mixers in the blocks of Qwen."""

from __future__ import annotations

import numpy as np
from gguf import GGUFWriter

from tiny_architectures.parts import add_keys
from tiny_models import ATTN_OUT_GAIN, HEAD_DIM, Kind, Shape, Weights, blocks, embeddings, gated_ffn

D_MIX, D_DECAY, D_LOW = 16, 16, 16
"""Channels of the products in two parts."""


def _keys(g: GGUFWriter, s: Shape, n_shift: int, d_head: int, head_count: int = 0) -> None:
    """`n_shift`: in how many places of a layer the token before is mixed in."""
    add_keys(
        g,
        {
            "feed_forward_length": s.n_ff,
            "attention.head_count": head_count,
            "attention.layer_norm_epsilon": 1e-5,
            "attention.layer_norm_rms_epsilon": 1e-5,
            "wkv.head_size": d_head,
            "token_shift_count": n_shift,
        },
    )


def _ends(w: Weights, s: Shape, stops: bool) -> None:
    embeddings(w, s, stops=stops)
    w.layer_norm("token_embd_norm", s.n_embd)
    w.layer_norm("output_norm", s.n_embd)


def _shares(w: Weights, name: str, *shape: int) -> None:
    """How much of the token before is mixed in, by channel."""
    uniform = 0.5 + 0.25 * w.normal(name, *shape)
    w.plain(name, np.clip(uniform, 0, 1))


# --- RWKV 6 -------------------------------------------------------------------------------------


def _rwkv6(g: GGUFWriter, w: Weights, s: Shape, stops: bool) -> None:
    _keys(g, s, 2, HEAD_DIM)
    _rwkv6_keys(g)
    _ends(w, s, stops)
    for b in blocks(s):
        w.layer_norm(f"{b}.attn_norm", s.n_embd)
        w.layer_norm(f"{b}.attn_norm_2", s.n_embd)
        _time_mix6(w, s, b, s.n_embd)
        first = f"{b}.time_mix_first.weight"
        w.plain(first, 0.5 * w.normal(first, s.n_embd // HEAD_DIM, HEAD_DIM))
        w.layer_norm(f"{b}.time_mix_ln", s.n_embd)
        for name in "kr":
            _shares(w, f"{b}.channel_mix_lerp_{name}.weight", 1, 1, s.n_embd)
        w.matrix(f"{b}.channel_mix_receptance.weight", s.n_embd, s.n_embd)
        _channel_mix(w, s, b)


def _rwkv6qwen2(g: GGUFWriter, w: Weights, s: Shape, stops: bool) -> None:
    _keys(g, s, 1, HEAD_DIM, s.n_embd // HEAD_DIM)
    g.add_head_count_kv(s.n_embd // HEAD_DIM // 2)
    _rwkv6_keys(g)
    embeddings(w, s, stops=stops)
    w.norm("output_norm.weight", s.n_embd)
    for b in blocks(s):
        w.norm(f"{b}.attn_norm.weight", s.n_embd)
        _time_mix6(w, s, b, s.n_embd // 2)
        w.norm(f"{b}.ffn_norm.weight", s.n_embd)
        gated_ffn(w, s, b)


def _rwkv6_keys(g: GGUFWriter) -> None:
    add_keys(g, {"time_mix_extra_dim": D_MIX, "time_decay_extra_dim": D_DECAY})


def _time_mix6(w: Weights, s: Shape, b: str, n_key: int) -> None:
    w.matrix(f"{b}.time_mix_w1.weight", 5 * D_MIX, s.n_embd)
    w.matrix(f"{b}.time_mix_w2.weight", 5, s.n_embd, D_MIX, gain=0.3)
    _shares(w, f"{b}.time_mix_lerp_x.weight", 1, 1, s.n_embd)
    _shares(w, f"{b}.time_mix_lerp_fused.weight", 5, 1, 1, s.n_embd)
    # exp(-exp(x)): half is left after 1 token at x = -0.4, after 50 at -4.3.
    w.plain(
        f"{b}.time_mix_decay.weight",
        np.tile(np.linspace(-4.5, -0.5, HEAD_DIM), s.n_embd // HEAD_DIM),
    )
    w.matrix(f"{b}.time_mix_decay_w1.weight", D_DECAY, s.n_embd)
    w.matrix(f"{b}.time_mix_decay_w2.weight", s.n_embd, D_DECAY, gain=0.5)
    w.matrix(f"{b}.time_mix_key.weight", n_key, s.n_embd)
    w.matrix(f"{b}.time_mix_value.weight", n_key, s.n_embd)
    for name in ("receptance", "gate"):
        w.matrix(f"{b}.time_mix_{name}.weight", s.n_embd, s.n_embd, gain=1.4)
    w.matrix(f"{b}.time_mix_output.weight", s.n_embd, s.n_embd, gain=ATTN_OUT_GAIN)


def _channel_mix(w: Weights, s: Shape, b: str) -> None:
    w.matrix(f"{b}.channel_mix_key.weight", s.n_ff, s.n_embd)
    w.matrix(f"{b}.channel_mix_value.weight", s.n_embd, s.n_ff)


# --- RWKV 7 -------------------------------------------------------------------------------------


def _rwkv7(g: GGUFWriter, w: Weights, s: Shape, stops: bool) -> None:
    _keys(g, s, 2, HEAD_DIM)
    _rwkv7_keys(g)
    _ends(w, s, stops)
    for b in blocks(s):
        w.layer_norm(f"{b}.attn_norm", s.n_embd)
        w.layer_norm(f"{b}.attn_norm_2", s.n_embd)
        _time_mix7(w, s, b)
        w.layer_norm(f"{b}.time_mix_ln", s.n_embd)
        _shares(w, f"{b}.channel_mix_lerp_k.weight", 1, 1, s.n_embd)
        _channel_mix(w, s, b)


def _arwkv7(g: GGUFWriter, w: Weights, s: Shape, stops: bool) -> None:
    _keys(g, s, 1, HEAD_DIM)
    _rwkv7_keys(g)
    embeddings(w, s, stops=stops)
    w.norm("output_norm.weight", s.n_embd)
    for b in blocks(s):
        w.norm(f"{b}.attn_norm.weight", s.n_embd)
        _time_mix7(w, s, b)
        w.layer_norm(f"{b}.time_mix_ln", s.n_embd)
        w.norm(f"{b}.ffn_norm.weight", s.n_embd)
        gated_ffn(w, s, b)


def _rwkv7_keys(g: GGUFWriter) -> None:
    names = ("decay", "iclr", "value_residual_mix", "gate")
    add_keys(g, {f"attention.{name}_lora_rank": D_LOW for name in names})


def _time_mix7(w: Weights, s: Shape, b: str) -> None:
    # The decay is exp(-0.6 * sigmoid(w)): half is left after 9 tokens at -2, after 24 at -3.
    for name, base in (("w", -2.5), ("a", -1.0), ("v", 0.0)):
        bias = f"{b}.time_mix_{name}0.weight"
        w.plain(bias, base + 0.5 * w.normal(bias, s.n_embd))
    for name in "wavg":
        w.matrix(f"{b}.time_mix_{name}1.weight", D_LOW, s.n_embd)
        w.matrix(f"{b}.time_mix_{name}2.weight", s.n_embd, D_LOW, gain=2.0 if name == "g" else 0.7)
    _shares(w, f"{b}.time_mix_lerp_fused.weight", 6, 1, 1, s.n_embd)
    for name in ("k_k", "k_a"):
        w.norm(f"{b}.time_mix_{name}.weight", s.n_embd)
    bonus = f"{b}.time_mix_r_k.weight"
    w.plain(bonus, 0.3 * w.normal(bonus, s.n_embd))
    for name in ("key", "value", "receptance"):
        w.matrix(f"{b}.time_mix_{name}.weight", s.n_embd, s.n_embd)
    w.matrix(f"{b}.time_mix_output.weight", s.n_embd, s.n_embd, gain=ATTN_OUT_GAIN)


KINDS = {
    "rwkv6": Kind("rwkv6", _rwkv6, tied=True, memory="recurrent"),
    "rwkv6qwen2": Kind("rwkv6qwen2", _rwkv6qwen2, tied=True, memory="recurrent"),
    "rwkv7": Kind("rwkv7", _rwkv7, tied=True, memory="recurrent"),
    "arwkv7": Kind("arwkv7", _arwkv7, tied=True, memory="recurrent"),
}
