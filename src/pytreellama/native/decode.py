"""Passes: ``llama_decode`` in its forms, and what its statuses mean."""

from __future__ import annotations

from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from pytreellama.errors import BatchError, CacheFullError, DecodeError
from pytreellama.native.batch import BatchStruct
from pytreellama.native.handle import Handle
from pytreellama.native.library import ffi, lib
from pytreellama.native.log import drain_log, last_error

Int32 = NDArray[np.int32]

TEXT = int(lib.TREELLAMA_TEXT)
"""Parent value of a token that is committed text, not a tree node."""

_NO_SLOT, _ABORTED, _INVALID = 1, 2, -1


def decode(context: Handle, batch: BatchStruct) -> None:
    """A pass over a batch of text.

    Raises:
        BatchError: the bridge or llama.cpp refuses the batch.
        CacheFullError: no room in the KV cache; nothing has changed.
        DecodeError: the backend failed, or the pass was aborted.
    """
    status = lib.treellama_decode(context.pointer, batch.pointer)
    if status != 0:
        raise_for(status, context, batch.n_tokens)
    drain_log()


def decode_tree(context: Handle, batch: BatchStruct, parents: Int32) -> None:
    """A pass over a batch with nodes of trees; parents: one a token, or ``TEXT``. As ``decode``."""
    pointer = ffi.from_buffer("int32_t[]", parents)
    status = lib.treellama_tree_decode(context.pointer, batch.pointer, pointer)
    if status != 0:
        raise_for(status, context, batch.n_tokens)
    drain_log()


def decode_one_tree(
    context: Handle, *, seq: int, tokens: Int32, parents: Int32, depths: Int32
) -> None:
    """A pass over one tree, without a batch, with logits at all nodes; raises as ``decode``."""
    pointers = [ffi.from_buffer("int32_t[]", array) for array in (tokens, parents, depths)]
    status = lib.treellama_tree_decode_one(context.pointer, seq, *pointers, len(tokens))
    if status != 0:
        raise_for(status, context, len(tokens))


def decode_one(context: Handle, *, seq: int, token: int) -> None:
    """A pass over a sequence's next token, without a batch, with logits; raises as ``decode``."""
    status = lib.treellama_decode_one(context.pointer, token, seq)
    if status != 0:
        raise_for(status, context, 1)


def raise_for(status: int, context: Handle, n_tokens: int) -> NoReturn:
    """Raise what the status of a pass means; see ``decode``."""
    why = "; ".join(drain_log(errors_only=True)) or "no reason given"
    if status == _NO_SLOT:
        n_ctx = int(lib.llama_n_ctx(context.pointer))
        raise CacheFullError(
            f"no room for {n_tokens} more tokens in the KV cache of {n_ctx}; remove "
            "or shorten sequences, or make the context with a larger n_ctx"
        )
    if status == _ABORTED:
        raise DecodeError("the pass was aborted, as asked")
    if status == _INVALID:
        raise BatchError(f"llama.cpp refuses the batch: {why}")
    if status == lib.TREELLAMA_EXCEPTION:
        raise DecodeError(f"llama.cpp failed in the middle of the pass: {last_error()}")
    raise DecodeError(f"the backend failed in the middle of the pass (status {status}): {why}")
