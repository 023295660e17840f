"""Checkpointing: decides where prefill stops to take a checkpoint, and takes it."""

from __future__ import annotations

from pytreellama.context.context import Context
from pytreellama.engine.jobs import Job
from pytreellama.engine.kv.checkpoints import Checkpoint, Checkpoints
from pytreellama.errors import MemoryStateError

N_BETWEEN = 512
"""Minimum number of tokens between two checkpoints that are taken on the way."""

_N_ON_THE_WAY = 8  # of one prompt
_MAX_SHARE = 4  # a prompt's own take at most a quarter of the room: others have theirs


class Checkpointing:
    """Takes checkpoints of prompts, so that later prompts with the same prefix find them.

    Where the prompts of two requests part; at the end of a prompt, where the next turn of a chat
    finds it even if a template has changed the answer; and at intervals on the way.

    Args:
        context: its sequences are those of the jobs.
        checkpoints: where they are stored.
        n_chunk: as ``PrefixSharing``: they are taken after whole chunks only.
        is_for_later: False to serve requests that run at the same time only.
    """

    def __init__(
        self, context: Context, checkpoints: Checkpoints, *, n_chunk: int, is_for_later: bool
    ) -> None:
        self._memory = context.memory
        self._checkpoints = checkpoints
        self._n_chunk = n_chunk
        self._is_for_later = is_for_later
        self._is_used = context.memory.sharing == "checkpoints"

    def n_until_next(self, job: Job) -> int:
        """Maximum number of tokens of the next chunk, so that it ends where one is due."""
        if not self._is_on:
            return len(job.state)
        n_past, n_between = job.state.n_past, self._n_between(job)
        due = min((n for n in job.branches if n > n_past), default=len(job.state))
        if n_between:
            due = min(due, n_past + n_between - n_past % n_between)
        return due - n_past

    def take(self, job: Job) -> None:
        """Take a checkpoint of a job, after a chunk or a shared prefix, if one is due."""
        if not self._is_on or not self._is_due(job):
            return
        ids = job.state.shareable
        known = self._checkpoints.of(ids, job.adapters)
        if known and len(known[-1]) == len(ids):
            self._checkpoints.touch(known[-1])
            return
        try:
            data = self._memory.checkpoint(job.require_id())
        except (MemoryStateError, MemoryError):
            return  # the job goes on without
        self._checkpoints.add(Checkpoint(ids.copy(), data, job.adapters))

    @property
    def _is_on(self) -> bool:
        return self._is_used and self._checkpoints.has_room_for_one

    def _is_due(self, job: Job) -> bool:
        n_past = job.state.n_past
        if n_past == 0 or n_past % self._n_chunk or len(job.state.shareable) != n_past:
            return False
        if n_past in job.branches:
            return True
        n_between = self._n_between(job)
        is_on_the_way = n_between > 0 and n_past % n_between == 0
        return self._is_for_later and (job.n_missing == 0 or is_on_the_way)

    def _n_between(self, job: Job) -> int:
        """Tokens between two checkpoints on the way; 0 for none."""
        room = self._checkpoints.max_bytes // _MAX_SHARE
        n_most = min(room // max(self._checkpoints.n_bytes_each, 1), _N_ON_THE_WAY)
        if n_most == 0 or not self._is_for_later:
            return 0
        n_between = -(-N_BETWEEN // self._n_chunk) * self._n_chunk
        return n_between * -(-len(job.state) // (n_between * (n_most + 1)))
