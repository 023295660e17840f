"""Text: what a model wrote behind a prompt, with its hidden states."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


def _nothing() -> NDArray[np.int32]:
    return np.empty(0, np.int32)


@dataclass(frozen=True, slots=True)
class Text:
    """One text.

    Attributes:
        tokens: int32, shape (n,).
        states: float16, shape (n, n_embd): state i is what token i was drawn from, so it has seen
            the prompt and the tokens before i.
        prompt: what the model read before, int32.
    """

    tokens: NDArray[np.int32]
    states: NDArray[np.float16]
    prompt: NDArray[np.int32] = field(default_factory=_nothing)
