"""Outputs: what a context's last pass left, rows of logits and hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytreellama.context.native_context import NativeContext
from pytreellama.context.token_ids import token_array
from pytreellama.errors import BatchError, ContextError, shown
from pytreellama.native.drafts import features, keep_features
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


class Outputs:
    """Rows of logits and hidden states of a context's last pass; ``Context.outputs``.

    The object is live: it always shows the last pass. Row i belongs to the i-th token of the batch
    whose logits were asked for, or to node i of a tree that was decoded alone.

    Example:
        >>> outputs = context.decode(token, seq=seq)
        >>> outputs.logits.shape, int(outputs.argmax()[0])
        ((1, 49152), 28)

    Attributes:
        n_vocab: length of a row of logits.
        every_token: every token of a pass has a row, as in a context with ``embeddings=True``.
    """

    def __init__(self, native: NativeContext, n_vocab: int, every_token: bool) -> None:
        self._native = native
        self.n_vocab = n_vocab
        self.every_token = every_token
        self._n_rows = 0  # Passes sets both before and after each pass
        self._n_tokens = 0
        self._keeps_hidden = False

    @property
    def n_rows(self) -> int:
        """Number of rows of logits that the last pass left."""
        return self._n_rows

    @property
    def logits(self) -> Float32:
        """Logits of the last pass, float32, shape (n_rows, n_vocab): a copy."""
        with self._native.exclusive():
            return copy_floats(self._all_logits(), self._n_rows, self.n_vocab)

    def logits_pointer(self, row: int) -> Any:
        """cdata ``float *`` to a row of logits, valid until the next pass.

        Raises:
            ContextError: the last pass left no such row.
        """
        if not 0 <= row < self._n_rows:
            self._native.require_open()
            raise ContextError(
                f"row {row} of the logits was asked for, the last pass left {self._n_rows}; "
                "flag the tokens whose logits you want"
            )
        return logits_row(self._native.handle, row, self.n_vocab)

    def logit(self, row: int, token: int) -> float:
        """One logit.

        Raises:
            ContextError: the last pass left no such row.
            BatchError: not a token of the vocabulary.
        """
        self._require_token(token)
        return logit(self.logits_pointer(row), token)

    @property
    def logits_view(self) -> Float32:
        """``logits`` without a copy: valid until the next pass."""
        return float_rows(self._all_logits(), self._n_rows, self.n_vocab)

    def argmax(self) -> Int32:
        """The likeliest token of each row of logits, int32, shape (n_rows,)."""
        with self._native.exclusive():
            return argmax_rows(self._all_logits(), self._n_rows, self.n_vocab)

    def top_k(self, k: int, *, normalise: bool = True) -> tuple[Int32, Float32]:
        """The k likeliest tokens of each row, falling, and their log-probabilities.

        Args:
            normalise: False gives logits instead of log-probabilities, several times sooner.

        Returns:
            tokens int32 and logp float32 (natural logarithm, softmax at temperature 1), both of
            shape (n_rows, k).
        """
        self._require_k(k)
        with self._native.exclusive():
            return top_k_rows(
                self._all_logits(), self._n_rows, self.n_vocab, k, normalise=normalise
            )

    def token_logps(self, tokens: Sequence[int] | Int32) -> Float32:
        """Log-probability of one token a row (softmax at temperature 1).

        Args:
            tokens: ids, shape (n_rows,).

        Returns:
            float32, shape (n_rows,), natural logarithms.

        Raises:
            BatchError: not one id a row, or ids out of the vocabulary.
        """
        ids = token_array(tokens)
        with self._native.exclusive():
            rows = self._all_logits()
            if len(ids) != self._n_rows or ((ids < 0) | (ids >= self.n_vocab)).any():
                raise BatchError(
                    f"give one token id from 0 to {self.n_vocab - 1} for each of the "
                    f"{self._n_rows} rows of logits"
                )
            return logp_rows(rows, self._n_rows, self.n_vocab, ids)

    def logp(self, row: int, token: int) -> float:
        """Log-probability of a token in one row (softmax at temperature 1). Raises as ``logit``."""
        self._require_token(token)
        ids = np.array([token], np.int32)
        return float(logp_rows(self.logits_pointer(row), 1, self.n_vocab, ids)[0])

    def top_logp(self, row: int, token: int, k: int) -> tuple[float, Int32, Float32]:
        """``logp`` of a token and, in the same reading, ``top_k`` of its row.

        Returns:
            The token's log-probability, and the k likeliest tokens and theirs, both of shape (k,).

        Raises:
            ContextError: the last pass left no such row, or k is not 1 to ``n_vocab``.
            BatchError: not a token of the vocabulary.
        """
        self._require_token(token)
        self._require_k(k)
        return top_logp_row(self.logits_pointer(row), self.n_vocab, token, k)

    def _require_token(self, token: int) -> None:
        if not 0 <= token < self.n_vocab:
            raise BatchError(
                f"invalid token={shown(token)}: expected an id from 0 to {self.n_vocab - 1}"
            )

    def _require_k(self, k: int) -> None:
        if not 1 <= k <= self.n_vocab:
            raise ContextError(f"invalid k={k}: expected 1 to {self.n_vocab}")

    def _all_logits(self) -> Any:
        self._native.require_open()
        return self.logits_pointer(0) if self._n_rows else NO_ROWS

    def keep_hidden(self) -> None:
        """From the next pass on, keep the hidden state behind every row of logits.

        Raises:
            ContextError: the context was made with ``embeddings=True``, where every token has one,
                or this version of llama.cpp cannot return those of the model.
        """
        if self._native.no_hidden is not None:
            raise ContextError(self._native.no_hidden)
        if self.every_token:
            raise ContextError("make the context without embeddings=True to keep hidden states")
        with self._native.exclusive():
            keep_hidden(self._native.handle)
            self._keeps_hidden = True
            self._n_rows = 0

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
        with self._native.exclusive():
            wanted = list(rows)
            if wanted and not 0 <= min(wanted) <= max(wanted) < self._n_rows:
                raise ContextError(
                    f"rows {wanted} were asked for, the last pass left {self._n_rows}"
                )
            return hidden_rows(self._native.handle, wanted, self._native.n_embd_out)

    def keep_features(self, layers: Sequence[int]) -> None:
        """From the next pass on, keep what some layers read of every token, flagged or not.

        Args:
            layers: indices; ``model.n_layer`` stands for the state that NextN layers read.

        Raises:
            ContextError: the model does not offer one of them.
        """
        with self._native.exclusive():
            keep_features(self._native.handle, layers)
            self._n_rows = self._n_tokens = 0

    def features(self, tokens: Sequence[int], layers: Sequence[int]) -> Float32:
        """What layers read of tokens of the last pass, for a draft model.

        Args:
            tokens: places in the batch, or nodes of the tree that was decoded alone.
            layers: as in ``keep_features``, which has been called with them.

        Returns:
            float32, shape (n_tokens, n_layers * n_embd_out), the layers side by side: a copy.

        Raises:
            ContextError: no ``keep_features`` before the pass, or no such token.
        """
        with self._native.exclusive():
            wanted = list(tokens)
            if wanted and not 0 <= min(wanted) <= max(wanted) < self._n_tokens:
                raise ContextError(
                    f"states of tokens {shown(wanted)} were asked for, the last pass had "
                    f"{self._n_tokens}"
                )
            return features(self._native.handle, layers, wanted, self._native.n_embd_out)

    def embedding(self, row: int = -1) -> Float32:
        """The hidden state behind an output, float32, shape (n_embd_out,): a copy.

        Args:
            row: index of a token of the last batch; -1 is the last output.

        Raises:
            ContextError: the context was not made with ``embeddings=True``, or no such row.
        """
        if not self.every_token:
            raise ContextError("make the context with embeddings=True to get hidden states")
        with self._native.exclusive():
            state = None
            if self._n_rows and -1 <= row < self._n_rows:
                state = embedding(self._native.handle, row, self._native.n_embd_out)
            if state is None:
                raise ContextError(f"the last pass left no hidden state in row {row}")
            return state
