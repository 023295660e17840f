"""Random token ids that every tiny model knows and none ends a text with."""

from __future__ import annotations

import numpy as np


def text_of(n_tokens: int, seed: int = 7) -> list[int]:
    """Ids from 3 to 249; a short text begins a longer one of the same seed."""
    return [int(token) for token in np.random.default_rng(seed).integers(3, 250, n_tokens)]
