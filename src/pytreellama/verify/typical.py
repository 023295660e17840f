"""Typical acceptance: keep the longest path that the target finds plausible. Lossy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple

import numpy as np

from pytreellama.errors import SamplerError
from pytreellama.tree import TokenTree
from pytreellama.tree.arrays import Int32Array
from pytreellama.verify.distribution import (
    Distribution,
    Rows,
    as_distribution,
    require_tokens_within,
)
from pytreellama.verify.match import require_one_root
from pytreellama.verify.verdict import Verdict


def likeliest(p: Distribution) -> int:
    """The token of the highest probability; of several, the lowest id."""
    return int(np.argmax(p))


def typical(
    tree: TokenTree,
    target: Rows,
    epsilon: float = 0.09,
    delta: float = 0.3,
    draw: Callable[[Distribution], int] = likeliest,
    stop: Callable[[int], bool] | None = None,
) -> Verdict:
    """LOSSY: accept what the target finds plausible, though it would have drawn otherwise.

    The text follows the drafter's taste wherever the target tolerates it, so its distribution is
    neither the target's nor a greedy text the target's greedy one. In exchange more is accepted.

    Node 0, the only root, is the last token of the text so far. A node is accepted if its parent
    is and the target gives its token, at the parent, a probability p above

        min(epsilon, delta * exp(-H)),    H = -sum(p ln p) in nats, over the parent's row:

    a probable token always, an improbable one where the target itself is undecided. With delta
    below 1 that includes the target's likeliest token, whose probability is never below exp(-H):
    nothing is lost against `match_greedy`. With either at 0 whatever is possible is accepted. As
    epsilon nears 1, with a large delta, only the certain is left, and at 1 nothing.

    Of the accepted paths the longest wins: it saves the most passes. Of several that long, the one
    to which the target gives the highest probability (product along the path) wins: they save the
    same, so nearness to the target decides; then the lower node. Its tokens are emitted, then
    `draw(p)` of the row at its end: the likeliest token, or with a Chance's `draw` a random one.
    `stop(token)` is asked once for each emitted token in order; when it is true the text ends
    there.

    `target(node)` has shape (n_vocab,). It is asked once for each accepted node that has children,
    parents first, across all branches, and for the winner's end.

    Source: Medusa, Cai et al. 2024 (arXiv 2401.10774), with the defaults of its published code,
    delta = sqrt(epsilon); the entropy is exact here, without the constant that its code adds
    inside the logarithm.

    Raises SamplerError if epsilon is not in [0, 1] or delta is negative or not finite; TreeError
    if the tree is empty or has several roots, and for rows as `rejection` does. Costs O(n_vocab)
    for each row.
    """
    require_one_root(tree)
    _require_thresholds(epsilon, delta)
    row = cache(lambda node: as_distribution(target(node), f"target({node})"))

    def accepted_children(node: int) -> Int32Array:
        children = tree.children(node)
        if not len(children):
            return children
        require_tokens_within(row(node), tree.tokens[children])
        return children[row(node)[tree.tokens[children]] > _threshold(row(node), epsilon, delta)]

    def emitted() -> Iterator[int]:
        yield from tree.tokens[path[1:]].tolist()
        yield draw(row(path[-1]))

    path = tree.path(_end_of_longest(tree, row, accepted_children)).tolist()
    tokens: list[int] = []
    for token in emitted():
        tokens.append(token)
        if stop is not None and stop(token):
            break
    return Verdict(path=tuple(path[: len(tokens)]), tokens=tuple(tokens))


class _Path(NamedTuple):
    """An accepted path: its last node, and what it is worth."""

    end: int
    n_accepted: int
    logp: float


def _end_of_longest(
    tree: TokenTree,
    row: Callable[[int], Distribution],
    accepted_children: Callable[[int], Int32Array],
) -> int:
    accepted = [_Path(end=0, n_accepted=0, logp=0.0)]
    for path in accepted:  # grows level by level while it is walked
        for child in accepted_children(path.end).tolist():
            logp = path.logp + float(np.log(row(path.end)[tree.tokens[child]]))
            accepted.append(_Path(child, path.n_accepted + 1, logp))
    return max(accepted, key=lambda path: (path.n_accepted, path.logp)).end


def _threshold(p: Distribution, epsilon: float, delta: float) -> float:
    positive = p[p > 0]
    minus_entropy = (positive * np.log(positive)).sum()
    return min(epsilon, delta * float(np.exp(minus_entropy)))


def _require_thresholds(epsilon: float, delta: float) -> None:
    if not 0 <= epsilon <= 1:
        raise SamplerError(f"epsilon is {epsilon}; it is a probability: give a number in [0, 1]")
    if not 0 <= delta < np.inf:
        raise SamplerError(f"delta is {delta}; it scales exp(-entropy): give a number from 0 up")
