"""Verification by rejection sampling: accept draft nodes with probability min(1, p/q)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from pytreellama.errors import TreeError
from pytreellama.tree import TokenTree
from pytreellama.verify.chance import Chance
from pytreellama.verify.distribution import (
    Distribution,
    Rows,
    as_distribution,
    require_tokens_within,
)
from pytreellama.verify.match import match
from pytreellama.verify.verdict import Verdict


def rejection(
    tree: TokenTree,
    target: Rows,
    draft: Rows,
    chance: Chance,
    stop: Callable[[int], bool] | None = None,
) -> Verdict:
    """Lossless: walk `tree` from node 0 by multi-round rejection sampling without replacement.

    Node 0, the only root, is the last token of the text so far. The children of a node stand in
    the order in which the drafter drew them, one after the other, without replacement, from the
    distribution `draft(node)`. `target(node)` is the distribution that the text is to have there.
    Both return shape (n_vocab,). They are asked once for each node that the walk reaches, in
    order, and `draft` only where there are children.

    With p = target(node) and q = draft(node), each child's token x is accepted with probability
    min(1, p[x] / q[x]). If it is not, p becomes max(p - q, 0), q loses x, both are divided by their
    sums, and the next child is tried. Where no child is accepted the token is drawn from p. It is
    none of the children's then, since a rejected token has no probability left in p. `stop` is
    asked as in `match`.

    A child that q gives no probability, or none any more, counts as a deterministic draft: q is
    one at its token and zero elsewhere, for that child alone. So a drafter that does not draw at
    all gives such a q for its first child, the others follow by themselves, and the rule then does
    what `match` does. If max(p - q, 0) is zero everywhere, p is q up to rounding; then it was
    rounding that rejected x, and x is accepted.

    Exact in distribution if the drafter did draw from q. Whether a node is in the tree may depend
    on the tokens drawn before it, but not on its own: to draw more children than fit and keep the
    likeliest is to draw from another distribution than q. Drafts that were chosen, not sampled,
    belong to `match`.

    Sources: speculative sampling, Leviathan et al. (arXiv 2211.17192) and Chen et al. (arXiv
    2302.01318); multi-round for trees, SpecInfer (arXiv 2305.09781), used by EAGLE (arXiv
    2401.15077); without replacement, Sequoia (arXiv 2402.12374).

    Raises TreeError if the tree is empty or has several roots, if a row has another shape than
    (n_vocab,), holds negative numbers or NaN or does not sum to 1 (see `as_distribution`), if both
    rows differ in length, or if a child's token lies beyond them. Costs O(n_vocab) for each node
    of the walk and each rejected child.
    """

    def draw(node: int) -> int:
        p = as_distribution(target(node), f"target({node})")
        tokens = tree.tokens[tree.children(node)]
        if not len(tokens):
            return chance.draw(p)
        require_tokens_within(p, tokens)
        q = as_distribution(draft(node), f"draft({node})")
        if q.shape != p.shape:
            raise TreeError(
                f"draft({node}) has {len(q)} probabilities and target({node}) has {len(p)}; "
                "both need one for each token of the same vocabulary"
            )
        return _accepted_or_drawn(tokens.tolist(), p, q, chance)

    return match(tree, draw, stop)


def _accepted_or_drawn(
    tokens: Iterable[int], p: Distribution, q: Distribution, chance: Chance
) -> int:
    for token in tokens:
        candidate = q if q[token] > 0 else _certain(token, len(q))
        if chance.accept(_ratio_up_to_one(p[token], candidate[token])):
            return token
        residual = np.maximum(p - candidate, 0)
        if not residual.any():
            return token
        p = residual / residual.sum()
        q = _without(q, token)
    return chance.draw(p)


def _ratio_up_to_one(numerator: float, denominator: float) -> float:
    return float(numerator / denominator) if numerator < denominator else 1.0


def _certain(token: int, n_vocab: int) -> Distribution:
    one_hot: Distribution = np.zeros(n_vocab)
    one_hot[token] = 1
    return one_hot


def _without(q: Distribution, token: int) -> Distribution:
    """`q` given that it is not `token`; all zero where nothing else was possible."""
    rest: Distribution = q.copy()
    rest[token] = 0
    # Summed, not 1 - q[token]: where that is nearly 1, the difference has few digits left.
    total = float(rest.sum())
    if total > 0:
        rest /= total
    return rest
