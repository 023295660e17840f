"""SavedStates: keys and values of sequences that had to leave the cache for a while."""

from __future__ import annotations

from collections.abc import Hashable


class SavedStates:
    """States in host memory, up to a limit; beyond it a state is not kept, and is made anew.

    Args:
        max_bytes: of all states together.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.n_bytes = 0
        self._states: dict[Hashable, bytes] = {}

    def __len__(self) -> int:
        return len(self._states)

    def put(self, owner: Hashable, state: bytes) -> bool:
        """Keep a state; False if there is no room for it."""
        if self.n_bytes + len(state) > self.max_bytes:
            return False
        self._states[owner] = state
        self.n_bytes += len(state)
        return True

    def take(self, owner: Hashable) -> bytes | None:
        """Give a state back and forget it; None if there is none."""
        state = self._states.pop(owner, None)
        if state is not None:
            self.n_bytes -= len(state)
        return state
