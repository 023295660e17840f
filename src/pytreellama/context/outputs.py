"""Outputs: what a context's last pass left, rows of logits and hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytreellama.closing import Closing
from pytreellama.context.native_context import NativeContext
from pytreellama.errors import BatchError, ContextError
from pytreellama.native.hidden import embedding, hidden_rows, keep_hidden
from pytreellama.native.logits import (
    NO_ROWS,
    argmax_rows,
    copy_floats,
    float_rows,
    logit,
    logits_row,
    logp_rows,
    top_k_rows,
    top_logp_row,
)

Int32 = NDArray[np.int32]
Float32 = NDArray[np.float32]


class Outputs(Closing):
    """The part of ``Context`` that reads what passes leave.

    Args:
        native: the context.
        n_vocab: length of a row of logits.
        has_embeddings: every token puts out a hidden state.
    """

    def __init__(self, native: NativeContext, n_vocab: int, has_embeddings: bool) -> None:
        self.native = native
        self.n_vocab = n_vocab
        self._has_embeddings = has_embeddings
        self._n_outputs = 0
        self._keeps_hidden = False

    def exclusive(self) -> AbstractContextManager[None]:
        """Hold the context for this thread; another thread's call meanwhile raises."""
        return self.native.exclusive()

    @property
    def n_outputs(self) -> int:
        """Rows of logits that the last pass left."""
        return self._n_outputs

    @property
    def logits(self) -> Float32:
        """Logits of the last pass, float32, shape (n_outputs, n_vocab): a copy."""
        with self.exclusive():
            return copy_floats(self._all_logits(), self._n_outputs, self.n_vocab)

    def logits_pointer(self, row: int) -> Any:
        """cdata ``float *`` to a row of logits, valid until the next pass.

        Raises:
            ContextError: the last pass left no such row.
        """
        if not 0 <= row < self._n_outputs:
            raise ContextError(
                f"row {row} of the logits was asked for, the last pass left {self._n_outputs}; "
                "flag the tokens whose logits you want"
            )
        return logits_row(self.native.handle, row, self.n_vocab)

    def logit(self, row: int, token: int) -> float:
        """One logit. Raises ``ContextError`` as ``logits_pointer``; the token must exist."""
        return logit(self.logits_pointer(row), token)

    @property
    def logits_view(self) -> Float32:
        """``logits`` without a copy: valid until the next pass."""
        return float_rows(self._all_logits(), self._n_outputs, self.n_vocab)

    def argmax(self) -> Int32:
        """The likeliest token of each row of logits, int32, shape (n_outputs,)."""
        with self.exclusive():
            return argmax_rows(self._all_logits(), self._n_outputs, self.n_vocab)

    def top_k(self, k: int, *, normalise: bool = True) -> tuple[Int32, Float32]:
        """The k likeliest tokens of each row, falling, and their log-probabilities.

        Args:
            normalise: False gives logits instead of log-probabilities, several times sooner.

        Returns:
            tokens int32 and logp float32 (natural logarithm, softmax at temperature 1), both of
            shape (n_outputs, k).
        """
        if not 1 <= k <= self.n_vocab:
            raise ContextError(f"k = {k} was asked for; allowed is 1 to {self.n_vocab}")
        with self.exclusive():
            return top_k_rows(
                self._all_logits(), self._n_outputs, self.n_vocab, k, normalise=normalise
            )

    def logp(self, tokens: Sequence[int] | Int32) -> Float32:
        """Log-probability of one token a row (softmax at temperature 1).

        Args:
            tokens: ids, shape (n_outputs,).

        Returns:
            float32, shape (n_outputs,), natural logarithms.

        Raises:
            BatchError: not one id a row, or ids out of the vocabulary.
        """
        ids = token_array(tokens)
        with self.exclusive():
            if len(ids) != self._n_outputs or ((ids < 0) | (ids >= self.n_vocab)).any():
                raise BatchError(
                    f"give one token id from 0 to {self.n_vocab - 1} for each of the "
                    f"{self._n_outputs} rows of logits"
                )
            return logp_rows(self._all_logits(), self._n_outputs, self.n_vocab, ids)

    def row_logp(self, row: int, token: int) -> float:
        """Log-probability of a token that exists, in one row."""
        ids = np.array([token], np.int32)
        return float(logp_rows(self.logits_pointer(row), 1, self.n_vocab, ids)[0])

    def row_top_logp(self, row: int, token: int, k: int) -> tuple[float, Int32, Float32]:
        """``row_logp`` of a token, and ``top_k`` of that row, both of shape (k,)."""
        return top_logp_row(self.logits_pointer(row), self.n_vocab, token, k)

    def _all_logits(self) -> Any:
        return self.logits_pointer(0) if self._n_outputs else NO_ROWS

    def keep_hidden(self) -> None:
        """From the next pass on, keep the hidden state behind every row of logits.

        Raises:
            ContextError: the context was made with ``embeddings=True``, where every token has one.
        """
        if self._has_embeddings:
            raise ContextError("make the context without embeddings=True to keep hidden states")
        with self.exclusive():
            keep_hidden(self.native.handle)
            self._keeps_hidden = True
            self._n_outputs = 0

    def hidden(self, rows: Sequence[int]) -> Float32:
        """The hidden states, behind the output norm, from which rows of logits were computed.

        Args:
            rows: of ``logits``, shape (n,).

        Returns:
            float32, shape (n, n_embd_out): a copy.

        Raises:
            ContextError: no ``keep_hidden`` before the pass, or no such row.
        """
        if not self._keeps_hidden:
            raise ContextError("call keep_hidden() before the pass whose hidden states you want")
        with self.exclusive():
            wanted = list(rows)
            if wanted and not 0 <= min(wanted) <= max(wanted) < self._n_outputs:
                raise ContextError(
                    f"rows {wanted} were asked for, the last pass left {self._n_outputs}"
                )
            return hidden_rows(self.native.handle, wanted, self.native.n_embd_out)

    def embedding(self, row: int = -1) -> Float32:
        """The hidden state behind an output, float32, shape (n_embd_out,): a copy.

        Args:
            row: index of a token of the last batch; -1 is the last output.

        Raises:
            ContextError: the context was not made with ``embeddings=True``, or no such row.
        """
        if not self._has_embeddings:
            raise ContextError("make the context with embeddings=True to get hidden states")
        with self.exclusive():
            state = None
            if self._n_outputs and -1 <= row < self._n_outputs:
                state = embedding(self.native.handle, row, self.native.n_embd_out)
            if state is None:
                raise ContextError(f"the last pass left no hidden state in row {row}")
            return state


def token_array(tokens: Sequence[int] | Int32) -> Int32:
    """Ids as int32, shape (n,). Raises ``BatchError`` for what does not fit."""
    wide = np.asarray(tokens)
    if wide.ndim != 1 or (wide.size and wide.dtype.kind not in "iu"):
        raise BatchError(f"give integers of shape (n,), not {wide.dtype} of shape {wide.shape}")
    limits = np.iinfo(np.int32)
    if wide.size and (wide.min() < limits.min or wide.max() > limits.max):
        raise BatchError("token ids and node indices must fit into 32 bits")
    return wide.astype(np.int32)
