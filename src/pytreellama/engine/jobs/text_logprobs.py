"""TextLogprobsJob: log-probabilities of a text's own tokens."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pytreellama.context.batch import Batch
from pytreellama.context.context import Context
from pytreellama.engine.completion import TokenLogp
from pytreellama.engine.jobs.evaluation import ChunkedEvaluationJob
from pytreellama.engine.token_state import Int32


class TextLogprobsJob(ChunkedEvaluationJob):
    """Runs a text in chunks, and reads each token's probability at the token before it.

    Args:
        tokens: of the text, as ``Job``'s prompt.
        n_top: the likeliest tokens that are reported at each position, besides the text's own.
        n_chunk: tokens of a pass.

    Attributes:
        logprobs: of all tokens but the first, which nothing comes before.
        ranks: how many tokens are as likely or likelier than the text's, itself included; int64,
            shape (n - 1,).
    """

    def __init__(self, tokens: Int32, n_top: int, n_chunk: int) -> None:
        super().__init__(tokens, n_chunk)
        self._n_top = n_top
        self._ranks: list[NDArray[np.int64]] = []
        self.logprobs: list[TokenLogp] = []

    @property
    def ranks(self) -> NDArray[np.int64]:
        """See the class."""
        return np.concatenate([np.zeros(0, np.int64), *self._ranks])

    def run(self, context: Context) -> None:
        """See EvaluationJob."""
        begin = self.state.n_past
        end = begin + self.n_cells
        batch = Batch(end - begin)
        flags = np.ones(end - begin, bool)
        batch.add(self.state.ids[begin:end], np.arange(begin, end), self.require_id(), flags)
        context.decode(batch)
        if begin == 0:
            self.logprobs.clear()
            self._ranks.clear()
        self._read(context, self.state.ids[begin + 1 : end + 1])
        self.state.n_past = end
        if end == len(self.state):
            self.finish("stop")

    def _read(self, context: Context, tokens: Int32) -> None:
        """Read the log-probability of each token at its row; the text's last row has none."""
        outputs = context.outputs
        for row, token in enumerate(tokens.tolist()):
            if self._n_top == 0:
                self.logprobs.append(TokenLogp(token, outputs.logp(row, token)))
                continue
            logp, top, logps = outputs.top_logp(row, token, self._n_top)
            pairs = tuple(zip(top.tolist(), logps.tolist(), strict=True))
            self.logprobs.append(TokenLogp(token, logp, pairs))
        logits = outputs.logits_view[: len(tokens)]
        own = logits[np.arange(len(tokens)), tokens]
        self._ranks.append((logits >= own[:, None]).sum(axis=1))
