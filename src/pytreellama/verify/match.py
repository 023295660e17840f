"""Verification by matching: accept draft nodes that equal the target's own samples."""

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
    """Walk ``tree`` from node 0 along the target's own samples.

    At each node the target's sampler draws a token. If a child carries it, the walk continues
    there; else it ends. Every drawn token is emitted.

    This is exact for every sampler and grammar: each emitted token was drawn by the target's own
    sampler, in text order, from logits under exactly the preceding text. The tree decides only how
    many draws one pass pays for. No draw is repeated or discarded, so the sampler's state and
    random stream advance as in plain decoding. O(1) per token. Source: SpecInfer (arXiv
    2305.09781); also the acceptance by equality in llama.cpp's speculative examples.

    Example:
        tree = TokenTree.chain([5, 6, 7])                       # node 0: last token of the text
        match(tree, {0: 6, 1: 9}.__getitem__)                   # target: 6 after node 0, then 9
        # Verdict(path=(0, 1), tokens=(6, 9))

    Args:
        tree: the draft, with node 0, the last token of the text, as its only root.
        draw: returns the token that the target samples at a node, grammar and penalties included.
        stop: called once for each token in order; True (end of generation, token limit) ends the
            walk, even if the tree continues.

    Raises:
        TreeError: the tree is empty or has more than one root.
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
    """``match`` for greedy decoding.

    Args:
        tree: as for ``match``.
        argmax: integers of shape (n_nodes,), the target's most likely token at each node.
        stop: as for ``match``.

    Raises:
        TreeError: another shape or dtype, an empty tree, or several roots.
    """
    if argmax.shape != (len(tree),) or argmax.dtype.kind not in "iu":
        raise TreeError(
            f"argmax has shape {argmax.shape} and dtype {argmax.dtype}; "
            f"this tree needs integers of shape ({len(tree)},), one for each node"
        )
    choices: list[int] = argmax.tolist()
    return match(tree, choices.__getitem__, stop)


def require_one_root(tree: TokenTree) -> None:
    """Raise ``TreeError`` unless node 0 is the only root."""
    # Roots come first in BFS order, so the second node shows whether there is another.
    if len(tree) == 0:
        raise TreeError("the tree is empty; its node 0 must be the last token of the text")
    if len(tree) > 1 and tree.parents[1] < 0:
        raise TreeError(
            "the tree has several roots; verification starts from one, node 0, the last token of "
            "the text: put it above the draft with tree.with_root(token)"
        )
