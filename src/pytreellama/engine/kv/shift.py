"""Context shift: a text that has outgrown the context goes on without a part of its past."""

from __future__ import annotations

from pytreellama.context.context import Context
from pytreellama.engine.sequence import Sequence


def shift(context: Context, sequence: Sequence, n_text_max: int) -> None:
    """Drop the older half of what is not kept, and move the rest to where it stood.

    Keys are rotated to their new positions; they and the values were computed with the dropped
    text before them, so what follows is not what the shorter text alone would bring.
    Source: the infinite generation of llama.cpp's tools.
    """
    seq_id = sequence.require_id()
    n_keep = _n_keep(sequence, n_text_max)
    n_drop = max((sequence.n_past - n_keep) // 2, 1)
    _own_cells(context, seq_id)
    context.memory.rm(seq_id, n_keep, n_keep + n_drop)
    context.memory.add(seq_id, n_keep + n_drop, sequence.n_past, -n_drop)
    sequence.drop(n_keep, n_keep + n_drop)
    sequence.n_past -= n_drop
    sequence.n_unshifted = min(sequence.n_unshifted, n_keep)


def _n_keep(sequence: Sequence, n_text_max: int) -> int:
    wanted = sequence.request.n_keep
    if wanted is None:
        wanted = len(sequence.request.prompt)
    return min(wanted, n_text_max // 2)


def _own_cells(context: Context, seq_id: int) -> None:
    """Cells that others share would move for them as well: such a sequence gets its own."""
    if context.memory.is_shared(seq_id):
        state = context.memory.save(seq_id)
        context.memory.load(state, seq_id)
