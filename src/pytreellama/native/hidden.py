"""Hidden states that a pass leaves."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pytreellama.errors import ContextError
from pytreellama.native.handle import Handle
from pytreellama.native.library import ffi, lib
from pytreellama.native.log import drain_log
from pytreellama.native.logits import copy_floats

Float32 = NDArray[np.float32]


def keep_hidden(context: Handle) -> None:
    """From the next pass on, keep the hidden state behind every row of logits."""
    lib.treellama_hidden_keep(context.pointer, True)


def hidden_rows(context: Handle, rows: list[int], n_embd: int) -> Float32:
    """The kept states behind rows of logits, which must exist; float32, shape (n, n_embd).

    Raises:
        ContextError: the model puts out none.
    """
    states = np.empty((len(rows), n_embd), np.float32)
    out = ffi.from_buffer("float[]", states)
    if rows and lib.treellama_hidden(context.pointer, rows, len(rows), out) != 0:
        raise ContextError("this model puts out no hidden states")
    return states


def embedding(context: Handle, row: int, n_embd: int) -> Float32 | None:
    """The state of a token of the last batch, float32, shape (n_embd,); None if there is none."""
    pointer = lib.llama_get_embeddings_ith(context.pointer, row)
    if pointer == ffi.NULL:
        drain_log()
        return None
    return copy_floats(pointer, n_embd)
