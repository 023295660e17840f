"""Token ids as arrays, and the check that a vocabulary has them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pytreellama.errors import BatchError

Int32 = NDArray[np.int32]


def token_array(tokens: Sequence[int] | Int32) -> Int32:
    """A copy of ids as int32, shape (n,). Raises ``BatchError`` for what does not fit."""
    wide = np.asarray(tokens)
    if wide.ndim != 1 or (wide.size and wide.dtype.kind not in "iu"):
        raise BatchError(f"give integers of shape (n,), not {wide.dtype} of shape {wide.shape}")
    limits = np.iinfo(np.int32)
    if wide.size and (wide.min() < limits.min or wide.max() > limits.max):
        raise BatchError("token ids and node indices must fit into 32 bits")
    return wide.astype(np.int32)


def check_tokens(tokens: Int32, n_vocab: int, where: str = "batch") -> None:
    """Raise ``BatchError`` unless all ids, int32 of shape (n,), are in the vocabulary.

    Args:
        where: what holds the tokens, for the error.
    """
    wrong = (tokens < 0) | (tokens >= n_vocab)
    if wrong.any():
        i = int(wrong.argmax())
        raise BatchError(
            f"token {i} of the {where} has id {tokens[i]}; ids are from 0 to {n_vocab - 1}"
        )
