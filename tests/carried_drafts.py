"""Tiny targets with the drafts that go with them: NextN layers, and an EAGLE-3 model."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import GGUFReader
from numpy.typing import NDArray

from pytreellama import Context, Model
from pytreellama.context.draft_context import DraftContext, Piece

Int32 = NDArray[np.int32]
Float32 = NDArray[np.float32]

MTP_KINDS = (
    "bailingmoe3-mtp",
    "deepseek2-mtp",
    "deepseek32-mtp",
    "glm-dsa-mtp",
    "glm4moe-mtp",
    "nemotron_h_moe-mtp",
    "qwen35-mtp",
    "qwen35moe-mtp",
    "qwen3next-mtp",
)
EAGLE3_KINDS = ("eagle3", "eagle3-d2t")
CARRIED_KINDS = (*MTP_KINDS, *EAGLE3_KINDS)
EAGLE3_TARGET = "rope"


@dataclass
class Carried:
    """A target at work, and the context of its draft.

    Attributes:
        layers: of the target, whose states the draft reads.
        reads_next: EAGLE-3's cell holds a token with the state before it, and there is none for
            the first token.
    """

    target: Context
    draft: DraftContext
    layers: list[int]
    reads_next: bool

    def features(self, tokens: Int32) -> Float32:
        """What the target leaves of each token of a text, float32, shape (n, n_embd)."""
        seq = self.target.prefill(tokens)
        rows = self.target.outputs.features(range(len(tokens)), self.layers)
        self.target.sequences.free(seq)
        return self.draft.encode(rows) if self.reads_next else rows

    def piece(self, tokens: Int32, seq: int) -> Piece:
        """A whole text as the draft reads it."""
        states = self.features(tokens)[:-1]
        if self.reads_next:
            return Piece(seq, tokens[1:], states)
        nothing = np.zeros((1, self.draft.n_embd), np.float32)
        return Piece(seq, tokens, np.concatenate([nothing, states]))


@contextmanager
def carried(kind: str, path_of: Callable[..., Path], n_threads: int = 1) -> Iterator[Carried]:
    """A target and its draft, closed at the end."""
    is_eagle = kind in EAGLE3_KINDS
    with (
        Model(path_of(EAGLE3_TARGET if is_eagle else kind), load_mtp=True) as model,
        Model(path_of(kind), load_mtp=True) as draft_model,
        Context(model, n_ctx=256, n_seq_max=4, n_threads=n_threads) as target,
    ):
        layers = draft_model.target_layers if is_eagle else [model.n_layer]
        target.outputs.keep_features(layers)
        whose = draft_model if is_eagle else model
        with DraftContext(whose, target, n_seq_max=4, is_mtp=not is_eagle) as draft:
            yield Carried(target, draft, layers, is_eagle)


def agreeing(path: Path, to: Path, *, gain: float = 0.0) -> Path:
    """A copy of a model with NextN layers in which they predict what the model will say.

    What follows hangs on the last token alone: the other parts of all blocks count ``gain`` times
    as much, and the NextN layers pass the token's embedding through.
    """
    shutil.copy(path, to)
    tensors = {tensor.name: tensor for tensor in GGUFReader(to, "r+").tensors}
    norm = tensors["output_norm.weight"].data
    for name, tensor in tensors.items():
        if any(part in name for part in ("attn_output", "ffn_down", "ssm_out")):
            tensor.data[:] *= np.float32(gain)
        elif name.endswith("eh_proj.weight"):
            tensor.data[:] = np.eye(*tensor.data.shape, dtype=np.float32)
        elif name.endswith("enorm.weight"):
            tensor.data[:] = 1.0
        elif name.endswith("shared_head_norm.weight"):
            tensor.data[:] = norm
    return to
