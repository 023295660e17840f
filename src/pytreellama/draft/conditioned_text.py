"""ConditionedText: what a draft that reads the target's states has read of one text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pytreellama.draft.growth import TRUNK, Level, Row
from pytreellama.draft.protocol import Float32Array


class Node(NamedTuple):
    """A token that the draft has read.

    Attributes:
        row: the likeliest tokens after it.
        state: the draft's own, float32, shape (n_embd,), which stands in for the target's below.
    """

    row: Row
    state: Float32Array


class ConditionedText:
    """One text: its tokens, the states that came for them, and how far the draft has read.

    A token's state is that from which the target drew it. Cells of the draft hold a token and its
    state each, without gaps: ``tokens[start:n_read]``.

    Args:
        first: index of the first token that the draft reads.

    Attributes:
        tokens: the text so far.
        seq: the draft's sequence; None while it has no cells.
        start: index of the token in the first cell.
        n_read: index of the first token that was not read.
        root: the text's last token, once it was read; None before.
        last_used: the cache's clock; the text that was not used for longest is evicted first.
        has_ended: no drafter has it any more.
    """

    def __init__(self, first: int) -> None:
        self.tokens: list[int] = []
        self.seq: int | None = None
        self.start = self.n_read = first
        self.root: Node | None = None
        self._nodes: list[Node] = []  # below the root, of the tree that grew last
        self._children: dict[tuple[int, int], int] = {}  # of them, by parent and token
        self.last_used = 0
        self.has_ended = False
        self._states: list[Float32Array] = []
        self.n_pending = 0

    @property
    def n_known(self) -> int:
        """Index of the first token whose state has not come."""
        return self.n_read + self.n_pending

    @property
    def n_cells(self) -> int:
        """Cells of its text."""
        return self.n_read - self.start

    def require_seq(self) -> int:
        """``seq`` of a text that has cells."""
        assert self.seq is not None
        return self.seq

    @property
    def n_readable(self) -> int:
        """Index of the first token that cannot be read yet."""
        return min(self.n_known, len(self.tokens))

    def add_states(self, rows: Float32Array) -> None:
        """Take the states of the next tokens, shape (n, n_row); the tokens may come later."""
        self._states.append(rows)
        self.n_pending += len(rows)

    def pending(self, n: int) -> tuple[list[int], Float32Array]:
        """The first ``n`` tokens that have states and were not read, and those states."""
        if len(self._states) > 1:
            self._states = [np.concatenate(self._states)]
        return self.tokens[self.n_read : self.n_read + n], self._states[0][:n]

    def count_read(self, n: int) -> None:
        """The first ``n`` pending tokens have been read."""
        self._states = [rows[n:] for rows in self._states]
        self.n_pending -= n
        self.n_read += n

    def begin_at(self, token: int) -> None:
        """Go on at a later token, without the text before it; its cells have been freed."""
        self.start = self.n_read = token
        self._states, self.n_pending, self.root = [], 0, None

    def node(self, node: int) -> Node:
        """A draft node, or the root for ``TRUNK``."""
        if node != TRUNK:
            return self._nodes[node]
        assert self.root is not None
        return self.root

    def children(self, node: int) -> Row:
        """The likeliest tokens after a node; see ``growth.Foresight``."""
        return self.node(node).row

    def add_nodes(self, level: Level, nodes: Sequence[Node]) -> list[int]:
        """The numbers that the nodes of a level get, once they were read."""
        numbers = list(range(len(self._nodes), len(self._nodes) + len(nodes)))
        self._nodes += nodes
        self._children.update(
            zip(zip(level.parents, level.tokens, strict=True), numbers, strict=True)
        )
        return numbers

    def drop_nodes(self) -> None:
        """Forget the tree below the root."""
        self._nodes, self._children = [], {}

    def go_on(self, tokens: Sequence[int]) -> list[tuple[Row, int]]:
        """Go on with more tokens of the text.

        Returns:
            What the draft expected, wherever it had read the text so far, and what came instead.
        """
        outcomes: list[tuple[Row, int]] = []
        node: int | None = TRUNK if self.root is not None else None
        for token in tokens:
            if node is None:
                break
            outcomes.append((self.children(node), token))
            node = self._children.get((node, token))
        self.root = None
        self.drop_nodes()
        self.tokens += tokens
        return outcomes
