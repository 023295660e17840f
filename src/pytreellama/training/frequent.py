"""Shortlists: the tokens that a head can draft."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def frequent_tokens(tokens: NDArray[np.int32], n_vocab: int, n: int) -> NDArray[np.int32]:
    """The ``n`` most frequent tokens, falling; all of the vocabulary, in order, for 0.

    Among equals, smaller ids come first: they are mostly more frequent.
    """
    if n == 0 or n >= n_vocab:
        return np.arange(n_vocab, dtype=np.int32)
    counts = np.bincount(tokens, minlength=n_vocab)
    return np.argsort(-counts, kind="stable")[:n].astype(np.int32)


def rows_of_tokens(shortlist: NDArray[np.int32], n_vocab: int) -> NDArray[np.int64]:
    """The row of each token in a shortlist, shape (n_vocab,); -100, as PyTorch, for others."""
    rows = np.full(n_vocab, -100)
    rows[shortlist] = np.arange(len(shortlist))
    return rows
