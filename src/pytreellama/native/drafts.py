"""Drafts that models carry: NextN layers and EAGLE-3 models, and the states that they read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pytreellama.errors import ContextError, DecodeError
from pytreellama.native.handle import Handle
from pytreellama.native.library import ffi, lib
from pytreellama.native.log import drain_log, last_error

Float32 = NDArray[np.float32]

MtpState = Literal["none", "loaded", "not loaded", "no graph"]
"""NextN layers of a model: none, loaded, in the file alone, or of an architecture for which this
llama.cpp does not run them."""

_MTP_STATES: dict[int, MtpState] = {
    lib.TREELLAMA_MTP_NONE: "none",
    lib.TREELLAMA_MTP_LOADED: "loaded",
    lib.TREELLAMA_MTP_NOT_LOADED: "not loaded",
    lib.TREELLAMA_MTP_NO_GRAPH: "no graph",
}
_MAX_LAYERS = 64


def mtp_state(model: Handle) -> MtpState:
    """What NextN layers a model has."""
    return _MTP_STATES[lib.treellama_mtp_state(model.pointer)]


def target_layers(model: Handle) -> list[int]:
    """The layers of its target that an EAGLE-3 model reads; empty for other models."""
    layers = ffi.new("int32_t[]", _MAX_LAYERS)
    n_layers = lib.treellama_target_layers(model.pointer, layers, _MAX_LAYERS)
    return list(layers[0 : min(n_layers, _MAX_LAYERS)])


def keep_features(context: Handle, layers: Sequence[int]) -> None:
    """From the next pass on, keep what some layers read of every token.

    Args:
        layers: indices; the number of layers stands for the state that NextN layers read.

    Raises:
        ContextError: the model does not offer one of them.
    """
    if lib.treellama_features_keep(context.pointer, list(layers), len(layers)) != 0:
        raise ContextError(
            f"this model does not offer the inputs of its layers {list(layers)} to a draft model"
        )


def features(context: Handle, layers: Sequence[int], tokens: Sequence[int], n_embd: int) -> Float32:
    """What layers read of tokens of the last batch, side by side.

    Args:
        tokens: places in the batch, which must exist.
        n_embd: width of one layer's state.

    Returns:
        float32, shape (n_tokens, n_layers * n_embd).

    Raises:
        ContextError: they were not kept.
    """
    rows = np.empty((len(tokens), len(layers) * n_embd), np.float32)
    out = ffi.from_buffer("float[]", rows)
    sizes = len(layers), list(tokens), len(tokens)
    if len(tokens) and lib.treellama_features(context.pointer, list(layers), *sizes, out) != 0:
        raise ContextError("call keep_features() before the pass whose states you want")
    return rows


def keep_draft_states(context: Handle) -> None:
    """Keep the states of a draft context's flagged tokens, from which its next level is drafted."""
    lib.treellama_draft_states_keep(context.pointer)


def draft_states(context: Handle, n_rows: int, n_embd: int) -> Float32:
    """The states of the last batch, all of whose tokens were flagged; shape (n_rows, n_embd)."""
    rows = np.empty((n_rows, n_embd), np.float32)
    if lib.treellama_draft_states(context.pointer, n_rows, ffi.from_buffer("float[]", rows)) != 0:
        raise ContextError("this draft model puts out no states")
    return rows


def encode(context: Handle, rows: Float32, n_embd: int) -> Float32:
    """EAGLE-3's encoder: what three layers read becomes what the draft model reads.

    Args:
        rows: float32, C-contiguous, shape (n, 3 * the target's n_embd).

    Returns:
        float32, shape (n, n_embd).

    Raises:
        DecodeError: the backend failed or was aborted.
    """
    encoded = np.empty((len(rows), n_embd), np.float32)
    buffers = ffi.from_buffer("float[]", rows), len(rows), ffi.from_buffer("float[]", encoded)
    status = lib.treellama_draft_encode(context.pointer, *buffers) if len(rows) else 0
    if status != 0:
        why = "; ".join(drain_log(errors_only=True)) or last_error() or f"status {status}"
        raise DecodeError(f"the encoder of the draft model failed: {why}")
    drain_log()
    return encoded
