"""RowFunctions: the user's own functions over the rows of logits that a request visits."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from pytreellama.context.outputs import Outputs
from pytreellama.engine.token_state import TokenState
from pytreellama.errors import RequestError
from pytreellama.sampling.sampler import Sampler

Int32 = NDArray[np.int32]
Float32 = NDArray[np.float32]

LogitsProcessor = Callable[[Int32, Float32], Float32]
"""``f(tokens, logits)``: all tokens so far, shape (n,), and the row that follows them, shape
(n_vocab,), which is the function's own; returns the row to sample from."""

StoppingCriterion = Callable[[Int32, Float32], bool]
"""``f(tokens, logits)``: all tokens so far, the new one last, and the row that it was drawn from;
True ends the output."""


class RowFunctions:
    """Applies a request's functions at each node of a tree on the way of its verification.

    A node's row is the one that plain decoding would have after the same tokens, and the walk
    visits no node that is not accepted. So the functions see what they would see without drafting.

    Args:
        processors: change the row before a token is drawn, one after the other.
        criteria: decide whether the output ends.
        text: the tokens of the request.
    """

    def __init__(
        self,
        processors: Sequence[LogitsProcessor],
        criteria: Sequence[StoppingCriterion],
        text: TokenState,
    ) -> None:
        self._processors = processors
        self._criteria = criteria
        self._text = text
        self._drawn: list[int] = []
        self.has_stopped = False
        """True once a criterion has ended the output."""

    def begin_step(self) -> None:
        """The tokens drawn from here on follow the text."""
        self._drawn = []

    def draw(self, sampler: Sampler, outputs: Outputs, row: int) -> int:
        """Draw the next token of the walk from a row of the pass.

        Raises:
            RequestError: a processor returned something else than a row.
        """
        token = self._draw(sampler, outputs, row)
        self._drawn.append(token)
        if self._criteria:
            tokens, logits = self._tokens(), outputs.logits_view[row]
            for ends in self._criteria:
                self.has_stopped |= bool(ends(tokens.copy(), logits.copy()))
        return token

    def _draw(self, sampler: Sampler, outputs: Outputs, row: int) -> int:
        if not self._processors:
            return sampler.sample(outputs, row)
        logits = outputs.logits_view[row].copy()
        tokens = self._tokens()
        for process in self._processors:
            logits = _checked_row(process(tokens, logits), logits.shape)
        return sampler.sample_row(logits)

    def _tokens(self) -> Int32:
        return np.concatenate((self._text.ids, np.array(self._drawn, np.int32)))


def _checked_row(row: object, shape: tuple[int, ...]) -> Float32:
    if not isinstance(row, np.ndarray) or row.shape != shape or row.dtype.kind != "f":
        given = f"{row.dtype} of shape {row.shape}" if isinstance(row, np.ndarray) else type(row)
        raise RequestError(
            f"a logits processor returned {given}; it must return the row of logits, float32 of "
            f"shape {shape}"
        )
    return row.astype(np.float32, copy=False)
