"""The ``llama_batch`` that a pass reads, over NumPy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytreellama.native.library import ffi

Int32 = NDArray[np.int32]
Float32 = NDArray[np.float32]


class BatchStruct:
    """A ``llama_batch`` over arrays of one length, which are filled from outside.

    Attributes:
        pointer: cdata ``llama_batch *``.

    Args:
        tokens, positions, counts: int32; the last is the number of a token's sequence ids.
        logits: int8, 1 for the tokens whose logits are wanted.
        seq_ids: uintp, the address of each token's sequence ids, int32.
    """

    __slots__ = ("_arrays", "_states", "pointer")

    def __init__(
        self,
        tokens: Int32,
        positions: Int32,
        counts: Int32,
        logits: NDArray[np.int8],
        seq_ids: NDArray[np.uintp],
    ) -> None:
        self._states: Float32 | None = None
        self._arrays = (tokens, positions, counts, logits, seq_ids)  # the struct does not hold them
        self.pointer: Any = ffi.new("llama_batch *")
        self.pointer.token = ffi.from_buffer("llama_token[]", tokens)
        self.pointer.pos = ffi.from_buffer("llama_pos[]", positions)
        self.pointer.n_seq_id = ffi.from_buffer("int32_t[]", counts)
        self.pointer.logits = ffi.from_buffer("int8_t[]", logits)
        self.pointer.seq_id = ffi.cast("llama_seq_id **", seq_ids.ctypes.data)

    def set_states(self, states: Float32 | None) -> None:
        """Give each token a row of floats that it is conditioned on; None for tokens alone.

        Args:
            states: float32, C-contiguous, shape (n_tokens, n).
        """
        self._states = states
        self.pointer.embd = ffi.NULL if states is None else ffi.from_buffer("float[]", states)

    @property
    def n_tokens(self) -> int:
        """Tokens of the next pass, the first of the arrays."""
        return int(self.pointer.n_tokens)

    @n_tokens.setter
    def n_tokens(self, value: int) -> None:
        self.pointer.n_tokens = value
