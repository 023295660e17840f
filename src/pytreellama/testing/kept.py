"""Which tokens samplers keep of a row of logits before they draw."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytreellama.errors import SamplerError
from pytreellama.native.checks import check_count
from pytreellama.native.draws import RowSampler
from pytreellama.native.sampler import mask_pointer
from pytreellama.native.sampling import SamplerChain
from pytreellama.testing.library import ffi, lib

Int32 = NDArray[np.int32]
Mask = NDArray[np.uint32]


def kept_of_row(
    sampler: RowSampler, logits: NDArray[np.float32], allowed: Mask | None = None
) -> Int32:
    """The ids that a row sampler draws among, in its order, int32, shape (n_kept,).

    Raises:
        SamplerError: as ``sampler.draw``.
    """
    ids = np.empty(len(logits), dtype=np.int32)
    count = lib.treellama_kept_of_row(
        sampler.handle.pointer, *_row(logits, allowed), ffi.from_buffer("llama_token[]", ids)
    )
    return ids[: check_count(count, SamplerError, "the row cannot be truncated")]


def kept_of_chain(
    chain: SamplerChain, logits: NDArray[np.float32], allowed: Mask | None = None
) -> Int32:
    """What llama.cpp's chain leaves of a row, int32, shape (n_kept,); the chain is applied.

    Raises:
        SamplerError: llama.cpp raises.
    """
    ids = np.empty(len(logits), dtype=np.int32)
    count = lib.treellama_kept_of_chain(
        chain.handle.pointer,
        *_row(logits, allowed),
        ffi.new("llama_token_data[]", len(logits)),
        ffi.from_buffer("llama_token[]", ids),
    )
    return ids[: check_count(count, SamplerError, "the row cannot be truncated")]


def _row(logits: NDArray[np.float32], allowed: Mask | None) -> tuple[Any, int, Any]:
    return ffi.from_buffer("float[]", logits), len(logits), mask_pointer(allowed)
