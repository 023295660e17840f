"""Load: how busy an engine is."""

from __future__ import annotations

from dataclasses import dataclass

from pytreellama.deprecation import Renamed


@dataclass(frozen=True, slots=True)
class Load:
    """A snapshot of an engine, as of its last step.

    Attributes:
        n_running: requests with a sequence in the KV cache, in prefill or decode.
        n_waiting: requests that wait for one, preempted requests included.
        n_cached_prefixes: prefixes in the prefix cache.
        n_cells_used: KV-cache cells in use by all of these; shared cells count once.
        n_checkpoints: recurrent states and sliding windows of prefixes, in host memory.
        n_checkpoint_bytes: size of these in bytes.
    """

    n_running: int = 0
    n_waiting: int = 0
    n_cached_prefixes: int = 0
    n_cells_used: int = 0
    n_checkpoints: int = 0
    n_checkpoint_bytes: int = 0

    n_kept = Renamed("n_cached_prefixes")  # deprecated name
