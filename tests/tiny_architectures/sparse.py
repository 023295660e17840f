"""Attention that an indexer thins out: DeepSeek V3.2, GLM 5, Hunyuan 4, dots.3, MiniMax M3.

The indexers choose 32 cells or 2 blocks of 4: less than a text of 40 tokens, but so much that a
node sees its parent more often than not.
"""

from __future__ import annotations

from gguf import GGUFWriter

from tiny_architectures.parts import (
    D_NOPE,
    D_ROPE,
    D_VALUE,
    KV_RANK,
    Q_RANK,
    SIGMOID,
    Value,
    dense_then_experts,
    ends,
    expert_keys,
    latent_attention,
    latent_keys,
    model_keys,
    mtp_ends,
    normed_qk,
    stream_gates,
)
from tiny_models import QK_GAIN, Kind, Shape, Weights, blocks, separate_qkv

N_INDEX_HEAD, D_INDEX, TOP_K = 2, 64, 32
BLOCK_SIZE, TOP_K_BLOCKS, N_LOCAL_BLOCKS = 4, 2, 1
N_STREAM = 2
"""Residual streams of Hunyuan 4, which every part reads and writes through gates."""

INDEX_KEYS: dict[str, Value] = {
    "attention__indexer__head_count": N_INDEX_HEAD,
    "attention__indexer__key_length": D_INDEX,
    "attention__indexer__top_k": TOP_K,
}


def index(w: Weights, s: Shape, b: str) -> None:
    """What scores the cells for every query."""
    w.matrix(f"{b}.indexer.attn_q_b.weight", N_INDEX_HEAD * D_INDEX, Q_RANK, gain=QK_GAIN)
    w.matrix(f"{b}.indexer.attn_k.weight", D_INDEX, s.n_embd)
    w.layer_norm(f"{b}.indexer.k_norm", D_INDEX)
    w.matrix(f"{b}.indexer.proj.weight", N_INDEX_HEAD, s.n_embd)


def _router_keys(g: GGUFWriter, s: Shape) -> None:
    expert_keys(
        g,
        s,
        leading_dense_block_count=1,
        expert_shared_count=1,
        expert_gating_func=SIGMOID,
        expert_weights_norm=True,
        expert_weights_scale=1.5,
    )


def _deepseek32(g: GGUFWriter, w: Weights, s: Shape, stops: bool) -> None:
    _dsa(g, w, s, stops, [True] * s.n_layer)


def _deepseek32_mtp(g: GGUFWriter, w: Weights, s: Shape, stops: bool) -> None:
    _deepseek32(g, w, s, stops)
    _mtp_block(g, w, s)


def _mtp_block(g: GGUFWriter, w: Weights, s: Shape) -> None:
    g.add_nextn_predict_layers(1)
    b = f"blk.{s.n_layer}"
    _dsa_block(w, s, b, s.n_layer)
    index(w, s, b)
    mtp_ends(w, s, b)


def _glm_dsa(g: GGUFWriter, w: Weights, s: Shape, stops: bool) -> None:
    """Every second layer takes over what the one before it has chosen."""
    owns = [layer % 2 == 0 for layer in range(s.n_layer)]
    _dsa(g, w, s, stops, owns, attention__indexer__types=owns)


def _glm_dsa_mtp(g: GGUFWriter, w: Weights, s: Shape, stops: bool) -> None:
    _glm_dsa(g, w, s, stops)
    _mtp_block(g, w, s)


def _dsa(g: GGUFWriter, w: Weights, s: Shape, stops: bool, owns: list[bool], **more: Value) -> None:
    latent_keys(g, s, **INDEX_KEYS, **more)
    _router_keys(g, s)
    ends(w, s, stops)
    for layer, b in enumerate(blocks(s)):
        _dsa_block(w, s, b, layer)
        if owns[layer]:
            index(w, s, b)


def _dsa_block(w: Weights, s: Shape, b: str, layer: int) -> None:
    w.norm(f"{b}.attn_norm.weight", s.n_embd)
    latent_attention(w, s, b)
    dense_then_experts(w, s, b, layer)


def _hy_v4(g: GGUFWriter, w: Weights, s: Shape, stops: bool) -> None:
    owns = [layer % 2 == 0 for layer in range(s.n_layer)]
    latent_keys(
        g,
        s,
        **INDEX_KEYS,
        attention__indexer__types=owns,
        hyper_connection__count=N_STREAM,
        hyper_connection__epsilon=1e-6,
        hyper_connection__magnitude=2.0,
    )
    _router_keys(g, s)
    ends(w, s, stops)
    stream_gates(w, s, "output_hc", n_stream=N_STREAM, n_gate=N_STREAM, n_scale=1)
    for layer, b in enumerate(blocks(s)):
        _dsa_block(w, s, b, layer)
        w.bias(f"{b}.attn_sinks.weight", s.n_head)
        w.matrix(f"{b}.attn_gate.weight", s.n_head * D_VALUE, s.n_embd)
        if owns[layer]:
            index(w, s, b)
        for part in ("attn", "ffn"):
            stream_gates(w, s, f"{b}.hc_{part}", n_stream=N_STREAM, n_gate=2 * N_STREAM, n_scale=2)


def _dots3note(g: GGUFWriter, w: Weights, s: Shape, stops: bool) -> None:
    """The first layer has a window, if there is one, the others an indexer each."""
    has_window = [layer == 0 and s.n_swa > 0 for layer in range(s.n_layer)]
    latent_keys(
        g,
        s,
        **INDEX_KEYS,
        attention__indexer__types=[not window for window in has_window],
        attention__sliding_window=s.n_swa,
        attention__sliding_window_pattern=has_window,
        attention__kv_lora_rank_swa=KV_RANK,
        attention__key_length_swa=KV_RANK + D_ROPE,
        attention__value_length_swa=KV_RANK,
        attention__key_length_mla_swa=D_NOPE + D_ROPE,
        attention__value_length_mla_swa=D_VALUE,
        rope__freq_base_swa=10000.0,
    )
    _router_keys(g, s)
    ends(w, s, stops)
    for layer, b in enumerate(blocks(s)):
        _dsa_block(w, s, b, layer)
        w.norm(f"{b}.attn_k_norm.weight", D_ROPE, mean=QK_GAIN)
        w.matrix(f"{b}.attn_gate.weight", s.n_head, s.n_embd)
        if not has_window[layer]:
            index(w, s, b)


def _minimax_m3(g: GGUFWriter, w: Weights, s: Shape, stops: bool) -> None:
    """Blocks of positions are chosen, by a head of the indexer for each head of K and V."""
    model_keys(
        g,
        s,
        attention__indexer__head_count=s.n_head_kv,
        attention__indexer__key_length=s.head_dim,
        attention__indexer__top_k=TOP_K_BLOCKS,
        attention__indexer__block_size=BLOCK_SIZE,
        attention__indexer__local_blocks=N_LOCAL_BLOCKS,
    )
    _router_keys(g, s)
    ends(w, s, stops)
    for layer, b in enumerate(blocks(s)):
        w.norm(f"{b}.attn_norm.weight", s.n_embd)
        separate_qkv(w, s, b, gain=1.0)
        normed_qk(w, s, b)
        dense_then_experts(w, s, b, layer)
        if layer > 0:
            w.matrix(f"{b}.indexer.q_proj.weight", s.n_head_kv * s.head_dim, s.n_embd)
            w.matrix(f"{b}.indexer.k_proj.weight", s.head_dim, s.n_embd)
            w.norm(f"{b}.indexer.q_norm.weight", s.head_dim, mean=QK_GAIN)
            w.norm(f"{b}.indexer.k_norm.weight", s.head_dim, mean=QK_GAIN)


KINDS = {
    "deepseek32": Kind("deepseek32", _deepseek32, n_ff=64),
    "deepseek32-mtp": Kind("deepseek32", _deepseek32_mtp, n_ff=64, n_mtp=1),
    "glm-dsa": Kind("glm-dsa", _glm_dsa, n_ff=64, n_layer=3),
    "glm-dsa-mtp": Kind("glm-dsa", _glm_dsa_mtp, n_ff=64, n_layer=3, n_mtp=1),
    "hy_v4": Kind("hy_v4", _hy_v4, n_ff=64, n_layer=3),
    "dots3note": Kind("dots3note", _dots3note, n_ff=64, n_layer=3),
    "minimax-m3": Kind("minimax-m3", _minimax_m3, grouped=True, n_ff=64, n_layer=3),
}
