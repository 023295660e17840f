"""The drafter of plain decoding: proposes nothing."""

from __future__ import annotations

from pytreellama.draft.protocol import EMPTY_TREE, Tokens, checked_n_nodes, checked_tokens
from pytreellama.tree import TokenTree


class NoDrafter:
    """Proposes nothing."""

    __slots__ = ()

    name = "none"

    def observe(self, tokens: Tokens) -> None:
        """Hear `tokens` (shape (n,)) and keep nothing; raises DraftError if they are no ids."""
        checked_tokens(tokens)

    def propose(self, n_nodes: int) -> TokenTree:
        """Return the empty tree; raises DraftError for a negative `n_nodes`."""
        checked_n_nodes(n_nodes)
        return EMPTY_TREE

    def reset(self) -> None:
        """Forget nothing, for nothing was kept."""
