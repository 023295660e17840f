"""Tiny random LoRA adapters for tiny models, and models into which one is merged."""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGUFReader, GGUFWriter
from gguf.quants import quantize
from numpy.typing import NDArray

from tiny_models import DTYPES

Float32 = NDArray[np.float32]

ALPHA = 6.0
EMBEDDINGS = "token_embd.weight"

Pairs = dict[str, tuple[Float32, Float32]]


def changes(name: str) -> bool:
    """Whether an adapter changes a tensor: products of blocks, and both ends of the model."""
    of_block = ("attn_q.", "attn_v.", "attn_qkv.", "attn_output.", "ffn_up", "ffn_down", "ssm_in.")
    ends = name in (EMBEDDINGS, "output.weight")
    return ends or (name.startswith("blk.") and any(part in name for part in of_block))


def pairs_of(model: Path, rank: int, seed: int) -> Pairs:
    """A and B for each tensor that is changed; of token embeddings, A has a row a token."""
    pairs: Pairs = {}
    for tensor in GGUFReader(model).tensors:
        shape = tuple(reversed(tensor.shape.tolist()))
        if not changes(tensor.name) or not tensor.name.endswith(".weight") or len(shape) < 2:
            continue
        *experts, n_out, n_in = shape
        key = zlib.crc32(tensor.name.encode())
        rng = np.random.default_rng([seed, key])
        if tensor.name == EMBEDDINGS:
            shapes = (n_out, rank), (n_in, rank)
        else:
            shapes = (*experts, rank, n_in), (*experts, n_out, rank)
        a, b = (rng.standard_normal(one, dtype=np.float32) for one in shapes)
        pairs[tensor.name] = (a / np.float32(n_in**0.5), b / np.float32(3))
    return pairs


def write_tiny_lora(
    path: Path,
    model: Path,
    *,
    rank: int = 4,
    seed: int = 0,
    dtype: str = "f32",
    arch: str | None = None,
    change: Callable[[GGUFWriter], None] | None = None,
    edit: Callable[[Pairs], None] | None = None,
) -> Path:
    """Write an adapter for a model of F32 tensors.

    Args:
        dtype: of ``DTYPES``; rows that do not divide into its blocks stay F32.
        change: adds keys of its own.
        edit: changes the tensors.
    """
    reader = GGUFReader(model)
    writer = GGUFWriter(path, arch or _text(reader, "general.architecture"))
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", ALPHA)
    if change is not None:
        change(writer)
    pairs = pairs_of(model, rank, seed)
    if edit is not None:
        edit(pairs)
    for name, pair in pairs.items():
        for side, values in zip("ab", pair, strict=True):
            _add(writer, f"{name}.lora_{side}", values, dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer: GGUFWriter, name: str, values: Float32, dtype: str) -> None:
    kind = DTYPES[dtype][0]
    if dtype == "f32" or values.shape[-1] % GGML_QUANT_SIZES[kind][0]:
        writer.add_tensor(name, np.ascontiguousarray(values))
    else:
        writer.add_tensor(name, quantize(values, kind), raw_dtype=kind)


def write_merged(path: Path, model: Path, *, rank: int, seed: int, scale: float) -> Path:
    """The model with the adapter's changes in its weights, which are F32."""
    shutil.copy(model, path)
    pairs = pairs_of(model, rank, seed)
    for tensor in GGUFReader(path, "r+").tensors:
        if tensor.name not in pairs:
            continue
        a, b = pairs[tensor.name]
        change = a @ b.T if tensor.name == EMBEDDINGS else b @ a
        tensor.data[:] += np.float32(scale * ALPHA / rank) * change
    return path


def _text(reader: GGUFReader, key: str) -> str:
    field: Any = reader.get_field(key)
    text: str = field.contents()
    return text
