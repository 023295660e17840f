"""Models that read a text but generate none: encoders, and a decoder of audio codes."""

from __future__ import annotations

from gguf import GGUFWriter

from tiny_architectures.parts import add_keys, model_keys, normed_qk
from tiny_models import (
    Kind,
    Shape,
    Weights,
    attention_out,
    blocks,
    embeddings,
    gated_ffn,
    separate_qkv,
)

N_POSNET, N_CONVNEXT, N_FEATURE = 6, 2, 32
"""Layers of WavTokenizer's two nets, and channels of a code."""


def _eurobert(g: GGUFWriter, w: Weights, s: Shape, stops: bool) -> None:
    _reader(g, w, s, "output_norm.weight")
    for b in blocks(s):
        w.norm(f"{b}.attn_norm.weight", s.n_embd)
        separate_qkv(w, s, b)
        w.norm(f"{b}.ffn_norm.weight", s.n_embd)
        gated_ffn(w, s, b)


def _neo_bert(g: GGUFWriter, w: Weights, s: Shape, stops: bool) -> None:
    _reader(g, w, s, "enc.output_norm.weight")
    for b in blocks(s):
        w.norm(f"{b}.attn_norm.weight", s.n_embd)
        _joined(w, s, b)


def _modern_bert(g: GGUFWriter, w: Weights, s: Shape, stops: bool) -> None:
    _reader(g, w, s, "output_norm.weight")
    add_keys(
        g,
        {
            "attention.layer_norm_epsilon": 1e-5,
            "attention.sliding_window": s.n_swa,
            "attention.sliding_window_pattern": 2,
        },
    )
    w.norm("token_embd_norm.weight", s.n_embd)
    for layer, b in enumerate(blocks(s)):
        if layer > 0:
            w.norm(f"{b}.attn_norm.weight", s.n_embd)
        _joined(w, s, b)


def _reader(g: GGUFWriter, w: Weights, s: Shape, norm: str) -> None:
    model_keys(g, s, attention__causal=False)
    w.packed("token_embd.weight", w.normal("token_embd.weight", s.n_vocab, s.n_embd))
    w.norm(norm, s.n_embd)


def _joined(w: Weights, s: Shape, b: str) -> None:
    """Queries, keys and values of one matrix; gate and value of the feed-forward part too."""
    n_kv = s.n_head_kv * s.head_dim
    w.matrix(f"{b}.attn_qkv.weight", s.n_embd + 2 * n_kv, s.n_embd, gain=1.4)
    attention_out(w, s, b)
    w.norm(f"{b}.ffn_norm.weight", s.n_embd)
    w.matrix(f"{b}.ffn_up.weight", 2 * s.n_ff, s.n_embd, gain=1.4)
    w.matrix(f"{b}.ffn_down.weight", s.n_embd, s.n_ff)


def _bert(g: GGUFWriter, w: Weights, s: Shape, stops: bool) -> None:
    """With learned positions, biases everywhere, and a classifier as of a reranker."""
    _bert_begin(g, w, s, pooling=_CLS)
    w.packed("position_embd.weight", w.normal("position_embd.weight", s.n_ctx_train, s.n_embd))
    for b in blocks(s):
        _bert_attention(w, s, b)
        w.matrix(f"{b}.ffn_up.weight", s.n_ff, s.n_embd, gain=1.4)
        w.bias(f"{b}.ffn_up.bias", s.n_ff)
        _bert_end(w, s, b)
    w.matrix("cls.weight", s.n_embd, s.n_embd)
    w.bias("cls.bias", s.n_embd)
    w.matrix("cls.output.weight", 1, s.n_embd)
    w.bias("cls.output.bias", 1)


def _nomic_bert(g: GGUFWriter, w: Weights, s: Shape, stops: bool) -> None:
    _bert_begin(g, w, s, pooling=_MEAN)
    add_keys(g, {"rope.freq_base": 1000.0})
    for b in blocks(s):
        _bert_attention(w, s, b, has_bias=False)
        w.matrix(f"{b}.ffn_up.weight", s.n_ff, s.n_embd, gain=1.4)
        w.matrix(f"{b}.ffn_gate.weight", s.n_ff, s.n_embd, gain=1.4)
        _bert_end(w, s, b, has_bias=False)


def _jina_bert(g: GGUFWriter, w: Weights, s: Shape, stops: bool) -> None:
    """Positions by ALiBi, to both sides."""
    _bert_begin(g, w, s, pooling=_MEAN)
    for b in blocks(s):
        _bert_attention(w, s, b)
        w.matrix(f"{b}.ffn_up.weight", s.n_ff, s.n_embd, gain=1.4)
        w.matrix(f"{b}.ffn_gate.weight", s.n_ff, s.n_embd, gain=1.4)
        _bert_end(w, s, b)


_MEAN, _CLS = 1, 2


def _bert_begin(g: GGUFWriter, w: Weights, s: Shape, pooling: int) -> None:
    model_keys(
        g, s, attention__causal=False, attention__layer_norm_epsilon=1e-5, pooling_type=pooling
    )
    g.add_token_type_count(2)
    w.packed("token_embd.weight", w.normal("token_embd.weight", s.n_vocab, s.n_embd))
    w.plain("token_types.weight", 0.3 * w.normal("token_types.weight", 2, s.n_embd))
    w.layer_norm("token_embd_norm", s.n_embd)


def _bert_attention(w: Weights, s: Shape, b: str, *, has_bias: bool = True) -> None:
    for name in "qkv":
        gain = 1.0 if name == "v" else 1.4
        w.matrix(f"{b}.attn_{name}.weight", s.n_embd, s.n_embd, gain=gain)
        if has_bias:
            w.bias(f"{b}.attn_{name}.bias", s.n_embd)
    w.matrix(f"{b}.attn_output.weight", s.n_embd, s.n_embd, gain=1.5)
    if has_bias:
        w.bias(f"{b}.attn_output.bias", s.n_embd)
    w.layer_norm(f"{b}.attn_output_norm", s.n_embd)


def _bert_end(w: Weights, s: Shape, b: str, *, has_bias: bool = True) -> None:
    w.matrix(f"{b}.ffn_down.weight", s.n_embd, s.n_ff)
    if has_bias:
        w.bias(f"{b}.ffn_down.bias", s.n_embd)
    w.layer_norm(f"{b}.layer_output_norm", s.n_embd)


def _llama_embed(g: GGUFWriter, w: Weights, s: Shape, stops: bool) -> None:
    model_keys(g, s, attention__causal=False)
    embeddings(w, s, stops=stops)
    w.norm("output_norm.weight", s.n_embd)
    for b in blocks(s):
        w.norm(f"{b}.attn_norm.weight", s.n_embd)
        separate_qkv(w, s, b)
        w.norm(f"{b}.ffn_norm.weight", s.n_embd)
        gated_ffn(w, s, b)


def _gemma_embedding(g: GGUFWriter, w: Weights, s: Shape, stops: bool) -> None:
    model_keys(g, s, attention__sliding_window=s.n_swa, attention__sliding_window_pattern=2)
    embeddings(w, s, std=s.n_embd**-0.5, stops=stops)  # the graph scales by sqrt(n_embd)
    w.norm("output_norm.weight", s.n_embd)
    for b in blocks(s):
        w.norm(f"{b}.attn_norm.weight", s.n_embd)
        separate_qkv(w, s, b, gain=1.0)
        normed_qk(w, s, b)
        w.norm(f"{b}.post_attention_norm.weight", s.n_embd)
        w.norm(f"{b}.ffn_norm.weight", s.n_embd)
        gated_ffn(w, s, b)
        w.norm(f"{b}.post_ffw_norm.weight", s.n_embd)


# --- WavTokenizer -------------------------------------------------------------------------------


def _wavtokenizer(g: GGUFWriter, w: Weights, s: Shape, stops: bool) -> None:
    model_keys(
        g,
        s,
        attention__causal=False,
        attention__layer_norm_epsilon=1e-5,
        attention__group_norm_epsilon=1e-5,
        attention__group_norm_groups=4,
        features_length=N_FEATURE,
        posnet__embedding_length=s.n_embd,
        posnet__block_count=N_POSNET,
        convnext__embedding_length=s.n_embd,
        convnext__block_count=N_CONVNEXT,
    )
    w.packed("token_embd.weight", w.normal("token_embd.weight", s.n_vocab, N_FEATURE))
    _conv(w, "conv1d", s.n_embd, N_FEATURE, 7)
    w.layer_norm("token_embd_norm", s.n_embd)
    for layer in range(N_POSNET):
        _posnet(w, s, f"posnet.{layer}", layer)
    for layer in range(N_CONVNEXT):
        _convnext(w, s, f"convnext.{layer}")
    w.layer_norm("output_norm", s.n_embd)
    w.matrix("output.weight", s.n_embd, s.n_embd)
    w.bias("output.bias", s.n_embd)


def _conv(w: Weights, stem: str, n_out: int, n_in: int, n_kernel: int) -> None:
    name = f"{stem}.weight"
    w.plain(name, w.normal(name, n_out, n_in, n_kernel) / (n_in * n_kernel) ** 0.5)
    w.plain(f"{stem}.bias", 0.1 * w.normal(f"{stem}.bias", n_out, 1))


def _group_norm(w: Weights, stem: str, n: int) -> None:
    w.plain(f"{stem}.weight", 1 + 0.1 * w.normal(f"{stem}.weight", n, 1))
    w.plain(f"{stem}.bias", 0.1 * w.normal(f"{stem}.bias", n, 1))


def _posnet(w: Weights, s: Shape, b: str, layer: int) -> None:
    """Four residual nets, attention between the second and the third, and a norm at the end."""
    if layer == 5:
        _group_norm(w, f"{b}.attn_norm", s.n_embd)
    elif layer == 2:
        _group_norm(w, f"{b}.attn_norm", s.n_embd)
        for name in ("q", "k", "v", "output"):
            _conv(w, f"{b}.attn_{name}", s.n_embd, s.n_embd, 1)
    else:
        for i in (1, 2):
            _group_norm(w, f"{b}.norm{i}", s.n_embd)
            _conv(w, f"{b}.conv{i}", s.n_embd, s.n_embd, 3)


def _convnext(w: Weights, s: Shape, b: str) -> None:
    _conv(w, f"{b}.dw", s.n_embd, 1, 7)
    w.layer_norm(f"{b}.norm", s.n_embd)
    w.matrix(f"{b}.pw1.weight", s.n_ff, s.n_embd)
    w.bias(f"{b}.pw1.bias", s.n_ff)
    w.matrix(f"{b}.pw2.weight", s.n_embd, s.n_ff)
    w.bias(f"{b}.pw2.bias", s.n_embd)
    w.norm(f"{b}.gamma.weight", s.n_embd, mean=0.5)


KINDS = {
    "bert": Kind("bert", _bert, tied=True, memory="none"),
    "nomic-bert": Kind("nomic-bert", _nomic_bert, tied=True, memory="none"),
    "jina-bert-v2": Kind("jina-bert-v2", _jina_bert, tied=True, memory="none"),
    "eurobert": Kind("eurobert", _eurobert, tied=True, memory="none"),
    "modern-bert": Kind("modern-bert", _modern_bert, tied=True, memory="none"),
    "neo-bert": Kind("neo-bert", _neo_bert, tied=True, memory="none"),
    "gemma-embedding": Kind("gemma-embedding", _gemma_embedding, tied=True, memory="none"),
    "llama-embed": Kind("llama-embed", _llama_embed, tied=True, memory="none"),
    "wavtokenizer-dec": Kind(
        "wavtokenizer-dec", _wavtokenizer, tied=True, memory="none", n_layer=N_POSNET
    ),
}
