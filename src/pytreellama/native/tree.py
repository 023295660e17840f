"""Pending nodes of trees in the patched KV cache."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pytreellama.errors import MemoryStateError
from pytreellama.native.checks import check
from pytreellama.native.handle import Handle
from pytreellama.native.library import ffi, lib

_REFUSED = "the KV cache refused the operation"


def tree_refusal(context: Handle) -> str | None:
    """Why the memory of a context cannot hold trees by ancestors; None if it can."""
    reason = lib.treellama_tree_refusal(context.pointer)
    return None if reason == ffi.NULL else bytes(ffi.string(reason)).decode()


def node_bytes(context: Handle) -> int:
    """Bytes that trees on recurrent states keep of a node; 0 before the first, or without."""
    return int(lib.treellama_tree_node_size(context.pointer))


def commit(context: Handle, seq: int, path: Sequence[int]) -> None:
    """Make a path of pending nodes text, and free all others. Raises ``MemoryStateError``."""
    nodes = list(path)
    status = lib.treellama_tree_commit(context.pointer, seq, nodes, len(nodes))
    check(status, MemoryStateError, _REFUSED, with_log=True)


def prune(context: Handle, seq: int, keep: NDArray[np.bool_]) -> None:
    """Free the pending nodes that are not kept.

    Args:
        keep: shape (n_nodes,); the parent of a node that is kept is kept.

    Raises:
        MemoryStateError: not the pending nodes.
    """
    flags = ffi.from_buffer("bool[]", keep)
    status = lib.treellama_tree_prune(context.pointer, seq, flags, len(keep))
    check(status, MemoryStateError, _REFUSED, with_log=True)


def discard(context: Handle, seq: int) -> None:
    """Free all pending nodes of a sequence. Raises ``MemoryStateError``."""
    status = lib.treellama_tree_discard(context.pointer, seq)
    check(status, MemoryStateError, _REFUSED, with_log=True)
