"""EmbedJob: a vector of one text, pooled from the hidden states of its tokens."""

from __future__ import annotations

import numpy as np

from pytreellama.context.batch import Batch
from pytreellama.context.context import Context
from pytreellama.engine.jobs.evaluation import ChunkedEvaluationJob
from pytreellama.engine.jobs.pooling import Float32, Pooling, pooled, unit_vector
from pytreellama.engine.token_state import Int32


class EmbedJob(ChunkedEvaluationJob):
    """Runs a text in chunks and pools the hidden states after the output norm.

    Args:
        tokens: of the text, as ``Job``'s prompt.
        pooling: "mean" of all tokens' states, the "last" token's, or the first one's ("cls").
        n_chunk: tokens of a pass.

    Attributes:
        embedding: float32, shape (n_embd_out,), of length 1, once the job has finished.
    """

    def __init__(self, tokens: Int32, pooling: Pooling, n_chunk: int) -> None:
        super().__init__(tokens, n_chunk)
        self._pooling = pooling
        self._sum = np.zeros(0, np.float64)
        self.embedding: Float32 = np.zeros(0, np.float32)

    def run(self, context: Context) -> None:
        """See EvaluationJob."""
        context.outputs.keep_hidden()
        begin = self.state.n_past
        end = begin + self.n_cells
        flags = np.full(end - begin, self._pooling == "mean")
        flags[0 if self._pooling == "cls" else -1] = True
        batch = Batch(end - begin)
        batch.add(self.state.ids[begin:end], np.arange(begin, end), self.require_id(), flags)
        context.decode(batch)
        self._take(context.outputs.hidden(range(int(flags.sum()))), is_first=begin == 0)
        self.state.n_past = end
        if end == len(self.state):
            self.embedding = unit_vector(self._sum)
            self.finish("stop")

    def _take(self, states: Float32, is_first: bool) -> None:
        """Add the states of a chunk to what those before it left."""
        if is_first or self._pooling == "last":
            self._sum = pooled(states, self._pooling)
        elif self._pooling == "mean":
            self._sum += pooled(states, self._pooling)
