"""EncoderContext: an encoder at work; reads whole texts, and keeps nothing of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pytreellama.closing import Closing
from pytreellama.context.batch import Batch
from pytreellama.context.native_context import NativeContext
from pytreellama.context.params import MAX_SEQUENCES, ContextParams
from pytreellama.context.token_ids import check_tokens
from pytreellama.errors import BatchError, ContextError
from pytreellama.model.model import Model
from pytreellama.native.encode import class_scores
from pytreellama.native.hidden import hidden_rows
from pytreellama.system import cpu_features, devices, has_invariant_products

Int32 = NDArray[np.int32]
Float32 = NDArray[np.float32]


class EncoderContext(Closing):
    """The passes of an encoder (BERT and its like), which has no KV cache.

    Many texts share a pass. On a CPU, what comes of a text depends on that text alone, to the last
    bit: where the model's passes cannot promise it (``is_batch_invariant``), each text has a pass
    of its own. It belongs to one thread at a time.

    Attributes:
        n_ctx: most tokens of a pass.
        n_text_max: most tokens of a text: those of a pass, and the positions that the model has.
        n_texts_max: most texts of a pass.

    Args:
        model: an encoder; it may be closed before the context.
        params: of these, ``n_ctx`` (0: what the model was trained for), threads and
            ``flash_attention`` count.

    Raises:
        ContextError: not an encoder, or llama.cpp refuses.

    Example:
        >>> with EncoderContext(model, ContextParams(n_ctx=512)) as context:
        ...     (states,) = context.encode([model.vocab.encode_array(text, ...)])
    """

    def __init__(self, model: Model, params: ContextParams) -> None:
        if model.vocab_only or not model.is_encoder:
            raise ContextError(f"{model.path.name} ({model.architecture}) is not a loaded encoder")
        n_ctx = params.n_ctx or model.n_ctx_train
        # a text cannot be cut into passes
        self._params = replace(
            params,
            n_ctx=n_ctx,
            n_batch=n_ctx,
            n_ubatch=n_ctx,
            n_seq_max=1,
            n_rs_seq=0,
            kv_unified=True,
            embeddings=True,
        )
        self._model = model.share()
        self._n_class = model.n_class
        self._native = NativeContext(model, self._params)
        self._classifier: NativeContext | None = None
        self.n_ctx, self.n_threads = self._native.n_ubatch, self._native.n_threads
        self.n_text_max = min(self.n_ctx, model.n_positions or self.n_ctx)
        self.n_texts_max = MAX_SEQUENCES
        self._batch = Batch(self.n_ctx)

    @property
    def closed(self) -> bool:
        return self._native.closed

    def close(self) -> None:
        """Free the buffers; a second call does nothing."""
        for native in (self._native, self._classifier):
            if native is not None:
                native.close()
        self._model.close()

    def abort(self) -> None:
        """End the pass that another thread is waiting for, as ``Context.abort``."""
        for native in (self._native, self._classifier):
            if native is not None:
                native.abort()

    @property
    def is_batch_invariant(self) -> bool:
        """True where hidden states do not depend on the other texts of a pass, to the last bit."""
        return _on_cpu() and _is_invariant(self._native)

    def encode(self, texts: Sequence[Int32]) -> list[Float32]:
        """Hidden states of texts, as few passes as they take.

        Args:
            texts: token ids of each, shape (n,), n >= 1.

        Returns:
            For each text float32, shape (n, n_embd_out), behind the output norm.

        Raises:
            BatchError: a text that is empty, longer than ``n_text_max``, or of unknown tokens.
            DecodeError: the backend failed, or the pass was aborted.
        """
        states: list[Float32] = []
        for part in self._passes(texts, self._native):
            n_tokens = self._run(part, self._native)
            rows = hidden_rows(self._native.handle, list(range(n_tokens)), self._native.n_embd_out)
            ends = np.cumsum([len(text) for text in part])
            states += np.split(rows, ends[:-1])
        return states

    def class_scores(self, texts: Sequence[Int32]) -> Float32:
        """The classifier's outputs for texts, float32, shape (n_texts, n_class); as ``encode``.

        Raises:
            ContextError: the model has no classifier.
        """
        if self._n_class == 0:
            raise ContextError(
                f"{self._model.path.name} has no classifier over texts; load a reranker"
            )
        if self._classifier is None:
            self._classifier = NativeContext(self._model, self._params, ranks=True)
        scores = [np.empty((0, self._n_class), np.float32)]
        for part in self._passes(texts, self._classifier):
            self._run(part, self._classifier)
            scores.append(class_scores(self._classifier.handle, len(part), self._n_class))
        return np.concatenate(scores)

    def _passes(self, texts: Sequence[Int32], native: NativeContext) -> Iterator[list[Int32]]:
        """The texts of each pass, in order."""
        n_texts_max = self.n_texts_max if _is_invariant(native) or not _on_cpu() else 1
        part: list[Int32] = []
        for text in texts:
            self._check(text)
            n_tokens = sum(map(len, part)) + len(text)
            if part and (n_tokens > self.n_ctx or len(part) == n_texts_max):
                yield part
                part = []
            part.append(text)
        if part:
            yield part

    def _check(self, text: Int32) -> None:
        if not 1 <= len(text) <= self.n_text_max:
            raise BatchError(
                f"a text of {len(text)} tokens was given; an encoder reads 1 to {self.n_text_max} "
                "in one pass"
            )
        check_tokens(text, self._model.vocab.n_tokens, "text")

    def _run(self, texts: Sequence[Int32], native: NativeContext) -> int:
        """Run a pass; returns its number of tokens."""
        batch = self._batch
        with native.exclusive():
            batch.clear()
            for i, text in enumerate(texts):
                batch.add(text, np.arange(len(text)), i, np.ones(len(text), np.bool_))
            native.encode(batch.as_struct())
        return batch.n_tokens


def _on_cpu() -> bool:
    return all(device.kind == "cpu" for device in devices())


def _is_invariant(native: NativeContext) -> bool:
    return native.has_invariant_graph and has_invariant_products(cpu_features())
