"""EmbedJob: a vector of one text, pooled from the hidden states of its tokens."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pytreellama.context.batch import Batch
from pytreellama.context.context import Context
from pytreellama.engine.jobs.evaluation import EvaluationJob
from pytreellama.engine.token_state import Int32
from pytreellama.model.model import Model

Float32 = NDArray[np.float32]
Pooling = Literal["mean", "last"]
POOLINGS: tuple[Pooling, ...] = ("mean", "last")


class EmbedJob(EvaluationJob):
    """Runs a text in chunks and pools the hidden states after the output norm.

    Args:
        tokens: of the text, as ``Job``'s prompt.
        pooling: "mean" of all tokens' states, or the "last" token's state.
        n_chunk: tokens of a pass.

    Attributes:
        embedding: float32, shape (n_embd_out,), of length 1, once the job has finished.
    """

    def __init__(self, tokens: Int32, pooling: Pooling, n_chunk: int) -> None:
        super().__init__(tokens)
        self._pooling = pooling
        self._n_chunk = n_chunk
        self._sum = np.zeros(0, np.float64)
        self.embedding: Float32 = np.zeros(0, np.float32)

    @property
    def n_missing(self) -> int:
        """Nothing is prefilled: the states of all tokens are needed, and ``run`` computes them."""
        return 0

    @property
    def can_swap_out(self) -> bool:
        """The sum of states is not in the KV cache: after preemption the job starts over."""
        return False

    @property
    def n_cells(self) -> int:
        """See EvaluationJob."""
        return min(self._n_chunk, len(self.state) - self.state.n_past)

    def run(self, context: Context) -> None:
        """See EvaluationJob."""
        context.outputs.keep_hidden()
        begin = self.state.n_past
        end = begin + self.n_cells
        flags = np.full(end - begin, self._pooling == "mean")
        flags[-1] = True
        batch = Batch(end - begin)
        batch.add(self.state.ids[begin:end], np.arange(begin, end), self.require_id(), flags)
        context.decode(batch)
        states = context.outputs.hidden(range(int(flags.sum()))).astype(np.float64)
        before = self._sum if begin and self._pooling == "mean" else 0.0
        self._sum = before + states.sum(axis=0)
        self.state.n_past = end
        if end == len(self.state):
            length = float(np.linalg.norm(self._sum))
            self.embedding = (self._sum / (length or 1.0)).astype(np.float32)
            self.finish("stop")


def own_pooling(model: Model) -> Pooling:
    """The pooling that a model's file asks for: the last token's state, or by default the mean."""
    return "last" if model.pools_last_token else "mean"
