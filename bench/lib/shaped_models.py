"""Models of random Q4_0 weights in the sizes of real ones, written in seconds: for passes alone."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType
from numpy.typing import NDArray

from lib.models import bench_folder
from lib.report import shown

BLOCK = 32  # values of a block of Q4_0: a scale of 2 bytes, then 16 bytes of two values each
BLOCK_BYTES = 18
HEAD_DIM = 128


@dataclass(frozen=True)
class Sizes:
    """The sizes of a Llama, with 8 heads of keys and values of 128 channels each."""

    n_layer: int
    n_embd: int
    n_ff: int
    n_vocab: int = 128_256
    n_head_kv: int = 8


SIZES = {
    "0.1B": Sizes(n_layer=4, n_embd=1024, n_ff=4096, n_vocab=8_192),
    "1B": Sizes(n_layer=16, n_embd=2048, n_ff=8192),
    "8B": Sizes(n_layer=32, n_embd=4096, n_ff=14_336),
}


def shaped_model(name: str) -> Path:
    """The file of a model of these sizes, made once."""
    path = bench_folder() / f"random-{name}.Q4_0.gguf"
    if not path.exists():
        unfinished = path.with_suffix(f".{os.getpid()}.part")
        try:
            _write(unfinished, name, SIZES[name])
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)
    return path


def _write(path: Path, name: str, sizes: Sizes) -> None:
    writer = GGUFWriter(path, "llama")
    _add_keys(writer, name, sizes)
    shapes = _shapes(sizes)
    for tensor, shape in shapes.items():
        data = _weights(tensor, shape, sizes.n_embd)
        kind = GGMLQuantizationType.Q4_0 if len(shape) == 2 else None
        writer.add_tensor_info(tensor, data.shape, data.dtype, data.nbytes, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    with shown(f"writing a random model of {name}") as progress:
        for i, (tensor, shape) in enumerate(shapes.items()):
            writer.write_tensor_data(_weights(tensor, shape, sizes.n_embd))
            progress((i + 1) / len(shapes))
    writer.close()


def _add_keys(writer: GGUFWriter, name: str, sizes: Sizes) -> None:
    writer.add_name(f"random {name}")
    writer.add_file_type(LlamaFileType.MOSTLY_Q4_0)
    writer.add_context_length(131_072)
    writer.add_embedding_length(sizes.n_embd)
    writer.add_block_count(sizes.n_layer)
    writer.add_feed_forward_length(sizes.n_ff)
    writer.add_head_count(sizes.n_embd // HEAD_DIM)
    writer.add_head_count_kv(sizes.n_head_kv)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_rope_freq_base(500_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(sizes.n_vocab)
    writer.add_tokenizer_model("none")


def _shapes(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """Of each tensor, (n_out, n_in)."""
    n_embd, n_kv = sizes.n_embd, sizes.n_head_kv * HEAD_DIM
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (sizes.n_vocab, n_embd),
        "output_norm.weight": (n_embd,),
        "output.weight": (sizes.n_vocab, n_embd),
    }
    for block in (f"blk.{i}" for i in range(sizes.n_layer)):
        shapes |= {
            f"{block}.attn_norm.weight": (n_embd,),
            f"{block}.attn_q.weight": (n_embd, n_embd),
            f"{block}.attn_k.weight": (n_kv, n_embd),
            f"{block}.attn_v.weight": (n_kv, n_embd),
            f"{block}.attn_output.weight": (n_embd, n_embd),
            f"{block}.ffn_norm.weight": (n_embd,),
            f"{block}.ffn_gate.weight": (sizes.n_ff, n_embd),
            f"{block}.ffn_up.weight": (sizes.n_ff, n_embd),
            f"{block}.ffn_down.weight": (n_embd, sizes.n_ff),
        }
    return shapes


def _weights(name: str, shape: tuple[int, ...], n_embd: int) -> NDArray[np.generic]:
    """Norms of one; matrices of random values whose scale keeps the variance."""
    if len(shape) == 1:
        return np.ones(shape, np.float32)
    n_blocks = shape[0] * shape[1] // BLOCK
    # rows repeat after a million blocks: drawing all would take longer than writing them
    n_drawn = min(n_blocks, 1 << 20)
    blocks = np.empty((n_drawn, BLOCK_BYTES), np.uint8)
    scale = np.float16(shape[1] ** -0.5 / 4.6)  # the deviation of whole numbers from -8 to 7
    blocks[:, :2] = np.frombuffer(scale.tobytes(), np.uint8)
    rng = np.random.default_rng(len(name) + n_embd)
    blocks[:, 2:] = rng.integers(0, 256, (n_drawn, BLOCK_BYTES - 2), np.uint8)
    whole = np.resize(blocks, (n_blocks, BLOCK_BYTES))
    return whole.reshape(shape[0], shape[1] // BLOCK * BLOCK_BYTES)
