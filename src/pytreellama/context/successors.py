"""The table of the recycling drafter: likeliest successors behind one, two and three tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pytreellama.native import successors as native_table
from pytreellama.native.limits import (
    SUCCESSORS_N_CLASSES,
    SUCCESSORS_N_VOCAB_MAX,
    SUCCESSORS_ORDER_MAX,
    SUCCESSORS_ROW_MAX,
)
from pytreellama.native.successors import COUNTS_SHAPE, Rows
from pytreellama.tree import TokenTree
from pytreellama.tree.grown import NOTHING, Grown

Int32 = NDArray[np.int32]
Float32 = NDArray[np.float32]

MAX_ORDER = SUCCESSORS_ORDER_MAX
"""Tokens of the longest context under which successors are kept."""

MAX_TOP = SUCCESSORS_ROW_MAX
"""Most successors that are kept of a row."""

_NAMES = ("keys", "tokens", "shares")


class SuccessorTable:
    """Rows of successors by context, and how often successors of each kind came true.

    A row that was computed behind the same three tokens says more than one behind the same last
    one. How much more is learned: by length of context and class of share, the table counts how
    often such a successor was the text's next token. It lives in C++, because it is taught and
    asked at every step (``treellama-successors.cpp``).

    Attributes:
        max_order: tokens of the longest context.

    Args:
        max_entries: contexts of each length that are remembered; of more, the oldest go.
    """

    max_order = MAX_ORDER

    def __init__(self, max_entries: int) -> None:
        self.max_entries = max_entries
        self._handle = native_table.new_table(max_entries)

    def __len__(self) -> int:
        """Contexts of all lengths."""
        lengths = range(1, MAX_ORDER + 1)
        return sum(native_table.n_rows(self._handle, length) for length in lengths)

    # -- what it knows

    def learn(
        self,
        before: Sequence[int],
        tree: TokenTree,
        tokens: Int32,
        logits: Float32,
        n_top: int = MAX_TOP,
    ) -> None:
        """Keep the successors of every node of a pass.

        Args:
            before: the text before node 0; its last two tokens matter.
            tree: with one root.
            tokens, logits: of each node's successors, falling, shape (n_nodes, k), contiguous.
            n_top: how many of them to keep; at most ``MAX_TOP``.
        """
        if int(tree.tokens.max()) >= SUCCESSORS_N_VOCAB_MAX:
            return
        native_table.learn(
            self._handle,
            list(before[-MAX_ORDER:]),
            tree.tokens,
            tree.parents,
            np.ascontiguousarray(tokens, np.int32),
            np.ascontiguousarray(logits, np.float32),
            min(n_top, tokens.shape[1], MAX_TOP),
        )

    def successors(self, context: Sequence[int], min_p: float = 0.0) -> list[tuple[int, float]]:
        """What may follow, with estimated probabilities, which sum to no more than 1.

        Longer contexts come first; shorter ones add what those do not have. What is less likely
        than `min_p` is left out.
        """
        return native_table.successors(self._handle, list(context[-MAX_ORDER:]), min_p)

    def grow(self, context: Sequence[int], n_nodes: int, *, max_depth: int, min_p: float) -> Grown:
        """The tree of the `n_nodes` (>= 1) likeliest paths that may follow.

        min_p: nodes whose path probability is lower are left out.
        """
        end = list(context[-MAX_ORDER:])
        tokens, parents, p = native_table.grow(self._handle, end, n_nodes, max_depth, min_p)
        return Grown(tokens, parents, p) if tokens else NOTHING

    # -- how far to believe it

    def judge(self, text: Sequence[int], went_on: Sequence[int]) -> None:
        """Count which successors were right along the tokens that the text went on with.

        To be called before `learn` takes in the pass that they came from.
        """
        native_table.judge(self._handle, list(text[-MAX_ORDER:]), list(went_on))

    # -- all of it

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """What the table knows, by name: for a file."""
        arrays: dict[str, NDArray[np.generic]] = {
            "seen": native_table.counts(self._handle, right=False),
            "right": native_table.counts(self._handle, right=True),
        }
        for i in range(MAX_ORDER):
            keys, tokens, shares = native_table.rows(self._handle, i + 1)
            arrays |= {f"keys{i}": keys, f"tokens{i}": tokens, f"shares{i}": shares}
        return arrays

    def set_arrays(self, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        """Take what ``arrays`` gave in place of what is known.

        Raises:
            ValueError, KeyError, TypeError, OverflowError: damaged, or not of this version; then
                nothing has changed.
        """
        rows = [_checked_rows(*(arrays[f"{name}{i}"] for name in _NAMES)) for i in range(MAX_ORDER)]
        seen, right = (_checked_counts(arrays[name]) for name in ("seen", "right"))
        for length, of_length in enumerate(rows, start=1):
            native_table.set_rows(self._handle, length, of_length)
        native_table.counts(self._handle, right=False)[:] = seen
        native_table.counts(self._handle, right=True)[:] = right


def _checked_counts(array: NDArray[np.generic]) -> NDArray[np.float64]:
    counts = np.asarray(array, np.float64)
    if counts.shape != COUNTS_SHAPE or not np.isfinite(counts).all() or counts.min() < 0.0:
        raise ValueError("its counts are damaged")
    return counts


def _checked_rows(
    keys: NDArray[np.generic], tokens: NDArray[np.generic], shares: NDArray[np.generic]
) -> Rows:
    if tokens.shape != shares.shape or tokens.ndim != 2 or keys.shape != tokens.shape[:1]:
        raise ValueError("arrays do not fit together")
    if tokens.shape[1] > MAX_TOP:
        raise ValueError(f"rows of {tokens.shape[1]} successors")
    rows = (
        np.ascontiguousarray(keys, np.int64),
        np.ascontiguousarray(tokens, np.int32),
        np.ascontiguousarray(shares, np.int32),
    )
    if shares.size and not (rows[2].min() >= 0 and rows[2].max() < SUCCESSORS_N_CLASSES):
        raise ValueError("unknown classes of shares")
    return rows
