"""Qwen4: gated delta nets beside indexed attention, between four residual streams."""

from __future__ import annotations

from gguf import GGUFValueType, GGUFWriter

from tiny_architectures.deltanet import (
    N_VALUE_HEAD,
    delta_keys,
    delta_net,
    gated_attention,
    gated_shared_experts,
)
from tiny_architectures.parts import add_keys, attends, conv, expert_keys, model_keys
from tiny_models import EOS, QK_GAIN, Kind, Shape, Weights, blocks, embeddings

N_STREAM, LOW_RANK = 4, 16
N_INDEX_HEAD, TOP_K, POOL = 2, 32, 4
N_GRAM, N_HASH, N_ROW = 3, 2, 97
"""Embeddings of 2- and 3-grams: `N_HASH` tables of `N_ROW` rows for each length."""

N_TABLE = (N_GRAM - 1) * N_HASH
PLE_LAYER, PLE_KERNEL = 0, 4


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


def _qwen4exp_ple(g: GGUFWriter, w: Weights, s: Shape, stops: bool) -> None:
    """With embeddings of n-grams in the first layer, and a convolution over them."""
    n_embd = s.n_embd // N_TABLE
    add_keys(
        g,
        {
            "embedding_length_per_layer_input": n_embd,
            "ple.layers": [PLE_LAYER],
            "ple.ngram_size": N_GRAM,
            "ple.heads_per_ngram": N_HASH,
            "ple.conv_kernel": PLE_KERNEL,
            "ple.eos_token_id": EOS,
        },
    )
    _add_uint64s(g, "ple.layer_multipliers", [1, 31, 961])
    _add_uint64s(g, "ple.head_offsets", [N_ROW * i for i in range(N_TABLE)])
    _add_uint64s(g, "ple.head_vocab_sizes", [N_ROW] * N_TABLE)
    _qwen4exp(g, w, s, stops)
    rows = "per_layer_token_embd.weight"
    w.plain(rows, w.normal(rows, N_ROW * N_TABLE, n_embd))
    b = f"blk.{PLE_LAYER}"
    w.matrix(f"{b}.ple_key.weight", N_STREAM * s.n_embd, s.n_embd)
    w.matrix(f"{b}.ple_value.weight", s.n_embd, s.n_embd)
    for name in ("key", "query", "conv"):
        norm = f"{b}.ple_norm_{name}.weight"
        w.plain(norm, 1 + 0.1 * w.normal(norm, N_STREAM, s.n_embd))
    conv(w, f"{b}.ple_conv1d.weight", N_STREAM * s.n_embd, PLE_KERNEL)


def _add_uint64s(g: GGUFWriter, name: str, values: list[int]) -> None:
    g.add_key_value(f"{g.arch}.{name}", values, GGUFValueType.ARRAY, GGUFValueType.UINT64)


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
    "qwen4exp-ple": Kind(
        "qwen4exp", _qwen4exp_ple, grouped=True, memory="hybrid", n_ff=64, n_layer=3
    ),
}
