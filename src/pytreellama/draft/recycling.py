"""The recycling drafter: the target's own top tokens from earlier passes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytreellama.draft.files import load_arrays, save_arrays
from pytreellama.draft.options import require_at_least_1, require_probability
from pytreellama.draft.protocol import (
    Float32Array,
    Int32Array,
    Tokens,
    checked_n_nodes,
    checked_tokens,
)
from pytreellama.errors import DraftError
from pytreellama.tree import TokenTree
from pytreellama.tree.grown import NOTHING, Grown

if TYPE_CHECKING:
    from pytreellama.context.successors import SuccessorTable

_KIND = "a table of successors"


@dataclass(frozen=True, slots=True)
class RecyclingOptions:
    """Options of the recycling drafter. Raises ``DraftError`` if out of range."""

    n_top: int = 8
    """Successors that are kept of each row; from 1 to 64."""
    max_depth: int = 16
    """Longest path proposed, in tokens; at least 1."""
    min_p: float = 0.005
    """Nodes whose path probability is lower are not proposed; in [0, 1]."""
    max_entries: int = 1 << 17
    """Contexts of each length that are remembered; of more, the oldest are forgotten."""

    def __post_init__(self) -> None:
        # the table is native code, which an import of drafters' names must not need
        from pytreellama.context.successors import MAX_TOP

        if not 1 <= self.n_top <= MAX_TOP:
            raise DraftError(f"invalid n_top={self.n_top}: expected 1 to {MAX_TOP}")
        require_at_least_1(max_depth=self.max_depth, max_entries=self.max_entries)
        require_probability(min_p=self.min_p)


class RecyclingDrafter:
    """Proposes the target's top tokens after the same last tokens, from earlier passes.

    Every pass computes the top tokens of each of its nodes, accepted or not. The table stores them
    under the last one, two and three tokens of the node's path, so successors are known even where
    a path was rejected before. The tree takes the most likely paths first.

    Source: Token Recycling (arXiv 2408.08696), which stores successors of single tokens and uses a
    tree of fixed shape; longer contexts and learned probabilities are ours.
    """

    __slots__ = ("_options", "_seen", "_table", "_text")

    name = "recycling"

    def __init__(
        self, table: SuccessorTable | None = None, options: RecyclingOptions | None = None
    ) -> None:
        self._options = RecyclingOptions() if options is None else options
        self._table = _new_table(self._options) if table is None else table
        self.reset()

    @property
    def n_top(self) -> int:
        """Successors of a row that are kept."""
        return self._options.n_top

    def reset(self) -> None:
        """Forget the text; the table, which other sequences learn too, stays."""
        self._text: tuple[int, ...] = ()
        self._seen: tuple[TokenTree, Int32Array, Float32Array] | None = None

    def observe_pass(self, tree: TokenTree, tokens: Int32Array, logits: Float32Array) -> None:
        """Keep a pass until its accepted tokens are known; see PassObserver."""
        self._seen = (tree, tokens, logits)

    def observe(self, tokens: Tokens) -> None:
        """Hear committed text, shape (n,), and learn the pass that it came from.

        Raises DraftError, keeping nothing, if not token ids.
        """
        accepted = tuple(checked_tokens(tokens))
        if self._seen is not None:
            # how good the table was is known only before it learns the pass itself
            self._table.judge(self._text, accepted)
            self._learn(*self._seen)
            self._seen = None
        self._text = (self._text + accepted)[-self._table.max_order :]

    def _learn(self, tree: TokenTree, tokens: Int32Array, logits: Float32Array) -> None:
        self._table.learn(self._text[:-1], tree, tokens, logits, self._options.n_top)

    def propose(self, n_nodes: int) -> TokenTree:
        """Propose a tree of at most ``n_nodes`` nodes; raises ``DraftError`` if ``n_nodes`` < 0."""
        return self.grow_likely(n_nodes, self._options.min_p).tree()

    def grow_likely(self, n_nodes: int, min_p: float) -> Grown:
        """Propose nodes of at least ``min_p``; raises ``DraftError`` if ``n_nodes`` < 0."""
        if checked_n_nodes(n_nodes) == 0 or not self._text:
            return NOTHING
        depth = self._options.max_depth
        return self._table.grow(self._text, n_nodes, max_depth=depth, min_p=min_p)


class Recycling(RecyclingOptions):
    """Factory of recycling drafters that share one table.

    The table belongs to the factory: requests of all engines that use the factory improve it, and
    ``save`` stores it. Use one factory per model.

    Example:
        drafter = Recycling()
        engine = Engine(model, drafter=drafter)
        drafter.save("recycling.npz")                # later: Recycling("recycling.npz")

    Args:
        path: a table that ``save`` wrote.
        options: fields of ``RecyclingOptions``.

    Raises:
        DraftError: options out of range, or no such table.
    """

    __slots__ = ("table",)

    table: SuccessorTable

    def __init__(self, path: str | os.PathLike[str] | None = None, **options: float) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        table = _new_table(self)
        if path is not None:
            _load(table, path)
        object.__setattr__(self, "table", table)

    def __call__(self) -> RecyclingDrafter:
        """Return a fresh drafter that shares the table."""
        return RecyclingDrafter(self.table, self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Keep the table in a file, which is replaced only when all is written."""
        save_arrays(path, _KIND, self.table.arrays())


def _new_table(options: RecyclingOptions) -> SuccessorTable:
    from pytreellama.context.successors import SuccessorTable

    return SuccessorTable(options.max_entries)


def _load(table: SuccessorTable, path: str | os.PathLike[str]) -> None:
    """Take what a file holds in place of what is known. Raises DraftError; nothing changed."""
    arrays = load_arrays(path, _KIND)
    try:
        table.set_arrays(arrays)
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        raise DraftError(f"{path} does not hold {_KIND} of this version: {error}") from error
