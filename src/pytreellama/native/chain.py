"""Chains over recurrent states: tokens of which a part can be taken back."""

from __future__ import annotations

from pytreellama.errors import MemoryStateError
from pytreellama.native.batch import BatchStruct
from pytreellama.native.checks import check
from pytreellama.native.decode import raise_for
from pytreellama.native.handle import Handle
from pytreellama.native.library import lib
from pytreellama.native.log import drain_log


def is_supported(model: Handle) -> bool:
    """True if passes of this model can keep the state behind each of their last tokens."""
    return bool(lib.treellama_chain_supported(model.pointer))


def n_max(context: Handle) -> int:
    """Most tokens of a chain; 0 if the context has no room for their states."""
    return int(lib.treellama_chain_max(context.pointer))


def state_bytes(context: Handle) -> int:
    """Bytes of the recurrent states of one sequence; 0 if there are none."""
    return int(lib.treellama_chain_state_size(context.pointer))


def decode(context: Handle, batch: BatchStruct) -> None:
    """A pass over a batch with chains; raises as ``native.decode.decode``.

    After any error all sequences of the batch are what they were.
    """
    status = lib.treellama_chain_decode(context.pointer, batch.pointer)
    if status != 0:
        raise_for(status, context, batch.n_tokens)
    drain_log()


def commit(context: Handle, seq: int, *, n_past: int, n_tokens: int, n_keep: int) -> None:
    """Keep the first tokens of a chain, and take back the others.

    Args:
        n_past: the position of its first token.
        n_tokens: of the chain, which the last pass over this sequence added.
        n_keep: those that become text.

    Raises:
        MemoryStateError: the backend failed.
    """
    status = lib.treellama_chain_commit(context.pointer, seq, n_past, n_tokens, n_keep)
    check(status, MemoryStateError, "the recurrent state cannot be rolled back", with_log=True)
