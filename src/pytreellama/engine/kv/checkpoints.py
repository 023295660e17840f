"""Checkpoints: recurrent states and sliding windows at the ends of prefixes, in host memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pytreellama.model.lora import AdapterSet

Int32 = NDArray[np.int32]

_N_MAX = 512  # a request compares its tokens with all


@dataclass(frozen=True, eq=False, slots=True)
class Checkpoint:
    """What ``Memory.share`` needs beside cells, to share a prefix of a sequence that has grown.

    Attributes:
        ids: the prefix, int32, shape (n,).
        data: what ``Memory.checkpoint`` gave after exactly these tokens.
        adapters: LoRA adapters of the passes that computed it.
    """

    ids: Int32
    data: bytes
    adapters: AdapterSet = ()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def n_bytes(self) -> int:
        """Size in host memory."""
        return len(self.data) + self.ids.nbytes

    def begins(self, ids: Int32) -> bool:
        """True if it is of a prefix of these tokens."""
        n = len(self.ids)
        # most differ in the last token, which is found without reading the others
        return n <= len(ids) and bool(
            ids[n - 1] == self.ids[-1] and np.array_equal(ids[:n], self.ids)
        )


class Checkpoints:
    """Holds checkpoints up to a number of bytes, and evicts the least recently used first.

    A checkpoint belongs to its tokens, not to a sequence: it serves every sequence that begins
    with them.

    Args:
        max_bytes: of all together; 0 disables them.

    Attributes:
        n_bytes: of those that it holds.
        n_bytes_each: of the last one that was added or refused; 0 before the first.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.n_bytes = 0
        self.n_bytes_each = 0
        self._checkpoints: list[Checkpoint] = []  # the most recently used is last

    def __len__(self) -> int:
        return len(self._checkpoints)

    def __iter__(self) -> Iterator[Checkpoint]:
        return iter(self._checkpoints)

    @property
    def has_room_for_one(self) -> bool:
        """False if another one of the last one's size would be refused."""
        return self.max_bytes > 0 and self.n_bytes_each <= self.max_bytes

    def of(self, ids: Int32, adapters: AdapterSet = ()) -> list[Checkpoint]:
        """All checkpoints of prefixes of these tokens under adapters, the shortest first."""
        found = [one for one in self._checkpoints if one.adapters == adapters and one.begins(ids)]
        return sorted(found, key=len)

    def touch(self, checkpoint: Checkpoint) -> None:
        """Mark a checkpoint as the most recently used."""
        self._checkpoints.remove(checkpoint)
        self._checkpoints.append(checkpoint)

    def add(self, checkpoint: Checkpoint) -> bool:
        """Store a checkpoint, and evict others to make room; False if it is too large.

        Another one of the same tokens is replaced.
        """
        self.n_bytes_each = checkpoint.n_bytes
        if checkpoint.n_bytes > self.max_bytes:
            return False
        for known in self.of(checkpoint.ids, checkpoint.adapters):
            if len(known) == len(checkpoint):
                self.remove(known)
        while self.n_bytes + checkpoint.n_bytes > self.max_bytes or len(self) >= _N_MAX:
            self.remove(self._checkpoints[0])
        self._checkpoints.append(checkpoint)
        self.n_bytes += checkpoint.n_bytes
        return True

    def remove(self, checkpoint: Checkpoint) -> None:
        """Forget a checkpoint."""
        self._checkpoints.remove(checkpoint)
        self.n_bytes -= checkpoint.n_bytes

    def clear(self) -> None:
        """Forget all."""
        self._checkpoints.clear()
        self.n_bytes = 0
