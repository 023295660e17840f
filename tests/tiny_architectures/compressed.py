"""Attention over a window and over compressed cells: DeepSeek V4."""

from __future__ import annotations

from gguf import GGUFWriter

from tiny_architectures.parts import (
    Q_RANK,
    SQRT_SOFTPLUS,
    ends,
    expert_keys,
    experts,
    model_keys,
    stream_gates,
)
from tiny_architectures.sparse import D_INDEX, N_INDEX_HEAD, TOP_K
from tiny_models import ATTN_OUT_GAIN, HEAD_DIM, QK_GAIN, Kind, Shape, Weights, blocks

N_STREAM = 4
N_OUT_GROUP, OUT_RANK = 2, 32
D_HEAD = 2 * HEAD_DIM
"""Channels of the one head of K and V; position rotates the second half of them."""

RATIOS = (0, 4, 128)
"""How many cells become one, in turn: the three that llama.cpp knows."""


def _deepseek4(g: GGUFWriter, w: Weights, s: Shape, stops: bool) -> None:
    ratios = [RATIOS[layer % len(RATIOS)] for layer in range(s.n_layer)]
    _keys(g, s, ratios)
    ends(w, s, stops)
    stream_gates(w, s, "output_hc", n_stream=N_STREAM, n_gate=N_STREAM, n_scale=1)
    n_gate = (2 + N_STREAM) * N_STREAM
    for ratio, b in zip(ratios, blocks(s), strict=True):
        for part in ("attn", "ffn"):
            stream_gates(w, s, f"{b}.hc_{part}", n_stream=N_STREAM, n_gate=n_gate, n_scale=3)
        _attention(w, s, b)
        if ratio:
            # Those of 4 cells overlap, and come with an indexer.
            n_half = 2 if ratio == 4 else 1
            _compressor(w, s, f"{b}.attn_compressor", n_half, D_HEAD, ratio)
        if ratio == 4:
            w.matrix(f"{b}.indexer.proj.weight", N_INDEX_HEAD, s.n_embd)
            w.matrix(f"{b}.indexer.attn_q_b.weight", N_INDEX_HEAD * D_INDEX, Q_RANK)
            _compressor(w, s, f"{b}.indexer_compressor", 2, D_INDEX, ratio)
        w.norm(f"{b}.ffn_norm.weight", s.n_embd)
        experts(w, s, b, shared=1, biased=True)


def _keys(g: GGUFWriter, s: Shape, ratios: list[int]) -> None:
    model_keys(
        g,
        s,
        attention__head_count_kv=1,
        attention__key_length=D_HEAD,
        attention__value_length=D_HEAD,
        attention__q_lora_rank=Q_RANK,
        attention__sliding_window=s.n_swa,
        attention__indexer__head_count=N_INDEX_HEAD,
        attention__indexer__key_length=D_INDEX,
        attention__indexer__top_k=TOP_K,
        attention__output_group_count=N_OUT_GROUP,
        attention__output_lora_rank=OUT_RANK,
        attention__compress_rope_freq_base=10000.0,
        attention__compress_ratios=ratios,
        hyper_connection__count=N_STREAM,
        hyper_connection__sinkhorn_iterations=4,
        hyper_connection__epsilon=1e-6,
        hash_layer_count=0,
        swiglu_clamp_exp=10.0,
        rope__dimension_count=HEAD_DIM,
    )
    expert_keys(
        g,
        s,
        expert_shared_count=1,
        expert_gating_func=SQRT_SOFTPLUS,
        expert_weights_norm=True,
        expert_weights_scale=1.5,
    )


def _attention(w: Weights, s: Shape, b: str) -> None:
    w.norm(f"{b}.attn_norm.weight", s.n_embd)
    w.bias(f"{b}.attn_sinks.weight", s.n_head)
    w.matrix(f"{b}.attn_q_a.weight", Q_RANK, s.n_embd)
    w.norm(f"{b}.attn_q_a_norm.weight", Q_RANK)
    w.matrix(f"{b}.attn_q_b.weight", s.n_head * D_HEAD, Q_RANK, gain=QK_GAIN)
    w.matrix(f"{b}.attn_kv.weight", D_HEAD, s.n_embd)
    w.norm(f"{b}.attn_kv_a_norm.weight", D_HEAD, mean=QK_GAIN)
    n_group = s.n_head * D_HEAD // N_OUT_GROUP
    w.matrix(f"{b}.attn_output_a.weight", N_OUT_GROUP, OUT_RANK, n_group)
    w.matrix(f"{b}.attn_output_b.weight", s.n_embd, N_OUT_GROUP * OUT_RANK, gain=ATTN_OUT_GAIN)


def _compressor(w: Weights, s: Shape, stem: str, n_half: int, n: int, ratio: int) -> None:
    """Makes one cell of `ratio`, by weights that hang on the cells and on their places."""
    w.matrix(f"{stem}_kv.weight", n_half * n, s.n_embd)
    w.matrix(f"{stem}_gate.weight", n_half * n, s.n_embd)
    w.plain(f"{stem}_ape.weight", 0.1 * w.normal(f"{stem}_ape.weight", ratio, n_half * n))
    w.norm(f"{stem}_norm.weight", n, mean=QK_GAIN)


KINDS = {
    "deepseek4": Kind("deepseek4", _deepseek4, memory="hybrid", n_ff=64, n_layer=3),
}
