"""Verification by matching: follow the target's own draws for as long as the tree foresaw them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pytreellama.errors import TreeError
from pytreellama.tree import TokenTree
from pytreellama.verify.verdict import Verdict


def match(
    tree: TokenTree,
    draw: Callable[[int], int],
    stop: Callable[[int], bool] | None = None,
) -> Verdict:
    """Walk `tree` from node 0 by the target's own draws.

    Node 0, the only root, is the last token of the text so far. `draw(node)` returns the token
    that the target's sampler draws from its logits at that node, grammar and penalties included.
    If a child of the node carries it, the walk goes on there; if none does, it ends. Every drawn
    token is emitted. `stop(token)` is asked once for each of them, in order; when it is true
    (end of generation, token limit) the walk ends at once, even if the tree goes on.

    Exact for every sampler and grammar, deterministic or random: each emitted token was drawn by
    the target's own sampler, in the order of the text, from logits under exactly the text before
    it. The tree decides only how many draws one pass pays for, never what is drawn; a draw is
    never repeated nor thrown away, so the sampler's state and random stream advance as in plain
    decoding. Source: SpecInfer (arXiv 2305.09781), and sampling with acceptance by equality in
    llama.cpp's speculative examples.

    Raises TreeError if the tree is empty or has more than one root. Costs O(1) per drawn token.
    """
    require_one_root(tree)
    node = 0
    path = [node]
    tokens = []
    while True:
        token = draw(node)
        tokens.append(token)
        if stop is not None and stop(token):
            break
        child = tree.child(node, token)
        if child is None:
            break
        node = child
        path.append(node)
    return Verdict(path=tuple(path), tokens=tuple(tokens))


def match_greedy(
    tree: TokenTree,
    argmax: NDArray[np.int32],
    stop: Callable[[int], bool] | None = None,
) -> Verdict:
    """`match` for greedy decoding: `argmax[node]` is the target's likeliest token at that node.

    `argmax` is an integer array of shape (n_nodes,). Raises TreeError for another shape or dtype,
    and where `match` does.
    """
    if argmax.shape != (len(tree),) or argmax.dtype.kind not in "iu":
        raise TreeError(
            f"argmax has shape {argmax.shape} and dtype {argmax.dtype}; "
            f"this tree needs integers of shape ({len(tree)},), one for each node"
        )
    choices: list[int] = argmax.tolist()
    return match(tree, choices.__getitem__, stop)


def require_one_root(tree: TokenTree) -> None:
    """TreeError unless node 0 is the only root."""
    # Roots come first in BFS order, so the second node tells whether there is another.
    if len(tree) == 0:
        raise TreeError("the tree is empty; its node 0 must be the last token of the text")
    if len(tree) > 1 and tree.parents[1] < 0:
        raise TreeError(
            "the tree has several roots; verification starts from one, node 0, the last token of "
            "the text: put it above the guesses with tree.with_root(token)"
        )
