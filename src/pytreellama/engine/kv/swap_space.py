"""SwapSpace: keys and values of preempted jobs, in host memory."""

from __future__ import annotations

from collections.abc import Hashable


class SwapSpace:
    """Holds states of sequences up to a limit; what does not fit is computed again on resume.

    Args:
        max_bytes: of all states together.

    Attributes:
        n_bytes: of the states that it holds.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.n_bytes = 0
        self._states: dict[Hashable, bytes] = {}

    def __len__(self) -> int:
        return len(self._states)

    def swap_out(self, owner: Hashable, state: bytes) -> bool:
        """Store the state of an owner; False if there is no room for it."""
        if self.n_bytes + len(state) > self.max_bytes:
            return False
        self._states[owner] = state
        self.n_bytes += len(state)
        return True

    def swap_in(self, owner: Hashable) -> bytes | None:
        """Remove the state of an owner and return it; None if there is none."""
        state = self._states.pop(owner, None)
        if state is not None:
            self.n_bytes -= len(state)
        return state
