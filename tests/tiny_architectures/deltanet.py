"""Gated delta nets beside attention: Qwen3-Next and Qwen3.5, dense and with experts."""

from __future__ import annotations

from gguf import GGUFWriter

from tiny_architectures.parts import (
    D_CONV,
    add_keys,
    attends,
    conv,
    decay,
    ends,
    expert_keys,
    experts,
    model_keys,
    mtp_ends,
    normed_qk,
)
from tiny_models import (
    ATTN_OUT_GAIN,
    HEAD_DIM,
    Kind,
    Shape,
    Weights,
    Writer,
    attention_out,
    blocks,
    gated_ffn,
)

N_KEY_HEAD, N_VALUE_HEAD, D_HEAD = 2, 4, 64  # of whole vectors, as real heads of 128 are
D_KEYS, D_VALUES = N_KEY_HEAD * D_HEAD, N_VALUE_HEAD * D_HEAD


def delta_keys(g: GGUFWriter, s: Shape, n_mtp: int = 0) -> None:
    add_keys(
        g,
        {
            "ssm.conv_kernel": D_CONV,
            "ssm.inner_size": D_VALUES,
            "ssm.state_size": D_HEAD,
            "ssm.time_step_rank": N_VALUE_HEAD,
            "ssm.group_count": N_KEY_HEAD,
            "attention.recurrent_layers": [not attends(i) for i in range(s.n_layer)]
            + [False] * n_mtp,
        },
    )


def delta_net(w: Weights, s: Shape, b: str) -> None:
    w.matrix(f"{b}.attn_qkv.weight", 2 * D_KEYS + D_VALUES, s.n_embd, gain=1.4)
    w.matrix(f"{b}.attn_gate.weight", D_VALUES, s.n_embd, gain=1.4)
    conv(w, f"{b}.ssm_conv1d.weight", 2 * D_KEYS + D_VALUES, D_CONV)
    decay(w, b, N_VALUE_HEAD)
    w.norm(f"{b}.ssm_norm.weight", D_HEAD)
    w.matrix(f"{b}.ssm_out.weight", s.n_embd, D_VALUES, gain=ATTN_OUT_GAIN)


def gated_attention(w: Weights, s: Shape, b: str) -> None:
    """Attention whose query comes with a gate on the output, head by head."""
    w.matrix(f"{b}.attn_q.weight", 2 * s.n_head * s.head_dim, s.n_embd)
    w.matrix(f"{b}.attn_k.weight", s.n_head_kv * s.head_dim, s.n_embd)
    w.matrix(f"{b}.attn_v.weight", s.n_head_kv * s.head_dim, s.n_embd)
    normed_qk(w, s, b)
    attention_out(w, s, b)


def gated_shared_experts(w: Weights, s: Shape, b: str) -> None:
    experts(w, s, b, shared=1)
    gate = f"{b}.ffn_gate_inp_shexp.weight"
    w.plain(gate, w.normal(gate, s.n_embd) / s.n_embd**0.5)


def _qwen35(g: GGUFWriter, w: Weights, s: Shape, stops: bool, n_mtp: int = 0) -> None:
    _sectioned_rope_keys(g, s)
    delta_keys(g, s, n_mtp)
    ends(w, s, stops)
    for layer, b in enumerate(blocks(s)):
        _mixer(w, s, b, layer, joined=False)
        gated_ffn(w, s, b)


def _qwen35moe(g: GGUFWriter, w: Weights, s: Shape, stops: bool, n_mtp: int = 0) -> None:
    _sectioned_rope_keys(g, s)
    delta_keys(g, s, n_mtp)
    expert_keys(g, s, expert_shared_feed_forward_length=s.n_ff)
    ends(w, s, stops)
    for layer, b in enumerate(blocks(s)):
        _mixer(w, s, b, layer, joined=False)
        gated_shared_experts(w, s, b)


def _qwen3next(g: GGUFWriter, w: Weights, s: Shape, stops: bool, n_mtp: int = 0) -> None:
    model_keys(g, s)
    delta_keys(g, s, n_mtp)
    expert_keys(g, s, expert_shared_feed_forward_length=s.n_ff)
    ends(w, s, stops)
    for layer, b in enumerate(blocks(s)):
        _mixer(w, s, b, layer, joined=True)
        gated_shared_experts(w, s, b)


def _sectioned_rope_keys(g: GGUFWriter, s: Shape) -> None:
    pairs = HEAD_DIM // 2
    model_keys(g, s, rope__dimension_sections=[pairs - 10, 5, 5, 0])


def _mixer(w: Weights, s: Shape, b: str, layer: int, *, joined: bool) -> None:
    """One of three layers attends. `joined`: beta and alpha are one matrix."""
    w.norm(f"{b}.attn_norm.weight", s.n_embd)
    w.norm(f"{b}.post_attention_norm.weight", s.n_embd)
    if attends(layer):
        return gated_attention(w, s, b)
    delta_net(w, s, b)
    if joined:
        w.matrix(f"{b}.ssm_ba.weight", 2 * N_VALUE_HEAD, s.n_embd)
    else:
        w.matrix(f"{b}.ssm_beta.weight", N_VALUE_HEAD, s.n_embd)
        w.matrix(f"{b}.ssm_alpha.weight", N_VALUE_HEAD, s.n_embd)


def _qwen35_mtp(g: GGUFWriter, w: Weights, s: Shape, stops: bool) -> None:
    _qwen35(g, w, s, stops, n_mtp=1)
    gated_ffn(w, s, _mtp_block(g, w, s))


def _qwen35moe_mtp(g: GGUFWriter, w: Weights, s: Shape, stops: bool) -> None:
    _qwen35moe(g, w, s, stops, n_mtp=1)
    gated_shared_experts(w, s, _mtp_block(g, w, s))


def _qwen3next_mtp(g: GGUFWriter, w: Weights, s: Shape, stops: bool) -> None:
    _qwen3next(g, w, s, stops, n_mtp=1)
    gated_shared_experts(w, s, _mtp_block(g, w, s))


def _mtp_block(g: GGUFWriter, w: Weights, s: Shape) -> str:
    """All of the block but its feed-forward part."""
    g.add_nextn_predict_layers(1)
    b = f"blk.{s.n_layer}"
    w.norm(f"{b}.attn_norm.weight", s.n_embd)
    w.norm(f"{b}.post_attention_norm.weight", s.n_embd)
    gated_attention(w, s, b)
    mtp_ends(w, s, b)
    return b


def _kind(arch: str, write: Writer, *, n_ff: int = 64, n_mtp: int = 0) -> Kind:
    return Kind(arch, write, grouped=True, memory="hybrid", n_ff=n_ff, n_layer=3, n_mtp=n_mtp)


KINDS = {
    "qwen35": _kind("qwen35", _qwen35, n_ff=128),
    "qwen35-mtp": _kind("qwen35", _qwen35_mtp, n_ff=128, n_mtp=1),
    "qwen35moe": _kind("qwen35moe", _qwen35moe),
    "qwen35moe-mtp": _kind("qwen35moe", _qwen35moe_mtp, n_mtp=1),
    "qwen3next": _kind("qwen3next", _qwen3next),
    "qwen3next-mtp": _kind("qwen3next", _qwen3next_mtp, n_mtp=1),
}
