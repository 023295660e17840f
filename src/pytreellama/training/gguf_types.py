"""What files of heads are written with: the package gguf, and the types of weights."""

from __future__ import annotations

from typing import Any, Literal

from pytreellama.errors import MedusaError

FileType = Literal["f32", "f16", "q8_0", "q5_1", "q4_1"]
FILE_TYPES: tuple[FileType, ...] = ("f32", "f16", "q8_0", "q5_1", "q4_1")

NO_GGUF = "heads are written with the package gguf: pip install 'pytreellama[train]'"


def gguf_for(file_type: FileType, n_embd: int) -> Any:
    """The package gguf; raises MedusaError if it is missing, or the type cannot hold the width."""
    try:
        import gguf
    except ImportError as error:
        raise MedusaError(NO_GGUF) from error
    if file_type not in ("f32", "f16") and n_embd % 32:
        raise MedusaError(f"{file_type} takes widths of 32, not {n_embd}; give the type f16 or f32")
    return gguf


def add_fact(writer: Any, key: str, value: Any) -> None:
    """Add a key of metadata, of the type that its value has in Python."""
    if isinstance(value, str):
        writer.add_string(key, value)
    elif isinstance(value, int):
        writer.add_uint64(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_array(key, list(value))
