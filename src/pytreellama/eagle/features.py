"""Features: the hidden states of a model over a text, which its EAGLE-3 head learns from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pytreellama.context.batch import Batch
from pytreellama.context.context import Context
from pytreellama.model.model import Model

Int32 = NDArray[np.int32]
Float16 = NDArray[np.float16]

_N_BATCH = 512
_MAX_FLOAT16 = np.finfo(np.float16).max


@dataclass(frozen=True, slots=True)
class Lesson:
    """A text with the hidden states that a head is trained on.

    Attributes:
        prompt: token ids, int32, shape (n_prompt,), n_prompt >= 1.
        answer: token ids, int32, shape (n_answer,).
        features: what the head's layers of the target read of all tokens but the last, side by
            side, float16, shape (n_prompt + n_answer - 1, 3 * n_embd).
        states: state i is that from which the target draws answer token i, float16, shape
            (n_answer, n_embd).
    """

    prompt: Int32
    answer: Int32
    features: Float16
    states: Float16


def head_layers(n_layer: int) -> tuple[int, int, int]:
    """The layers of a target whose inputs a new head reads: an early, a middle and a late one.

    Source: EAGLE-3 (arXiv 2503.01840).
    """
    last = n_layer - 1
    return min(2, last), n_layer // 2, max(n_layer - 3, n_layer // 2)


class FeatureReader:
    """Reads texts and returns their lessons.

    On one thread: it works beside the engine that writes the next texts.

    Args:
        model: the target; it stays the caller's to close.
        layers: whose inputs a head reads.
        n_ctx: maximum number of tokens of a text.

    Raises:
        ContextError: the model does not offer these layers' inputs or its hidden states.
    """

    def __init__(self, model: Model, layers: Sequence[int], n_ctx: int) -> None:
        self._layers = list(layers)
        n_batch = min(n_ctx, _N_BATCH)
        self._context = Context(model, n_ctx=n_ctx, n_batch=n_batch, n_seq_max=1, n_threads=1)
        self._batch = Batch(n_batch)
        try:
            self._context.outputs.keep_features(self._layers)
            self._context.outputs.keep_hidden()
        except BaseException:
            self._context.close()
            raise

    def close(self) -> None:
        self._context.close()

    def read(self, prompt: Int32, answer: Int32) -> Lesson:
        """The lesson of one text.

        Raises:
            CacheFullError: it is longer than ``n_ctx``.
        """
        tokens = np.concatenate([prompt, answer[:-1]])
        seq = self._context.sequences.new()
        try:
            passes = [
                self._pass(tokens, begin, seq, len(prompt) - 1)
                for begin in range(0, len(tokens), self._batch.capacity)
            ]
        finally:
            self._context.sequences.free(seq)
        features, states = (np.concatenate(rows) for rows in zip(*passes, strict=True))
        return Lesson(prompt, answer, features, states)

    def _pass(self, tokens: Int32, begin: int, seq: int, first: int) -> tuple[Float16, Float16]:
        """Features of the tokens of one pass, and the hidden states of those from ``first`` on."""
        end = min(begin + self._batch.capacity, len(tokens))
        places = np.arange(begin, end)
        self._batch.clear()
        self._batch.add(tokens[begin:end], places, seq, logits=places >= first)
        outputs = self._context.decode(self._batch)
        features = outputs.features(range(end - begin), self._layers)
        return _float16(features), _float16(outputs.hidden(range(self._batch.n_outputs)))


def _float16(rows: NDArray[np.float32]) -> Float16:
    """Some models' first tokens have states beyond float16's range."""
    return np.clip(rows, -_MAX_FLOAT16, _MAX_FLOAT16).astype(np.float16)
