"""Context shift: output that has outgrown the context continues without a part of its past."""

from __future__ import annotations

from pytreellama.context.context import Context
from pytreellama.engine.jobs import GenerateJob


def shift(context: Context, job: GenerateJob, n_text_max: int) -> None:
    """Drop the older half of the tokens after ``n_keep``, and move the rest to their positions.

    Keys are rotated to their new positions. Keys and values were computed with the dropped tokens
    before them, so the output differs from that of a prompt without these tokens.
    Source: the infinite generation of llama.cpp's tools.
    """
    seq_id = job.require_id()
    n_past = job.state.n_past
    n_keep = _n_keep(job, n_text_max)
    n_drop = max((n_past - n_keep) // 2, 1)
    _own_cells(context, seq_id)
    context.memory.rm(seq_id, n_keep, n_keep + n_drop)
    context.memory.add(seq_id, n_keep + n_drop, n_past, -n_drop)
    job.state.drop(n_keep, n_keep + n_drop)


def _n_keep(job: GenerateJob, n_text_max: int) -> int:
    wanted = job.request.n_keep
    if wanted is None:
        wanted = len(job.request.prompt)
    return min(wanted, n_text_max // 2)


def _own_cells(context: Context, seq_id: int) -> None:
    """Copy shared cells first: they would move for the other sequences too."""
    if context.memory.is_shared(seq_id):
        state = context.memory.save(seq_id)
        context.memory.load(state, seq_id)
