"""Decoders that llama.cpp runs without flash attention (Grok) or not at all (Chameleon, PLM)."""

from __future__ import annotations

from gguf import GGUFWriter

from tiny_architectures.parts import (
    D_NOPE,
    D_ROPE,
    D_VALUE,
    KV_RANK,
    ends,
    expert_keys,
    experts,
    model_keys,
)
from tiny_models import (
    ATTN_OUT_GAIN,
    HEAD_DIM,
    LOGIT_GAIN,
    QK_GAIN,
    Kind,
    Shape,
    Weights,
    blocks,
    gated_ffn,
    separate_qkv,
)

N_IMAGE_TOKEN = 8196
"""The ids below are those of Chameleon's images, whose logits its graph overwrites."""


def _grok(g: GGUFWriter, w: Weights, s: Shape, stops: bool) -> None:
    """Scores are capped, for which llama.cpp turns flash attention off."""
    model_keys(
        g,
        s,
        embedding_scale=1.0,
        logit_scale=1.0,
        attention__output_scale=HEAD_DIM**-0.5,
        attn_logit_softcapping=30.0,
        router_logit_softcapping=30.0,
    )
    expert_keys(g, s)
    ends(w, s, stops)
    for b in blocks(s):
        w.norm(f"{b}.attn_norm.weight", s.n_embd)
        separate_qkv(w, s, b)
        w.norm(f"{b}.attn_output_norm.weight", s.n_embd, mean=2.0)
        w.norm(f"{b}.ffn_norm.weight", s.n_embd)
        experts(w, s, b)
        w.norm(f"{b}.layer_output_norm.weight", s.n_embd)


def _chameleon(g: GGUFWriter, w: Weights, s: Shape, stops: bool) -> None:
    model_keys(g, s)
    ends(w, s, stops)
    for b in blocks(s):
        w.norm(f"{b}.attn_norm.weight", s.n_embd)
        separate_qkv(w, s, b, gain=1.0)
        for name, n in (("q", s.n_head), ("k", s.n_head_kv)):
            norm = f"{b}.attn_{name}_norm.weight"
            w.plain(norm, QK_GAIN * (1 + 0.1 * w.normal(norm, n, s.head_dim)))
        w.norm(f"{b}.ffn_norm.weight", s.n_embd)
        gated_ffn(w, s, b)


def _plm(g: GGUFWriter, w: Weights, s: Shape, stops: bool) -> None:
    """Latent attention with keys and values expanded, and the output tied to the embeddings."""
    model_keys(
        g,
        s,
        attention__key_length=D_NOPE + D_ROPE,
        attention__value_length=D_VALUE,
        attention__kv_lora_rank=KV_RANK,
        rope__dimension_count=D_ROPE,
    )
    w.matrix("token_embd.weight", s.n_vocab, s.n_embd, gain=LOGIT_GAIN)
    w.norm("output_norm.weight", s.n_embd)
    for b in blocks(s):
        w.norm(f"{b}.attn_norm.weight", s.n_embd)
        w.matrix(f"{b}.attn_q.weight", s.n_head * (D_NOPE + D_ROPE), s.n_embd, gain=QK_GAIN)
        w.matrix(f"{b}.attn_kv_a_mqa.weight", KV_RANK + D_ROPE, s.n_embd, gain=QK_GAIN)
        w.norm(f"{b}.attn_kv_a_norm.weight", KV_RANK)
        w.matrix(f"{b}.attn_kv_b.weight", s.n_head * (D_NOPE + D_VALUE), KV_RANK)
        w.matrix(f"{b}.attn_output.weight", s.n_embd, s.n_head * D_VALUE, gain=ATTN_OUT_GAIN)
        w.norm(f"{b}.ffn_norm.weight", s.n_embd)
        w.matrix(f"{b}.ffn_up.weight", s.n_ff, s.n_embd, gain=1.4)
        w.matrix(f"{b}.ffn_down.weight", s.n_embd, s.n_ff)


KINDS = {
    "grok": Kind("grok", _grok, tied=True, grouped=True, n_ff=64),
    "chameleon": Kind(
        "chameleon", _chameleon, tied=True, memory="none", n_vocab=N_IMAGE_TOKEN + 104
    ),
    "plm": Kind("plm", _plm, memory="none"),
}
