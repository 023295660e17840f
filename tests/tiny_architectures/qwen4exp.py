"""Qwen4: gated delta nets beside indexed attention, between four residual streams."""

from __future__ import annotations

from gguf import GGUFWriter

from tiny_architectures.deltanet import (
    N_VALUE_HEAD,
    delta_keys,
    delta_net,
    gated_attention,
    gated_shared_experts,
)
from tiny_architectures.parts import attends, expert_keys, model_keys
from tiny_models import QK_GAIN, Kind, Shape, Weights, blocks, embeddings

N_STREAM, LOW_RANK = 4, 16
N_INDEX_HEAD, TOP_K, POOL = 2, 32, 4
N_GRAM, N_HASH, N_ROW = 3, 2, 97
"""Embeddings of 2- and 3-grams: `N_HASH` tables of `N_ROW` rows for each length."""


def _qwen4exp(g: GGUFWriter, w: Weights, s: Shape, stops: bool) -> None:
    model_keys(
        g,
        s,
        rope__dimension_sections=[s.head_dim // 2 - 10, 5, 5, 0],
        hyper_connection__count=N_STREAM,
        hyper_connection__low_rank=LOW_RANK,
        attention__indexer__head_count=N_INDEX_HEAD,
        attention__indexer__key_length=s.head_dim,
        attention__indexer__top_k=TOP_K,
        attention__compress_ratios=[POOL] * s.n_layer,
    )
    delta_keys(g, s)
    expert_keys(g, s, expert_shared_feed_forward_length=s.n_ff)
    embeddings(w, s, stops=stops)
    _streams(w, s, "output_hc")
    for layer, b in enumerate(blocks(s)):
        for part in ("attn", "ffn"):
            _streams(w, s, f"{b}.hc_{part}")
            w.matrix(f"{b}.hc_{part}_inject.weight", N_STREAM, N_STREAM * s.n_embd)
        if attends(layer):
            gated_attention(w, s, b)
            _index(w, s, b)
        else:
            delta_net(w, s, b)
            w.matrix(f"{b}.ssm_beta.weight", N_VALUE_HEAD, s.n_embd)
            w.matrix(f"{b}.ssm_alpha.weight", N_VALUE_HEAD, s.n_embd)
        gated_shared_experts(w, s, b)


def _streams(w: Weights, s: Shape, stem: str) -> None:
    """Norms of the streams and a gate on what each of them gives."""
    norm = f"{stem}_norm.weight"
    w.plain(norm, 2 * (1 + 0.1 * w.normal(norm, N_STREAM, s.n_embd)))
    w.matrix(f"{stem}_down.weight", LOW_RANK, N_STREAM * s.n_embd)
    w.matrix(f"{stem}_up.weight", N_STREAM * s.n_embd, LOW_RANK)


def _index(w: Weights, s: Shape, b: str) -> None:
    w.matrix(f"{b}.indexer.q_proj.weight", N_INDEX_HEAD * s.head_dim, s.n_embd)
    w.matrix(f"{b}.indexer.k_proj.weight", s.head_dim, s.n_embd)
    w.norm(f"{b}.indexer.q_norm.weight", s.head_dim, mean=QK_GAIN)
    w.norm(f"{b}.indexer.k_norm.weight", s.head_dim, mean=QK_GAIN)


KINDS = {
    "qwen4exp": Kind("qwen4exp", _qwen4exp, grouped=True, memory="hybrid", n_ff=64, n_layer=3),
}
