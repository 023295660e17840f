"""Weights: what heads are made of in memory, and the GGUF file that they become."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytreellama.files import replaced_path
from pytreellama.model.heads import Sees
from pytreellama.training.gguf_types import FileType, add_fact, gguf_for

Float32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class HeadWeights:
    """One head, in float32.

    weights: of each block, shape (n_embd, n_in); n_in of the first is n_embd for the state and
    n_embd for each token that the head sees, of the others n_embd. biases: shape (n_embd,) each.
    output: shape (n_rows, n_embd), or None where the model's own output matrix is used.
    """

    weights: tuple[Float32, ...]
    biases: tuple[Float32, ...]
    output: Float32 | None = None


@dataclass(frozen=True, slots=True)
class HeadsFile:
    """Everything that a file of heads holds.

    sees: what a head sees besides the hidden state. model_name, model_hash: see ``model_hash``.
    shortlist: the tokens of the rows, int32, shape (n_rows,); None if each token has one.
    n_deep_rows: rows of it, the first, that heads after the first have; None for all.
    row_type: what the model's rows of a shortlist become if theirs is larger; None leaves them.
    facts: further metadata, such as of the training; text, numbers, or lists of numbers.
    """

    heads: tuple[HeadWeights, ...]
    sees: Sees
    model_name: str
    model_hash: str
    shortlist: NDArray[np.int32] | None = None
    n_deep_rows: int | None = None
    row_type: FileType | None = None
    logit_scale: float = 1.0
    licence: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    def write(self, path: str | os.PathLike[str], file_type: FileType = "f16") -> None:
        """Write the file, which is replaced only when all is written.

        Args:
            file_type: of the blocks' weights and output matrices.

        Raises:
            MedusaError: the package gguf is missing, or a width that the type cannot hold.
            OSError: it cannot be written.
        """
        first = self.heads[0]
        n_embd = len(first.biases[0])
        gguf = gguf_for(file_type, n_embd)
        with replaced_path(path) as part:
            writer = gguf.GGUFWriter(part, "medusa")
            writer.add_name(f"Medusa heads for {self.model_name}")
            if self.licence:
                writer.add_license(self.licence)
            writer.add_uint32("medusa.head_count", len(self.heads))
            writer.add_uint32("medusa.block_count", len(first.weights))
            writer.add_uint32("medusa.embedding_length", n_embd)
            writer.add_string("medusa.sees", self.sees)
            writer.add_float32("medusa.logit_scale", self.logit_scale)
            writer.add_string("medusa.model.name", self.model_name)
            writer.add_string("medusa.model.hash", self.model_hash)
            if self.row_type is not None:
                writer.add_string("medusa.row_type", self.row_type)
            if self.n_deep_rows is not None:
                writer.add_uint32("medusa.deep_rows", self.n_deep_rows)
            for key, value in self.facts.items():
                add_fact(writer, f"medusa.{key}", value)
            if self.shortlist is not None:
                writer.add_tensor("shortlist", self.shortlist.astype(np.int32))
            for name, matrix in self._matrices():
                kind = gguf.GGMLQuantizationType[file_type.upper()]
                writer.add_tensor(name, gguf.quants.quantize(matrix, kind), raw_dtype=kind)
            for name, bias in self._biases():
                writer.add_tensor(name, bias.astype(np.float32))
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()

    def _matrices(self) -> list[tuple[str, Float32]]:
        found = []
        for i, head in enumerate(self.heads):
            found += [(f"head.{i}.block.{j}.weight", w) for j, w in enumerate(head.weights)]
            if head.output is not None:
                found.append((f"head.{i}.output.weight", head.output))
        return [(name, np.ascontiguousarray(matrix, np.float32)) for name, matrix in found]

    def _biases(self) -> list[tuple[str, Float32]]:
        return [
            (f"head.{i}.block.{j}.bias", bias)
            for i, head in enumerate(self.heads)
            for j, bias in enumerate(head.biases)
        ]
