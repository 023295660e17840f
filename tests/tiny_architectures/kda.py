"""Kimi delta attention, whose decay is one for each channel, beside attention over latents."""

from __future__ import annotations

import numpy as np
from gguf import GGUFWriter

from tiny_architectures.parts import (
    D_CONV,
    D_NOPE,
    D_VALUE,
    KV_RANK,
    SIGMOID,
    Value,
    attends,
    conv,
    dense_then_experts,
    ends,
    expert_keys,
    latent_attention,
    latent_keys,
    mtp_ends,
    only_attending,
    stream_gates,
)
from tiny_architectures.sparse import D_INDEX, INDEX_KEYS, index
from tiny_models import ATTN_OUT_GAIN, HEAD_DIM, Kind, Shape, Weights, Writer, blocks

D_HEAD = HEAD_DIM
N_STREAM = 4  # the only number that GLM 5 Next may have
K_POOL = 4


def _keys(g: GGUFWriter, s: Shape, q_rank: int, n_mtp: int = 0, /, **more: Value) -> None:
    latent_keys(
        g,
        s,
        q_rank,
        attention__head_count_kv=only_attending(s, 1, n_mtp),
        ssm__conv_kernel=D_CONV,
        kda__head_dim=D_HEAD,
        leading_dense_block_count=1,
        **more,
    )
    expert_keys(
        g,
        s,
        expert_shared_count=1,
        expert_gating_func=SIGMOID,
        expert_weights_norm=True,
        expert_weights_scale=1.5,
    )


def _mixer(w: Weights, s: Shape, b: str) -> None:
    """Queries, keys and values with a convolution each; decays and gates are added by others."""
    d_inner = s.n_head * D_HEAD
    for name in "qkv":
        w.matrix(f"{b}.attn_{name}.weight", d_inner, s.n_embd, gain=1.4)
        conv(w, f"{b}.ssm_conv1d_{name}.weight", d_inner, 1, D_CONV)
    w.matrix(f"{b}.ssm_beta.weight", s.n_head, s.n_embd)
    w.norm(f"{b}.ssm_norm.weight", D_HEAD)
    w.matrix(f"{b}.attn_output.weight", s.n_embd, d_inner, gain=ATTN_OUT_GAIN)


def _narrow(w: Weights, s: Shape, b: str, name: str) -> None:
    """A product in two parts, through as many channels as a head has."""
    w.matrix(f"{b}.ssm_{name}_a.weight", D_HEAD, s.n_embd)
    w.matrix(f"{b}.ssm_{name}_b.weight", s.n_head * D_HEAD, D_HEAD)


def _softplus_decay(w: Weights, s: Shape, b: str, *shape: int) -> None:
    """A decay of exp(a * softplus(...)), as in `parts.decay`."""
    bias = f"{b}.ssm_dt.bias"
    w.plain(bias, w.normal(bias, s.n_head * D_HEAD) * 0.3 - 2.0)
    w.plain(f"{b}.ssm_a", -np.geomspace(0.1, 2.0, s.n_head).reshape(shape or (s.n_head,)))


def _bounded_decay(w: Weights, s: Shape, b: str, a: float, *shape: int) -> None:
    """A decay of exp(-5 * sigmoid(...)): at -4, half is left after 8 tokens, at -5 after 20."""
    bias = f"{b}.ssm_dt.bias"
    w.plain(bias, w.normal(bias, s.n_head * D_HEAD) * 0.5 - 4.5)
    values = 1 + 0.1 * w.normal(f"{b}.ssm_a", s.n_head)
    w.plain(f"{b}.ssm_a", a * values.reshape(shape or (s.n_head,)))


def _kimi_linear(g: GGUFWriter, w: Weights, s: Shape, stops: bool) -> None:
    _keys(g, s, 0)
    ends(w, s, stops)
    for layer, b in enumerate(blocks(s)):
        w.norm(f"{b}.attn_norm.weight", s.n_embd)
        if attends(layer):
            latent_attention(w, s, b, q_rank=0)
        else:
            _mixer(w, s, b)
            _narrow(w, s, b, "f")
            _narrow(w, s, b, "g")
            _softplus_decay(w, s, b, s.n_head, 1)
        dense_then_experts(w, s, b, layer)


def _kimi_k3(g: GGUFWriter, w: Weights, s: Shape, stops: bool) -> None:
    _keys(
        g,
        s,
        32,
        kda__gate_lower_bound=-5.0,
        attn_res__block_size=2,
        activation__situ_beta=4.0,
        activation__situ_linear_beta=4.0,
    )
    ends(w, s, stops)
    w.norm("output_res_score.weight", s.n_embd)
    for layer, b in enumerate(blocks(s)):
        w.norm(f"{b}.attn_norm.weight", s.n_embd)
        for part in ("attn", "ffn"):
            score = f"{b}.{part}_res_score.weight"
            w.plain(score, w.normal(score, s.n_embd) / s.n_embd**0.5)
        if attends(layer):
            latent_attention(w, s, b)
            w.matrix(f"{b}.attn_gate.weight", s.n_head * D_VALUE, s.n_embd)
        else:
            _mixer(w, s, b)
            _narrow(w, s, b, "f")
            w.matrix(f"{b}.ssm_g.weight", s.n_head * D_HEAD, s.n_embd)
            _bounded_decay(w, s, b, -1.0)
        dense_then_experts(w, s, b, layer)


def _bailingmoe3(g: GGUFWriter, w: Weights, s: Shape, stops: bool, n_mtp: int = 0) -> None:
    sections = [6, 5, 5, 0]
    _keys(g, s, 32, n_mtp, kda__gate_lower_bound=-5.0, rope__dimension_sections=sections)
    ends(w, s, stops)
    for layer, b in enumerate(blocks(s)):
        w.norm(f"{b}.attn_norm.weight", s.n_embd)
        if attends(layer):
            latent_attention(w, s, b)
            w.matrix(f"{b}.attn_gate.weight", s.n_head, s.n_embd)
        else:
            _mixer(w, s, b)
            w.matrix(f"{b}.ssm_f_a.weight", s.n_head * D_HEAD, s.n_embd)
            w.matrix(f"{b}.ssm_g_a.weight", s.n_head * D_HEAD, s.n_embd)
            _bounded_decay(w, s, b, 1.0, s.n_head, 1)
        dense_then_experts(w, s, b, layer)


def _bailingmoe3_mtp(g: GGUFWriter, w: Weights, s: Shape, stops: bool) -> None:
    _bailingmoe3(g, w, s, stops, n_mtp=1)
    g.add_nextn_predict_layers(1)
    b = f"blk.{s.n_layer}"
    w.norm(f"{b}.attn_norm.weight", s.n_embd)
    latent_attention(w, s, b)
    w.matrix(f"{b}.attn_gate.weight", s.n_head, s.n_embd)
    dense_then_experts(w, s, b, s.n_layer)
    mtp_ends(w, s, b, norm="layer_output_norm")


def _glm5_next(g: GGUFWriter, w: Weights, s: Shape, stops: bool) -> None:
    """With residual streams, keys that no position rotates, and an indexer over pools of cells."""
    _keys(
        g,
        s,
        32,
        **INDEX_KEYS,
        rope__dimension_count=0,
        attention__key_length=KV_RANK,
        attention__key_length_mla=D_NOPE,
        attention__indexer__kpool=K_POOL,
        attention__layer_norm_epsilon=1e-5,
        hyper_connection__count=N_STREAM,
        hyper_connection__sinkhorn_iterations=4,
        hyper_connection__epsilon=1e-6,
    )
    ends(w, s, stops)
    n_gate = (2 + N_STREAM) * N_STREAM
    for layer, b in enumerate(blocks(s)):
        w.norm(f"{b}.attn_norm.weight", s.n_embd)
        for part in ("attn", "ffn"):
            stream_gates(w, s, f"{b}.hc_{part}", n_stream=N_STREAM, n_gate=n_gate, n_scale=3)
        if attends(layer):
            latent_attention(w, s, b, d_rope=0)
            index(w, s, b)
            w.matrix(f"{b}.indexer_compressor_gate.weight", D_INDEX, s.n_embd)
            ape = f"{b}.indexer_compressor_ape.weight"
            w.plain(ape, 0.1 * w.normal(ape, K_POOL, D_INDEX))
        else:
            _mixer(w, s, b)
            _narrow(w, s, b, "f")
            _narrow(w, s, b, "g")
            _softplus_decay(w, s, b)
        dense_then_experts(w, s, b, layer)


def _kind(arch: str, write: Writer, n_mtp: int = 0) -> Kind:
    return Kind(arch, write, memory="hybrid", n_ff=64, n_layer=3, n_mtp=n_mtp)


KINDS = {
    "kimi-linear": _kind("kimi-linear", _kimi_linear),
    "kimi-k3": _kind("kimi-k3", _kimi_k3),
    "bailingmoe3": _kind("bailingmoe3", _bailingmoe3),
    "bailingmoe3-mtp": _kind("bailingmoe3", _bailingmoe3_mtp, n_mtp=1),
    "glm5-next": _kind("glm5-next", _glm5_next),
}
