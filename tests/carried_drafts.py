"""Tiny targets with the drafts that go with them: NextN layers, and an EAGLE-3 model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
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
CARRIED_KINDS = (*MTP_KINDS, "eagle3")
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
def carried(kind: str, path_of: Callable[..., Path]) -> Iterator[Carried]:
    """A target and its draft, closed at the end."""
    is_eagle = kind == "eagle3"
    with (
        Model(path_of(EAGLE3_TARGET if is_eagle else kind), load_mtp=True) as model,
        Model(path_of(kind), load_mtp=True) as draft_model,
        Context(model, n_ctx=256, n_seq_max=4, n_threads=1) as target,
    ):
        layers = draft_model.target_layers if is_eagle else [model.n_layer]
        target.outputs.keep_features(layers)
        whose = draft_model if is_eagle else model
        with DraftContext(whose, target, n_seq_max=4, is_mtp=not is_eagle) as draft:
            yield Carried(target, draft, layers, is_eagle)
