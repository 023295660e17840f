"""Verdict: what a verification rule decided about one tree."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one walk down a tree decided."""

    path: tuple[int, ...]
    """Accepted nodes from node 0 down, each a child of the one before: what to commit."""
    tokens: tuple[int, ...]
    """Chosen tokens, one at each node of `path`: what to emit. The last is in no committed node."""

    @property
    def n_accepted(self) -> int:
        """Drafted nodes accepted: those of `path` below node 0."""
        return len(self.path) - 1

    @property
    def next_token(self) -> int:
        """The last token chosen: the bonus, the correction or the stop; the next tree's root."""
        return self.tokens[-1]
