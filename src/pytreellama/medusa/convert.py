"""Convert: heads of the Medusa project's checkpoints, as a file of ours."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytreellama.errors import MedusaError
from pytreellama.medusa.weights import HeadsFile, HeadWeights
from pytreellama.model.model import Model
from pytreellama.training.pytorch import NO_TORCH
from pytreellama.training.target import Target

Float32 = NDArray[np.float32]
Tensors = Mapping[str, Float32]

_NO_SAFETENSORS = "safetensors files are read with the package safetensors: pip install safetensors"
_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}
_KEY = re.compile(r"(?:medusa_head\.)?(\d{1,4})\.(\d{1,4})\.(?:linear\.)?(weight|bias)")
_ALLOWED = (
    "a checkpoint of the Medusa project has, for each head, blocks 0.0.linear.weight, "
    "0.0.linear.bias, ... and last an output matrix 0.1.weight"
)


def convert(path: str | os.PathLike[str], model: Model) -> HeadsFile:
    """Read heads of the Medusa project (github.com/FasterDecoding/Medusa).

    Args:
        path: ``medusa_lm_head.pt`` or a safetensors file, or the folder of one.
        model: the GGUF file of the model that they were trained for.

    Raises:
        MedusaError: no such file, no such checkpoint, other sizes than the model's, weights that
            are no numbers, or a package that is missing.
    """
    source = _file_of(Path(path))
    tensors = _read(source)
    target = Target(model)
    heads = _heads(tensors, source)
    n_embd, n_vocab = target.n_embd, target.n_vocab
    for i, head in enumerate(heads):
        assert head.output is not None
        sizes = {weight.shape for weight in head.weights} | {(n_embd, n_embd)}
        biases = {bias.shape for bias in head.biases} | {(n_embd,)}
        if len(sizes) > 1 or len(biases) > 1 or head.output.shape != (n_vocab, n_embd):
            raise MedusaError(
                f"head {i} of {source.name} has blocks of {head.weights[0].shape} with biases of "
                f"{head.biases[0].shape} and an output matrix of {head.output.shape}; the model "
                f"has {n_embd} channels and {n_vocab} tokens"
            )
    return HeadsFile(
        heads,
        "none",
        target.name,
        target.hash,
        licence=target.licence,
        facts={"converted.from": source.name},
    )


def _file_of(path: Path) -> Path:
    if path.is_dir():
        for name in ("medusa_lm_head.safetensors", "medusa_lm_head.pt"):
            if (path / name).is_file():
                return path / name
        raise MedusaError(f"{path} holds neither medusa_lm_head.safetensors nor medusa_lm_head.pt")
    if not path.is_file():
        raise MedusaError(f"there is no file {path}; give a checkpoint of the Medusa project")
    return path


def _read(path: Path) -> Tensors:
    try:
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        return _read_torch(path)
    except MedusaError:
        raise
    except Exception as error:  # over damaged bytes the libraries raise what they like
        raise MedusaError(f"{path} is no checkpoint, or is damaged: {error}") from error


def _read_safetensors(path: Path) -> Tensors:
    try:
        import safetensors
    except ImportError as error:
        raise MedusaError(_NO_SAFETENSORS) from error
    deserialize: Any = safetensors.deserialize
    return {name: _float32(**tensor) for name, tensor in deserialize(path.read_bytes())}


def _float32(dtype: str, shape: Sequence[int], data: bytes) -> Float32:
    if dtype == "BF16":  # NumPy does not know it: the upper half of a float32
        bits = np.frombuffer(data, "<u2").astype(np.uint32) << 16
        return bits.view(np.float32).reshape(shape)
    if dtype not in _DTYPES:
        raise ValueError(f"a tensor of type {dtype}, where {', '.join(_DTYPES)} or BF16 is allowed")
    return np.frombuffer(data, _DTYPES[dtype]).astype(np.float32).reshape(shape)


def _read_torch(path: Path) -> Tensors:
    try:
        import torch
    except ImportError as error:
        raise MedusaError(NO_TORCH) from error
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return {name: tensor.float().numpy() for name, tensor in state.items()}


def _heads(tensors: Tensors, source: Path) -> tuple[HeadWeights, ...]:
    parts: dict[tuple[int, int], dict[str, Float32]] = {}
    for name, tensor in tensors.items():
        match = _KEY.fullmatch(name)
        if match is None:
            raise MedusaError(f"{source.name} holds {name!r}; {_ALLOWED}")
        head, block, kind = int(match[1]), int(match[2]), match[3]
        parts.setdefault((head, block), {})[kind] = tensor
    n_heads = 1 + max((head for head, _ in parts), default=-1)
    if n_heads == 0:
        raise MedusaError(f"{source.name} holds no heads; {_ALLOWED}")
    heads = tuple(_head(parts, head, source) for head in range(n_heads))
    if len({len(head.weights) for head in heads}) > 1:
        raise MedusaError(f"the heads of {source.name} have different numbers of blocks")
    return heads


def _head(
    parts: Mapping[tuple[int, int], dict[str, Float32]], head: int, source: Path
) -> HeadWeights:
    blocks = sorted(block for one, block in parts if one == head)
    found = [parts[head, block] for block in blocks]
    is_whole = blocks == list(range(len(blocks))) and len(blocks) > 1
    if not is_whole or any(set(block) != {"weight", "bias"} for block in found[:-1]):
        raise MedusaError(f"head {head} of {source.name} is not whole; {_ALLOWED}")
    if set(found[-1]) != {"weight"}:
        raise MedusaError(f"head {head} of {source.name} has no output matrix; {_ALLOWED}")
    arrays = [array for block in found for array in block.values()]
    if not all(np.isfinite(array).all() for array in arrays):
        raise MedusaError(f"head {head} of {source.name} has weights that are NaN or infinite")
    return HeadWeights(
        tuple(block["weight"] for block in found[:-1]),
        tuple(block["bias"] for block in found[:-1]),
        found[-1]["weight"],
    )
