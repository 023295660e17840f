"""Model files that benches measure, made once and kept: requantised ones, and a large random one.

They are in ``platformdirs.user_cache_dir("pytreellama")/bench``, and may be deleted at any time.
All types of the default model take 1.6 GB there, all of the large one 13.
"""

from __future__ import annotations

import argparse
import os
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
from gguf import GGUFReader, GGUFWriter, LlamaFileType
from numpy.typing import NDArray

from lib.report import shown
from pytreellama import quantize
from pytreellama.model.quantize import FILE_TYPES


def add_types_option(parser: argparse.ArgumentParser, default: Sequence[str]) -> None:
    parser.add_argument(
        "--types", nargs="+", type=str.upper, choices=FILE_TYPES, default=default, metavar="T"
    )


def name_of(path: Path) -> str:
    """The model's name, without the type of its weights."""
    name, _, last = path.stem.rpartition(".")
    return name if last in FILE_TYPES else path.stem


def requantised(source: Path, file_type: str) -> Path:
    """The model with weights of another type."""
    if source == _large_path() and file_type == "F16":
        return source
    path = bench_folder() / f"{name_of(source)}-{_identity(source)}.{file_type}.gguf"
    if not path.exists():
        with shown(f"requantising {name_of(source)} to {file_type}") as progress:
            quantize(source, path, file_type, progress=progress)
    return path


def large_model() -> Path:
    """A model of random weights in the sizes of Llama 3.2 1B: no cache of a CPU holds it."""
    path = _large_path()
    if not path.exists():
        unfinished = path.with_suffix(f".{os.getpid()}.part")
        try:
            _write_large(unfinished)
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)
    return path


def _large_path() -> Path:
    return bench_folder() / "random-1B.F16.gguf"


def bench_folder() -> Path:
    folder = platformdirs.user_cache_path("pytreellama", appauthor=False) / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _identity(path: Path) -> str:
    """Tells files of the same name apart."""
    status = path.stat()
    what = f"{path.resolve()} {status.st_size} {status.st_mtime_ns}"
    return f"{zlib.crc32(what.encode()):08x}"


#
# what a pass has to do
#


@dataclass(frozen=True)
class Work:
    """What a pass of a dense model reads and multiplies, attention aside.

    Attributes:
        body: multiplications a token.
        output: multiplications a row of logits.
        n_bytes: of all matrices, by their type.
    """

    body: int
    output: int
    n_bytes: Counter[str]

    def of(self, n_tokens: int, n_rows: int) -> int:
        return n_tokens * self.body + n_rows * self.output

    def __str__(self) -> str:
        total = self.n_bytes.total()
        shares = (f"{100 * n / total:.0f} % {name}" for name, n in self.n_bytes.most_common())
        return f"{total / 1e6:.0f} MB: {', '.join(shares)}"


def work_of(path: Path) -> Work:
    tensors = {tensor.name: tensor for tensor in GGUFReader(path).tensors}
    output = tensors.get("output.weight", tensors["token_embd.weight"])
    lookups = ("token_embd.weight", "output.weight", "position_embd.weight")
    body = [t for name, t in tensors.items() if len(t.shape) == 2 and name not in lookups]
    n_bytes: Counter[str] = Counter()
    for tensor in [*body, output]:
        n_bytes[tensor.tensor_type.name] += int(tensor.n_bytes)
    return Work(sum(int(t.n_elements) for t in body), int(output.n_elements), n_bytes)


#
# the large model
#

N_LAYER, N_EMBD, N_FF, N_HEAD, N_HEAD_KV, N_VOCAB = 16, 2048, 8192, 32, 8, 128256
HEAD_DIM = N_EMBD // N_HEAD


def _write_large(path: Path) -> None:
    writer = GGUFWriter(path, "llama")
    _add_keys(writer)
    shapes = dict(_shapes())
    for name, shape in shapes.items():
        dtype = _dtype(shape)
        n_bytes = int(np.prod(shape)) * dtype.itemsize
        writer.add_tensor_info(name, shape, dtype, n_bytes)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    with shown("writing a large model of random weights") as progress:
        for i, (name, shape) in enumerate(shapes.items()):
            writer.write_tensor_data(_weights(name, shape))
            progress((i + 1) / len(shapes))
    writer.close()


def _add_keys(writer: GGUFWriter) -> None:
    writer.add_name("random 1B")
    writer.add_file_type(LlamaFileType.MOSTLY_F16)
    writer.add_context_length(131072)
    writer.add_embedding_length(N_EMBD)
    writer.add_block_count(N_LAYER)
    writer.add_feed_forward_length(N_FF)
    writer.add_head_count(N_HEAD)
    writer.add_head_count_kv(N_HEAD_KV)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_rope_freq_base(500000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(N_VOCAB)
    writer.add_tokenizer_model("none")


def _shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    """Of each tensor, (n_out, n_in); the output is that of the embeddings, as in small models."""
    n_kv = N_HEAD_KV * HEAD_DIM
    yield "token_embd.weight", (N_VOCAB, N_EMBD)
    yield "output_norm.weight", (N_EMBD,)
    for block in (f"blk.{i}" for i in range(N_LAYER)):
        yield f"{block}.attn_norm.weight", (N_EMBD,)
        yield f"{block}.attn_q.weight", (N_EMBD, N_EMBD)
        yield f"{block}.attn_k.weight", (n_kv, N_EMBD)
        yield f"{block}.attn_v.weight", (n_kv, N_EMBD)
        yield f"{block}.attn_output.weight", (N_EMBD, N_EMBD)
        yield f"{block}.ffn_norm.weight", (N_EMBD,)
        yield f"{block}.ffn_gate.weight", (N_FF, N_EMBD)
        yield f"{block}.ffn_up.weight", (N_FF, N_EMBD)
        yield f"{block}.ffn_down.weight", (N_EMBD, N_FF)


def _dtype(shape: tuple[int, ...]) -> np.dtype[Any]:
    return np.dtype(np.float16 if len(shape) == 2 else np.float32)


def _weights(name: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """Norms of one; matrices that keep the variance, each drawn from a generator of its own."""
    if len(shape) == 1:
        return np.ones(shape, np.float32)
    draw = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, np.float32)
    draw *= np.float32(shape[-1] ** -0.5)
    return draw.astype(np.float16)
