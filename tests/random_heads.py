"""Files of Medusa heads with random weights, and what they compute, in float64."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytreellama import Model
from pytreellama.medusa.weights import HeadsFile, HeadWeights
from pytreellama.model.heads import Sees
from pytreellama.training.gguf_types import FileType
from pytreellama.training.target import Target

Float64 = NDArray[np.float64]


def random_heads(
    model: Model,
    *,
    sees: Sees = "none",
    n_heads: int = 3,
    n_layers: int = 1,
    n_shortlist: int = 0,
    has_output: bool = False,
    n_deep_rows: int | None = None,
    row_type: FileType | None = None,
    logit_scale: float = 1.0,
    seed: int = 0,
) -> HeadsFile:
    """Heads of which every weight matters."""
    random = np.random.default_rng(seed)
    target = Target(model)
    n_embd, n_vocab = target.n_embd, target.n_vocab
    n_rows = n_shortlist or n_vocab
    heads = []
    for head in range(n_heads):
        n_seen = {"none": 0, "root": 1, "path": 1 + head}[sees]
        widths = [n_embd * (1 + n_seen)] + [n_embd] * (n_layers - 1)
        weights = [random.normal(0, 0.3 / np.sqrt(n), (n_embd, n)) for n in widths]
        biases = [random.normal(0, 0.1, n_embd) for _ in widths]
        output = random.normal(0, 1, (n_rows, n_embd)) if has_output else None
        heads.append(
            HeadWeights(
                tuple(weight.astype(np.float32) for weight in weights),
                tuple(bias.astype(np.float32) for bias in biases),
                None if output is None else output.astype(np.float32),
            )
        )
    shortlist = random.permutation(n_vocab)[:n_shortlist].astype(np.int32) if n_shortlist else None
    return HeadsFile(
        tuple(heads),
        sees,
        target.name,
        target.hash,
        shortlist=shortlist,
        n_deep_rows=n_deep_rows,
        row_type=row_type,
        logit_scale=logit_scale,
        licence="mit",
    )


def write_random_heads(
    model: Model, path: Path, file_type: FileType = "f32", **options: Any
) -> HeadsFile:
    """Write such a file, and return what is in it."""
    heads = random_heads(model, **options)
    heads.write(path, file_type)
    return heads


def expected_logits(
    heads: HeadsFile, model: Model, head: int, state: NDArray[np.float32], seen: Sequence[int]
) -> Float64:
    """What a head makes of a state and the tokens that it sees, shape (n_rows,)."""
    target = Target(model)
    weights = heads.heads[head]
    x = state.astype(np.float64)
    inner = x
    if seen:
        inner = np.concatenate([x, *target.embeddings()[list(seen)].astype(np.float64)])
    for weight, bias in zip(weights.weights, weights.biases, strict=True):
        z = weight.astype(np.float64) @ inner + bias
        x = x + z / (1.0 + np.exp(-z))
        inner = x
    rows = np.arange(target.n_vocab, dtype=np.int32) if heads.shortlist is None else heads.shortlist
    rows = rows[: heads.n_deep_rows] if head > 0 else rows
    output = target.output_rows(rows) if weights.output is None else weights.output
    return np.asarray(heads.logit_scale * (output.astype(np.float64) @ x))
