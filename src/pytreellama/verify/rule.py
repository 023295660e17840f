"""VerificationRule: what an engine asks of a rule of the user's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from pytreellama.errors import TreeError
from pytreellama.tree import TokenTree
from pytreellama.verify.chance import Chance
from pytreellama.verify.distribution import Rows
from pytreellama.verify.verdict import Verdict


class VerificationRule(Protocol):
    """A function with the arguments of ``rejection``, which is one.

    Example:
        def careful(tree, target, draft, chance, stop):
            return ptl.verify.match(tree, lambda node: chance.draw(target(node)), stop)

        engine = ptl.Engine(model, verify=careful)
    """

    def __call__(
        self,
        tree: TokenTree,
        target: Rows,
        draft: Rows,
        chance: Chance,
        stop: Callable[[int], bool] | None = None,
    ) -> Verdict:
        """Decide which nodes of a tree are kept, and which tokens are emitted.

        Args:
            tree: node 0 is the last token of the text, its descendants are the draft.
            target: the distribution after a node that the request's sampler draws from, float64,
                shape (n_vocab,).
            draft: the one that the drafter drew the node's children from; all on the first child
                where it did not draw.
            chance: the request's random decisions, by its seed.
            stop: to be asked once for each emitted token, in order; True ends the text there.
        """
        ...


def check_verdict(tree: TokenTree, verdict: object) -> Verdict:
    """The verdict of a rule, checked; raises ``TreeError`` if it does not fit the tree."""
    if not isinstance(verdict, Verdict):
        raise TreeError(
            f"a verification rule returned {type(verdict).__name__}; it must return a Verdict"
        )
    path, tokens = verdict.path, verdict.tokens
    if not path or path[0] != 0 or len(path) != len(tokens):
        raise TreeError(
            f"a verification rule returned the path {path} and {len(tokens)} tokens; a path begins "
            "with node 0, and has one token for each node"
        )
    for node, token, child in zip(path, tokens, path[1:], strict=False):
        if tree.child(node, token) != child:
            raise TreeError(
                f"a verification rule accepted node {child} after node {node} and token {token}; "
                f"the child of node {node} with that token is {tree.child(node, token)}"
            )
    return verdict
