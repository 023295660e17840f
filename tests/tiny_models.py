"""Tiny random-weight GGUF models: one for every kind of memory that llama.cpp gives a model.

Property tests need real models whose logits hang on every visible token and on nothing else, small
enough to be written and loaded in milliseconds. Keys, tensor names and shapes are those that
llama.cpp 0c1e57098 asks for in `src/models/<arch>.cpp`.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice, product
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter, LlamaFileType, TokenType
from gguf.quants import quantize

import q4_k

BOS, EOS, IM_START, IM_END = 1, 2, 259, 260
INFILL = {"pre": 4, "suf": 5, "mid": 6}  # byte tokens that no text has
"""Ids of <s>, </s>, <|im_start|> and <|im_end|>; generation ends at </s> and at <|im_end|>."""

N_VOCAB_MIN = 261 + 1 + len(ascii_lowercase)
"""Controls, 256 bytes, the word boundary and the letters: with these every text can be encoded."""

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

Templates = str | Sequence[Mapping[str, str]]
"""A chat template, or several with ``name`` ("default", "tool_use") and ``template``."""

DTYPES = {
    "f32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
    "f16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "bf16": (GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
    "q4_0": (GGMLQuantizationType.Q4_0, LlamaFileType.MOSTLY_Q4_0),
    "q4_k": (GGMLQuantizationType.Q4_K, LlamaFileType.MOSTLY_Q4_K_S),
}

HEAD_DIM = 32  # one block of q8_0 and q4_0: quantised K and V caches demand a multiple of it

# Gains over a unit-variance product. Scores q.k/sqrt(head_dim) get a spread of about
# QK_GAIN ** 2, so attention picks some cells out without ignoring the others.
QK_GAIN = 1.4
ATTN_OUT_GAIN = 1.5
LOGIT_GAIN = 3.0

N_EXPERT, N_EXPERT_USED = 4, 2
SSM_D_CONV, SSM_D_STATE, SSM_DT_RANK = 4, 8, 4


@dataclass(frozen=True)
class Shape:
    """The sizes of one model. `n_ff` is a single expert's width in the mixture of experts."""

    n_layer: int
    n_embd: int
    n_head: int
    n_head_kv: int
    head_dim: int
    n_ff: int
    n_vocab: int
    n_ctx_train: int
    n_swa: int


class Weights:
    """Random tensors, each drawn from its own generator: adding one leaves the others alone."""

    def __init__(self, writer: GGUFWriter, kind: str, seed: int, dtype: str) -> None:
        self._writer, self._kind, self._seed = writer, kind, seed
        self._type = DTYPES[dtype][0]

    def normal(self, name: str, *shape: int) -> np.ndarray:
        key = zlib.crc32(f"{self._kind}/{name}".encode())
        return np.random.default_rng([self._seed, key]).standard_normal(shape, dtype=np.float32)

    def plain(self, name: str, values: np.ndarray) -> None:
        """Add a tensor that stays F32 whatever the model's type."""
        self._writer.add_tensor(name, np.ascontiguousarray(values, dtype=np.float32))

    def packed(self, name: str, values: np.ndarray) -> None:
        """Add a tensor in the model's type, or F32 if its rows do not divide into blocks."""
        n_block = GGML_QUANT_SIZES[self._type][0]
        if self._type == GGMLQuantizationType.F32 or values.shape[-1] % n_block:
            return self.plain(name, values)
        is_q4_k = self._type == GGMLQuantizationType.Q4_K
        packed = q4_k.pack(values) if is_q4_k else quantize(values, self._type)
        self._writer.add_tensor(name, packed, raw_dtype=self._type)

    def matrix(self, name: str, *shape: int, gain: float = 1.0) -> None:
        """Add a product's weights, (..., n_out, n_in), that map unit variance to gain ** 2."""
        self.packed(name, self.normal(name, *shape) * np.float32(gain / shape[-1] ** 0.5))

    def norm(self, name: str, n: int, *, mean: float = 1.0) -> None:
        self.plain(name, mean * (1 + 0.1 * self.normal(name, n)))

    def bias(self, name: str, n: int) -> None:
        self.plain(name, 0.1 * self.normal(name, n))

    def layer_norm(self, stem: str, n: int) -> None:
        self.norm(f"{stem}.weight", n)
        self.bias(f"{stem}.bias", n)


# --- parts that architectures share -------------------------------------------------------------


def embeddings(w: Weights, s: Shape, *, std: float = 1.0, stops: bool = False) -> None:
    """Both ends of the model. Untied: a tied output would make every token predict itself."""
    w.packed("token_embd.weight", std * w.normal("token_embd.weight", s.n_vocab, s.n_embd))
    output = w.normal("output.weight", s.n_vocab, s.n_embd) * np.float32(LOGIT_GAIN / s.n_embd**0.5)
    if not stops:
        output[[0, BOS, EOS, IM_START, IM_END]] = 0
    w.packed("output.weight", output)


def separate_qkv(w: Weights, s: Shape, b: str, *, gain: float = QK_GAIN) -> None:
    w.matrix(f"{b}.attn_q.weight", s.n_head * s.head_dim, s.n_embd, gain=gain)
    w.matrix(f"{b}.attn_k.weight", s.n_head_kv * s.head_dim, s.n_embd, gain=gain)
    w.matrix(f"{b}.attn_v.weight", s.n_head_kv * s.head_dim, s.n_embd)
    attention_out(w, s, b)


def attention_out(w: Weights, s: Shape, b: str) -> None:
    n_in = s.n_head * s.head_dim
    w.matrix(f"{b}.attn_output.weight", s.n_embd, n_in, gain=ATTN_OUT_GAIN)


def _fused_qkv(w: Weights, s: Shape, b: str) -> None:
    name, n_q, n_kv = f"{b}.attn_qkv.weight", s.n_head * s.head_dim, s.n_head_kv * s.head_dim
    qkv = w.normal(name, n_q + 2 * n_kv, s.n_embd) / np.float32(s.n_embd**0.5)
    qkv[: n_q + n_kv] *= np.float32(QK_GAIN)
    w.packed(name, qkv)
    w.bias(f"{b}.attn_qkv.bias", n_q + 2 * n_kv)
    attention_out(w, s, b)
    w.bias(f"{b}.attn_output.bias", s.n_embd)


def gated_ffn(w: Weights, s: Shape, b: str) -> None:
    w.matrix(f"{b}.ffn_gate.weight", s.n_ff, s.n_embd, gain=1.4)
    w.matrix(f"{b}.ffn_up.weight", s.n_ff, s.n_embd, gain=1.4)
    w.matrix(f"{b}.ffn_down.weight", s.n_embd, s.n_ff)


def _gelu_ffn(w: Weights, s: Shape, b: str) -> None:
    w.matrix(f"{b}.ffn_up.weight", s.n_ff, s.n_embd, gain=1.4)
    w.bias(f"{b}.ffn_up.bias", s.n_ff)
    w.matrix(f"{b}.ffn_down.weight", s.n_embd, s.n_ff)
    w.bias(f"{b}.ffn_down.bias", s.n_embd)


def expert_ffn(w: Weights, s: Shape, b: str) -> None:
    # Routers stay F32, as in every converted model; the gain keeps the choice far from ties.
    router = f"{b}.ffn_gate_inp.weight"
    w.plain(router, w.normal(router, N_EXPERT, s.n_embd) * (2 / s.n_embd**0.5))
    w.matrix(f"{b}.ffn_gate_exps.weight", N_EXPERT, s.n_ff, s.n_embd, gain=1.4)
    w.matrix(f"{b}.ffn_up_exps.weight", N_EXPERT, s.n_ff, s.n_embd, gain=1.4)
    w.matrix(f"{b}.ffn_down_exps.weight", N_EXPERT, s.n_embd, s.n_ff)


def mamba_mixer(w: Weights, s: Shape, b: str) -> None:
    d_inner = 2 * s.n_embd  # the only expansion that llama.cpp supports
    w.matrix(f"{b}.ssm_in.weight", 2 * d_inner, s.n_embd, gain=1.4)
    conv = f"{b}.ssm_conv1d.weight"
    w.plain(conv, w.normal(conv, d_inner, SSM_D_CONV) / SSM_D_CONV**0.5)
    w.bias(f"{b}.ssm_conv1d.bias", d_inner)
    w.matrix(f"{b}.ssm_x.weight", SSM_DT_RANK + 2 * SSM_D_STATE, d_inner, gain=2.0)
    w.matrix(f"{b}.ssm_dt.weight", d_inner, SSM_DT_RANK)
    # softplus(-2) is about 0.13: with A from -0.1 on, a token is remembered for dozens of steps.
    w.plain(f"{b}.ssm_dt.bias", w.normal(f"{b}.ssm_dt.bias", d_inner) * 0.3 - 2.0)
    w.plain(f"{b}.ssm_a", np.tile(-np.geomspace(0.1, 4.0, SSM_D_STATE), (d_inner, 1)))
    w.norm(f"{b}.ssm_d", d_inner)
    w.matrix(f"{b}.ssm_out.weight", s.n_embd, d_inner, gain=ATTN_OUT_GAIN)


def attention_keys(g: GGUFWriter, s: Shape) -> None:
    g.add_feed_forward_length(s.n_ff)
    g.add_head_count(s.n_head)
    g.add_head_count_kv(s.n_head_kv)


def rope_keys(g: GGUFWriter, s: Shape) -> None:
    attention_keys(g, s)
    g.add_key_length(s.head_dim)
    g.add_value_length(s.head_dim)
    g.add_rope_dimension_count(s.head_dim)
    g.add_rope_freq_base(10000.0)
    g.add_layer_norm_rms_eps(1e-5)


def ssm_keys(g: GGUFWriter, s: Shape) -> None:
    g.add_ssm_conv_kernel(SSM_D_CONV)
    g.add_ssm_inner_size(2 * s.n_embd)
    g.add_ssm_state_size(SSM_D_STATE)
    g.add_ssm_time_step_rank(SSM_DT_RANK)
    g.add_layer_norm_rms_eps(1e-5)


# --- one function an architecture ---------------------------------------------------------------


def _llama(g: GGUFWriter, w: Weights, s: Shape, stops: bool) -> None:
    rope_keys(g, s)
    embeddings(w, s, stops=stops)
    w.norm("output_norm.weight", s.n_embd)
    for b in blocks(s):
        w.norm(f"{b}.attn_norm.weight", s.n_embd)
        separate_qkv(w, s, b)
        w.norm(f"{b}.ffn_norm.weight", s.n_embd)
        gated_ffn(w, s, b)


def _llama_moe(g: GGUFWriter, w: Weights, s: Shape, stops: bool) -> None:
    rope_keys(g, s)
    g.add_expert_count(N_EXPERT)
    g.add_expert_used_count(N_EXPERT_USED)
    embeddings(w, s, stops=stops)
    w.norm("output_norm.weight", s.n_embd)
    for b in blocks(s):
        w.norm(f"{b}.attn_norm.weight", s.n_embd)
        separate_qkv(w, s, b)
        w.norm(f"{b}.ffn_norm.weight", s.n_embd)
        expert_ffn(w, s, b)


def _qwen3(g: GGUFWriter, w: Weights, s: Shape, stops: bool) -> None:
    rope_keys(g, s)
    embeddings(w, s, stops=stops)
    w.norm("output_norm.weight", s.n_embd)
    for b in blocks(s):
        w.norm(f"{b}.attn_norm.weight", s.n_embd)
        separate_qkv(w, s, b, gain=1.0)
        w.norm(f"{b}.attn_q_norm.weight", s.head_dim, mean=QK_GAIN)
        w.norm(f"{b}.attn_k_norm.weight", s.head_dim, mean=QK_GAIN)
        w.norm(f"{b}.ffn_norm.weight", s.n_embd)
        gated_ffn(w, s, b)


def _gemma3(g: GGUFWriter, w: Weights, s: Shape, stops: bool) -> None:
    rope_keys(g, s)
    g.add_rope_freq_base_swa(10000.0)
    g.add_sliding_window(s.n_swa)
    g.add_sliding_window_pattern([layer % 2 == 0 for layer in range(s.n_layer)])
    embeddings(w, s, std=s.n_embd**-0.5, stops=stops)  # the graph scales by sqrt(n_embd)
    w.norm("output_norm.weight", s.n_embd)
    for b in blocks(s):
        w.norm(f"{b}.attn_norm.weight", s.n_embd)
        separate_qkv(w, s, b, gain=1.0)
        w.norm(f"{b}.attn_q_norm.weight", s.head_dim, mean=QK_GAIN)
        w.norm(f"{b}.attn_k_norm.weight", s.head_dim, mean=QK_GAIN)
        w.norm(f"{b}.post_attention_norm.weight", s.n_embd)
        w.norm(f"{b}.ffn_norm.weight", s.n_embd)
        gated_ffn(w, s, b)
        w.norm(f"{b}.post_ffw_norm.weight", s.n_embd)


def _gpt2(g: GGUFWriter, w: Weights, s: Shape, stops: bool) -> None:
    attention_keys(g, s)
    g.add_layer_norm_eps(1e-5)
    embeddings(w, s, stops=stops)
    w.packed("position_embd.weight", w.normal("position_embd.weight", s.n_ctx_train, s.n_embd))
    w.layer_norm("output_norm", s.n_embd)
    _gpt_blocks(w, s)


def _mpt(g: GGUFWriter, w: Weights, s: Shape, stops: bool) -> None:
    attention_keys(g, s)
    g.add_layer_norm_eps(1e-5)
    # Slopes are 2 ** (-bias * (h + 1) / n_head): this makes them 1/4, 1/16 with two heads, so
    # that a distance of a few tokens weighs as much as the spread of the scores.
    g.add_max_alibi_bias(2.0 * s.n_head)
    embeddings(w, s, stops=stops)
    w.layer_norm("output_norm", s.n_embd)
    _gpt_blocks(w, s)


def _gpt_blocks(w: Weights, s: Shape) -> None:
    for b in blocks(s):
        w.layer_norm(f"{b}.attn_norm", s.n_embd)
        _fused_qkv(w, s, b)
        w.layer_norm(f"{b}.ffn_norm", s.n_embd)
        _gelu_ffn(w, s, b)


def _mamba(g: GGUFWriter, w: Weights, s: Shape, stops: bool) -> None:
    g.add_feed_forward_length(0)
    g.add_head_count(0)
    ssm_keys(g, s)
    embeddings(w, s, stops=stops)
    w.norm("output_norm.weight", s.n_embd)
    for b in blocks(s):
        w.norm(f"{b}.attn_norm.weight", s.n_embd)
        mamba_mixer(w, s, b)


def _jamba(g: GGUFWriter, w: Weights, s: Shape, stops: bool) -> None:
    g.add_feed_forward_length(s.n_ff)
    g.add_head_count(s.n_head)
    g.add_head_count_kv([s.n_head_kv if layer % 2 else 0 for layer in range(s.n_layer)])
    ssm_keys(g, s)
    embeddings(w, s, stops=stops)
    w.norm("output_norm.weight", s.n_embd)
    for layer, b in enumerate(blocks(s)):
        w.norm(f"{b}.attn_norm.weight", s.n_embd)
        if layer % 2:
            separate_qkv(w, s, b)
        else:
            mamba_mixer(w, s, b)
            w.norm(f"{b}.ssm_dt_norm.weight", SSM_DT_RANK)
            w.norm(f"{b}.ssm_b_norm.weight", SSM_D_STATE)
            w.norm(f"{b}.ssm_c_norm.weight", SSM_D_STATE)
        w.norm(f"{b}.ffn_norm.weight", s.n_embd)
        gated_ffn(w, s, b)


def blocks(s: Shape) -> Iterator[str]:
    return (f"blk.{layer}" for layer in range(s.n_layer))


Writer = Callable[[GGUFWriter, Weights, Shape, bool], None]
"""Adds an architecture's keys and tensors; the last argument is `stops`."""


@dataclass(frozen=True)
class Kind:
    """An architecture and how it is used.

    `tied`: its heads split `n_embd` between them. `memory` is "kv", "recurrent", "hybrid" or, of
    models that generate no text, "none". `n_layer` and `n_vocab` are defaults; the `n_mtp` blocks
    at the end of the file, which predict several tokens, are not counted.
    """

    arch: str
    write: Writer
    tied: bool = False
    grouped: bool = False
    memory: str = "kv"
    n_ff: int = 128
    n_layer: int = 2
    n_mtp: int = 0
    n_vocab: int = 320


_KINDS = {
    "rope": Kind("llama", _llama, grouped=True),
    "rope_mha": Kind("llama", _llama),
    "neox": Kind("qwen3", _qwen3, grouped=True),
    "learned": Kind("gpt2", _gpt2, tied=True),
    "alibi": Kind("mpt", _mpt, tied=True),
    "swa": Kind("gemma3", _gemma3, grouped=True),
    "moe": Kind("llama", _llama_moe, grouped=True, n_ff=64),
    "recurrent": Kind("mamba", _mamba, tied=True, memory="recurrent"),
    "hybrid": Kind("jamba", _jamba, tied=True, memory="hybrid"),
}

KINDS = tuple(_KINDS)
"""A kind for every kind of memory; `tiny_architectures.KINDS` has one for each of more families."""

BRANCHING_KINDS = tuple(name for name, kind in _KINDS.items() if kind.memory == "kv")
"""The kinds whose whole memory is a KV cache, so that a tree can be evaluated."""

ARCHITECTURES = {name: kind.arch for name, kind in _KINDS.items()}
"""llama.cpp's name of each kind's architecture."""


def _find_kind(name: str) -> Kind:
    import tiny_architectures  # imports this module

    kind = _KINDS.get(name) or tiny_architectures.KINDS.get(name)
    if kind is None:
        names = ", ".join([*KINDS, *tiny_architectures.KINDS])
        raise ValueError(f"kind {name!r} is not one of {names}")
    return kind


# --- vocabulary ---------------------------------------------------------------------------------

_COMMON_PIECES = (
    *("▁t", "he", "in", "▁a", "er", "an", "re", "on", "▁the", "nd", "at", "▁s", "▁w", "ou", "is"),
    *("en", "or", "it", "ing", "▁o", "▁and", "▁b", "▁c", "al", "ar", "▁to", "▁of", "ed", "es"),
    *("▁is", "▁h", "ly"),
)


def _pieces() -> Iterator[str]:
    """Word pieces, endless and without repetition; each can be reached by merging two others."""
    yield from ("▁", *ascii_lowercase, *_COMMON_PIECES)
    frequent = ("".join(letters) for letters in product("etaoinshr", repeat=2))
    rest = ("".join(letters) for n in range(2, 6) for letters in product(ascii_lowercase, repeat=n))
    seen = set(_COMMON_PIECES)
    for piece in chain(frequent, rest):
        if piece not in seen:
            seen.add(piece)
            yield piece


def _add_vocabulary(
    g: GGUFWriter, n_vocab: int, add_eos: bool, templates: Templates, infill: bool
) -> None:
    """A SentencePiece vocabulary: what is not in a piece falls back to the 256 byte tokens."""
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    pieces = list(islice(_pieces(), n_vocab - 261))
    n_single = 1 + len(ascii_lowercase)
    # A piece of several letters beats what it is merged from, an earlier one a later one.
    merged = range(-1, -1 - (len(pieces) - n_single), -1)
    single = [-1e6] * n_single
    g.add_tokenizer_model("llama")
    g.add_token_list(["<unk>", "<s>", "</s>", *bytes_, "<|im_start|>", "<|im_end|>", *pieces])
    g.add_token_scores([0.0] * 261 + single + [float(score) for score in merged])
    g.add_token_types(
        [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL]
        + [TokenType.BYTE] * 256
        + [TokenType.CONTROL] * 2
        + [TokenType.NORMAL] * len(pieces)
    )
    g.add_unk_token_id(0)
    g.add_bos_token_id(BOS)
    g.add_eos_token_id(EOS)
    g.add_eot_token_id(IM_END)
    g.add_add_bos_token(True)
    g.add_add_eos_token(add_eos)
    g.add_chat_template(templates)
    for kind, token in INFILL.items() if infill else ():
        g.add_uint32(f"tokenizer.ggml.fim_{kind}_token_id", token)


# --- the file -----------------------------------------------------------------------------------


def write_tiny_model(
    path: str | os.PathLike[str],
    kind: str,
    *,
    seed: int = 0,
    n_layer: int | None = None,
    n_embd: int = 64,
    n_head: int | None = None,
    n_head_kv: int | None = None,
    n_ff: int | None = None,
    n_vocab: int | None = None,
    n_ctx_train: int = 512,
    n_swa: int = 8,
    dtype: str = "f32",
    stops: bool = False,
    add_eos: bool = False,
    infill: bool = False,
    chat_template: Templates = CHAT_TEMPLATE,
) -> Path:
    """Write a model of a kind and return its path; equal arguments give equal bytes.

    The kinds are those of `KINDS` and of `tiny_architectures.KINDS`. Heads have 32 channels unless
    the architecture divides `n_embd` by `n_head`. `n_ff` is the width of the feed-forward part, or
    of one expert. `n_swa` is the sliding window of "swa", whose even layers have it. `dtype` is one
    of `DTYPES`; rows of "q4_k" want 256 values, so choose `n_embd`, `n_ff` and `n_head * 32` to be
    256. Unless `stops`, the rows of control tokens in the output matrix are zero, so that greedy
    text does not end by chance. `add_eos` is the file's `add_eos_token`. With `infill`, it has
    fill-in-the-middle with the tokens of `INFILL`. Raises ValueError on sizes that the architecture
    cannot have.
    """
    found = _find_kind(kind)
    n_layer = found.n_layer if n_layer is None else n_layer
    n_ff = found.n_ff if n_ff is None else n_ff
    n_vocab = found.n_vocab if n_vocab is None else n_vocab
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    if n_vocab < N_VOCAB_MIN:
        raise ValueError(f"n_vocab {n_vocab} leaves no room for bytes and letters: {N_VOCAB_MIN}")
    shape = _shape(found, n_layer, n_embd, n_head, n_head_kv, n_ff, n_vocab, n_ctx_train, n_swa)
    path = Path(path)
    writer = _writer(path, kind, found, shape, dtype)
    found.write(writer, Weights(writer, kind, seed, dtype), shape, stops)
    _add_vocabulary(writer, shape.n_vocab, add_eos, chat_template, infill)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _shape(
    kind: Kind,
    n_layer: int,
    n_embd: int,
    n_head: int | None,
    n_head_kv: int | None,
    n_ff: int,
    n_vocab: int,
    n_ctx_train: int,
    n_swa: int,
) -> Shape:
    n_head = n_head or (max(1, n_embd // HEAD_DIM) if kind.tied else 4)
    if kind.tied and n_embd % n_head:
        raise ValueError(f"{kind.arch}: n_embd {n_embd} does not divide into {n_head} heads")
    n_head_kv = n_head_kv or (max(1, n_head // 2) if kind.grouped else n_head)
    if n_head % n_head_kv:
        raise ValueError(f"{n_head} heads cannot share {n_head_kv} K/V heads evenly")
    return Shape(
        n_layer=n_layer,
        n_embd=n_embd,
        n_head=n_head,
        n_head_kv=n_head_kv,
        head_dim=n_embd // n_head if kind.tied else HEAD_DIM,
        n_ff=n_ff,
        n_vocab=n_vocab,
        n_ctx_train=n_ctx_train,
        n_swa=n_swa,
    )


def _writer(path: Path, name: str, kind: Kind, shape: Shape, dtype: str) -> GGUFWriter:
    writer = GGUFWriter(path, kind.arch)
    writer.add_name(f"tiny random {name}")
    writer.add_file_type(DTYPES[dtype][1])
    writer.add_context_length(shape.n_ctx_train)
    writer.add_embedding_length(shape.n_embd)
    writer.add_block_count(shape.n_layer + kind.n_mtp)
    writer.add_vocab_size(shape.n_vocab)
    return writer


def tiny_model(kind: str, directory: str | os.PathLike[str], **options: Any) -> Path:
    """The model with these options of `write_tiny_model`, written if `directory` lacks it.

    A file appears whole or not at all, so that test processes can share the directory.
    """
    details = "".join(f"-{name}={value}" for name, value in sorted(options.items()))
    path = Path(directory) / f"{kind}{details}.gguf"
    if not path.exists():
        unfinished = path.with_suffix(f".{os.getpid()}.part")
        os.replace(write_tiny_model(unfinished, kind, **options), path)
    return path
