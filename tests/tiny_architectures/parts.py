"""Parts that several architectures share: keys, attention over latents, experts, state spaces.

Names and shapes are llama.cpp's; an array's shape is that of a GGUF tensor read backwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from gguf import GGUFWriter

from tiny_models import (
    ATTN_OUT_GAIN,
    N_EXPERT,
    N_EXPERT_USED,
    QK_GAIN,
    Shape,
    Weights,
    embeddings,
    expert_ffn,
    gated_ffn,
)

Value = bool | int | float | str | Sequence[bool] | Sequence[int] | Sequence[float]

SIGMOID, SQRT_SOFTPLUS = 2, 4
"""How a router turns its scores into weights: llama.cpp's `expert_gating_func`."""

Q_RANK, KV_RANK = 32, 64
D_NOPE, D_ROPE, D_VALUE = 32, 32, 32
"""A head of latent attention: query and key have a part with no position and one with rotation."""

D_CONV = 4
N_GROUP, N_STATE_HEAD, D_STATE = 2, 4, 16
"""Of a Mamba-2 mixer, whose `N_STATE_HEAD` heads share `2 * n_embd` channels."""


def add_keys(g: GGUFWriter, keys: Mapping[str, Value]) -> None:
    """Add keys of the architecture, in llama.cpp's names without the architecture's own."""
    for name, value in keys.items():
        key = f"{g.arch}.{name}"
        if isinstance(value, bool):
            g.add_bool(key, value)
        elif isinstance(value, int):
            g.add_uint32(key, value)
        elif isinstance(value, float):
            g.add_float32(key, value)
        elif isinstance(value, str):
            g.add_string(key, value)
        else:
            g.add_array(key, list(value))


def attends(layer: int) -> bool:
    """Whether a layer of a hybrid model has attention: one between two recurrent ones."""
    return layer % 3 == 1


def only_attending(s: Shape, n: int, n_mtp: int = 0) -> list[int]:
    """`n` for a layer with attention, 0 for a recurrent one; all of `n_mtp` more attend."""
    return [n if attends(layer) else 0 for layer in range(s.n_layer)] + [n] * n_mtp


def model_keys(g: GGUFWriter, s: Shape, **more: Value) -> None:
    """Sizes that nearly all decoders ask for; names of more with `__` for a dot."""
    keys: dict[str, Value] = {
        "feed_forward_length": s.n_ff,
        "attention.head_count": s.n_head,
        "attention.head_count_kv": s.n_head_kv,
        "attention.key_length": s.head_dim,
        "attention.value_length": s.head_dim,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.dimension_count": s.head_dim,
    }
    add_keys(g, keys | {name.replace("__", "."): value for name, value in more.items()})


def expert_keys(g: GGUFWriter, s: Shape, **more: Value) -> None:
    keys: dict[str, Value] = {
        "expert_count": N_EXPERT,
        "expert_used_count": N_EXPERT_USED,
        "expert_feed_forward_length": s.n_ff,
    }
    add_keys(g, keys | more)


def ends(w: Weights, s: Shape, stops: bool) -> None:
    embeddings(w, s, stops=stops)
    w.norm("output_norm.weight", s.n_embd)


def experts(w: Weights, s: Shape, b: str, *, shared: int = 0, biased: bool = False) -> None:
    """Routed experts, with a bias on the router's scores and `shared` experts for every token."""
    expert_ffn(w, s, b)
    if biased:
        w.bias(f"{b}.exp_probs_b.bias", N_EXPERT)
    if shared:
        shared_expert(w, s, b, shared * s.n_ff)


def shared_expert(w: Weights, s: Shape, b: str, n_ff: int) -> None:
    w.matrix(f"{b}.ffn_gate_shexp.weight", n_ff, s.n_embd, gain=1.4)
    w.matrix(f"{b}.ffn_up_shexp.weight", n_ff, s.n_embd, gain=1.4)
    w.matrix(f"{b}.ffn_down_shexp.weight", s.n_embd, n_ff)


def dense_then_experts(
    w: Weights, s: Shape, b: str, layer: int, *, biased: bool = True, shared: int = 1
) -> None:
    """The feed-forward part where one leading block is dense."""
    w.norm(f"{b}.ffn_norm.weight", s.n_embd)
    if layer == 0:
        gated_ffn(w, s, b)
    else:
        experts(w, s, b, shared=shared, biased=biased)


def normed_qk(w: Weights, s: Shape, b: str) -> None:
    """Norms of queries and keys, which alone set the spread of the scores."""
    w.norm(f"{b}.attn_q_norm.weight", s.head_dim, mean=QK_GAIN)
    w.norm(f"{b}.attn_k_norm.weight", s.head_dim, mean=QK_GAIN)


# --- attention over latents ---------------------------------------------------------------------


def latent_keys(g: GGUFWriter, s: Shape, q_rank: int = Q_RANK, /, **more: Value) -> None:
    """One K/V head for all: a latent of `KV_RANK` channels and a rotated part of `D_ROPE`."""
    if q_rank:
        more["attention__q_lora_rank"] = q_rank
    model_keys(
        g,
        s,
        **{
            "attention__head_count_kv": 1,
            "attention__key_length": KV_RANK + D_ROPE,
            "attention__value_length": KV_RANK,
            "attention__kv_lora_rank": KV_RANK,
            "attention__key_length_mla": D_NOPE + D_ROPE,
            "attention__value_length_mla": D_VALUE,
            "rope__dimension_count": D_ROPE,
        }
        | more,
    )


def latent_attention(
    w: Weights, s: Shape, b: str, *, q_rank: int = Q_RANK, d_rope: int = D_ROPE
) -> None:
    """Multi-head latent attention, with the keys' and values' expansion split by head."""
    n_q = s.n_head * (D_NOPE + d_rope)
    if q_rank:
        w.matrix(f"{b}.attn_q_a.weight", q_rank, s.n_embd)
        w.norm(f"{b}.attn_q_a_norm.weight", q_rank)
        w.matrix(f"{b}.attn_q_b.weight", n_q, q_rank, gain=QK_GAIN)
    else:
        w.matrix(f"{b}.attn_q.weight", n_q, s.n_embd, gain=QK_GAIN)
    w.matrix(f"{b}.attn_kv_a_mqa.weight", KV_RANK + d_rope, s.n_embd, gain=QK_GAIN)
    w.norm(f"{b}.attn_kv_a_norm.weight", KV_RANK)
    # The product runs over D_NOPE, but a key is a sum over KV_RANK.
    gain = QK_GAIN * (D_NOPE / KV_RANK) ** 0.5
    w.matrix(f"{b}.attn_k_b.weight", s.n_head, KV_RANK, D_NOPE, gain=gain)
    w.matrix(f"{b}.attn_v_b.weight", s.n_head, D_VALUE, KV_RANK)
    w.matrix(f"{b}.attn_output.weight", s.n_embd, s.n_head * D_VALUE, gain=ATTN_OUT_GAIN)


def stream_gates(
    w: Weights, s: Shape, stem: str, *, n_stream: int, n_gate: int, n_scale: int
) -> None:
    """Gates between a layer and the residual streams, from all streams, in groups with a scale."""
    w.matrix(f"{stem}_fn.weight", n_gate, n_stream * s.n_embd)
    w.bias(f"{stem}_base.weight", n_gate)
    w.norm(f"{stem}_scale.weight", n_scale)


def mtp_ends(w: Weights, s: Shape, b: str, *, norm: str = "nextn.shared_head_norm") -> None:
    """What a block that predicts several tokens has besides: it joins a token and a state."""
    w.matrix(f"{b}.nextn.eh_proj.weight", s.n_embd, 2 * s.n_embd)
    for name in ("nextn.enorm", "nextn.hnorm", norm):
        w.norm(f"{b}.{name}.weight", s.n_embd)


# --- state spaces -------------------------------------------------------------------------------


def mamba2_keys(g: GGUFWriter, s: Shape, n_group: int = N_GROUP) -> None:
    add_keys(
        g,
        {
            "ssm.conv_kernel": D_CONV,
            "ssm.inner_size": 2 * s.n_embd,
            "ssm.state_size": D_STATE,
            "ssm.time_step_rank": N_STATE_HEAD,
            "ssm.group_count": n_group,
        },
    )


def conv(w: Weights, name: str, *shape: int) -> None:
    """A causal convolution along the tokens, one filter a channel."""
    w.plain(name, w.normal(name, *shape) / shape[-1] ** 0.5)


def decay(w: Weights, b: str, n: int, *shape: int) -> None:
    """Decays of `n` heads and what is added to their time steps.

    softplus(-2) is about 0.13: half of a state is left after 3 steps in the last head and after
    50 in the first one.
    """
    w.plain(f"{b}.ssm_dt.bias", w.normal(f"{b}.ssm_dt.bias", n) * 0.3 - 2.0)
    w.plain(f"{b}.ssm_a", -np.geomspace(0.1, 2.0, n).reshape(shape or (n,)))


def mamba2_mixer(w: Weights, s: Shape, b: str) -> None:
    d_inner, d_bc = 2 * s.n_embd, 2 * N_GROUP * D_STATE
    w.matrix(f"{b}.ssm_in.weight", 2 * d_inner + d_bc + N_STATE_HEAD, s.n_embd, gain=1.4)
    conv(w, f"{b}.ssm_conv1d.weight", d_inner + d_bc, D_CONV)
    w.bias(f"{b}.ssm_conv1d.bias", d_inner + d_bc)
    decay(w, b, N_STATE_HEAD, N_STATE_HEAD, 1)
    w.plain(f"{b}.ssm_d", 1 + 0.1 * w.normal(f"{b}.ssm_d", N_STATE_HEAD, 1))
    norm = f"{b}.ssm_norm.weight"
    w.plain(norm, 1 + 0.1 * w.normal(norm, N_GROUP, d_inner // N_GROUP))
    w.matrix(f"{b}.ssm_out.weight", s.n_embd, d_inner, gain=ATTN_OUT_GAIN)
