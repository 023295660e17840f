"""HeadFile: a trained head as a GGUF file of llama.cpp's ``eagle3`` format."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytreellama.eagle.network import HeadShape
from pytreellama.files import replaced_path
from pytreellama.training.gguf_types import FileType, add_fact, gguf_for
from pytreellama.training.target import Target

Float32 = NDArray[np.float32]
Int32 = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class HeadFile:
    """Everything that a file of a head holds, besides what it copies from the target's file.

    Attributes:
        shape: sizes.
        arrays: float32, by the names of their tensors without ``.weight``: those of
            ``HeadShape.sizes``, and ``output``, shape (n_rows, n_embd).
        shortlist: the tokens of the output's rows, int32, shape (n_rows,); None if each token has
            one.
        layers: of the target, whose inputs the head reads.
        facts: further metadata, such as of the training; text, numbers, or lists of numbers.
    """

    shape: HeadShape
    arrays: Mapping[str, Float32]
    shortlist: Int32 | None
    layers: Sequence[int]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def write(
        self, path: str | os.PathLike[str], target: Target, file_type: FileType = "q8_0"
    ) -> None:
        """Write the file, which is replaced only when all is written.

        Args:
            target: whose head it is; its vocabulary is copied.
            file_type: of the matrices. ``fc`` stays bfloat16: channels differ a thousandfold.

        Raises:
            MedusaError: the package gguf is missing, or a width that the type cannot hold.
            OSError: it cannot be written.
        """
        gguf = gguf_for(file_type, self.shape.n_embd)
        with replaced_path(path) as part:
            writer = gguf.GGUFWriter(part, "eagle3")
            writer.add_name(f"EAGLE-3 head for {target.name}")
            if target.licence:
                writer.add_license(target.licence)
            self._add_shape(writer, target)
            for key, value in self.facts.items():
                add_fact(writer, f"eagle3.{key}", value)
            _copy_vocabulary(gguf, target.path, writer)
            if self.shortlist is not None:
                writer.add_tensor("d2t", self.shortlist.astype(np.int64))
            for name, array in self.arrays.items():
                self._add_array(gguf, writer, name, array, file_type)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()

    def _add_shape(self, writer: Any, target: Target) -> None:
        shape = self.shape
        writer.add_block_count(1)
        writer.add_context_length(target.n_ctx_train)
        writer.add_embedding_length(shape.n_embd)
        writer.add_feed_forward_length(shape.n_ff)
        writer.add_head_count(shape.n_head)
        writer.add_head_count_kv(shape.n_head_kv)
        writer.add_key_length(shape.head_dim)
        writer.add_value_length(shape.head_dim)
        writer.add_rope_dimension_count(shape.head_dim)
        writer.add_rope_freq_base(shape.rope_base)
        writer.add_layer_norm_rms_eps(shape.eps)
        writer.add_vocab_size(target.n_vocab)
        writer.add_array("eagle3.target_layers", list(self.layers))
        writer.add_uint32("eagle3.target_hidden_size", target.n_embd)

    def _add_array(
        self, gguf: Any, writer: Any, name: str, array: Float32, file_type: FileType
    ) -> None:
        if array.ndim == 1:
            writer.add_tensor(f"{name}.weight", array.astype(np.float32))
            return
        small = name == "fc" and file_type != "f32"
        kind = gguf.GGMLQuantizationType["BF16" if small else file_type.upper()]
        rows = np.ascontiguousarray(array, np.float32)
        writer.add_tensor(f"{name}.weight", gguf.quants.quantize(rows, kind), raw_dtype=kind)


def _copy_vocabulary(gguf: Any, path: Path, writer: Any) -> None:
    """Copy the tokenizer's keys: a head's file must have the target's vocabulary."""
    string, array = gguf.GGUFValueType.STRING, gguf.GGUFValueType.ARRAY
    for key, found in gguf.GGUFReader(path).fields.items():
        if not key.startswith("tokenizer.") or key.startswith("tokenizer.chat_template"):
            continue
        kind = found.types[0]
        inner = found.types[-1] if kind == array else None
        value = found.contents()
        if kind == array and inner == string:
            writer.add_array(key, value)
        else:
            writer.add_key_value(key, value, kind, sub_type=inner)
