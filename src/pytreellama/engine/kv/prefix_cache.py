"""PrefixCache: tokens of ended requests whose keys and values stay in the KV cache."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pytreellama.context.context import Context
from pytreellama.engine.jobs import Job
from pytreellama.model.lora import AdapterSet

Int32 = NDArray[np.int32]


@dataclass(eq=False, slots=True)
class CachedPrefix:
    """A sequence of the KV cache that no job uses; new prompts that begin with it share its cells.

    Attributes:
        ids: its tokens, int32, shape (n,).
        seq_id: its sequence.
        adapters: LoRA adapters of the passes that computed it.
    """

    ids: Int32
    seq_id: int
    adapters: AdapterSet = ()


class PrefixCache:
    """Holds a bounded number of prefixes, and evicts the least recently used first.

    Cells that a prefix shares with other sequences count once, and stay for them after eviction.

    Args:
        context: its KV cache; each prefix holds one of its sequence ids.
        n_max: maximum number of prefixes; 0 disables the cache.
    """

    def __init__(self, context: Context, n_max: int) -> None:
        self._context = context
        self._n_max = n_max
        self._prefixes: list[CachedPrefix] = []  # the most recently used is last

    def __len__(self) -> int:
        return len(self._prefixes)

    def __iter__(self) -> Iterator[CachedPrefix]:
        return iter(self._prefixes)

    def of(self, adapters: AdapterSet) -> list[CachedPrefix]:
        """The prefixes that passes with these adapters computed."""
        return [prefix for prefix in self._prefixes if prefix.adapters == adapters]

    @property
    def is_full(self) -> bool:
        """True if one prefix must be evicted before another is inserted."""
        return len(self._prefixes) >= self._n_max

    def insert(self, job: Job) -> bool:
        """Take over the sequence of an ended job; False if the caller must free it.

        A prefix of another cached prefix is not cached again.
        """
        ids = job.state.shareable
        if self._n_max == 0 or not len(ids) or len(ids) < job.state.n_past:
            return False
        for prefix in self.of(job.adapters):
            n_equal = n_common(ids, prefix.ids)
            if n_equal == len(ids):
                self.touch(prefix)
                return False
            if n_equal == len(prefix.ids):
                self.evict(prefix)
        if self.is_full:
            self.evict_oldest()
        self.add(CachedPrefix(ids.copy(), job.require_id(), job.adapters))
        return True

    def add(self, prefix: CachedPrefix) -> None:
        """Insert a prefix that is in the KV cache; the prefix cache must not be full."""
        assert not self.is_full
        self._prefixes.append(prefix)

    def touch(self, prefix: CachedPrefix) -> None:
        """Mark a prefix as the most recently used."""
        self._prefixes.remove(prefix)
        self._prefixes.append(prefix)

    def evict(self, prefix: CachedPrefix) -> None:
        """Remove a prefix, and free the cells that no other sequence shares."""
        self._prefixes.remove(prefix)
        self._context.sequences.free(prefix.seq_id)

    def evict_oldest(self) -> bool:
        """Evict the least recently used prefix; False if there is none."""
        if not self._prefixes:
            return False
        self.evict(self._prefixes[0])
        return True


def n_common(a: Int32, b: Int32) -> int:
    """Length of the longest common prefix of two int32 arrays of shapes (n,) and (m,)."""
    n_most = min(len(a), len(b))
    differs = a[:n_most] != b[:n_most]
    return int(differs.argmax()) if differs.any() else n_most
