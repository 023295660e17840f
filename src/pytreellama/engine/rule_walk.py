"""RuleWalk: a verification rule of the user's own, applied to the trees of one request."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import numpy as np
from numpy.typing import NDArray

from pytreellama.context.outputs import Outputs
from pytreellama.draft import Drafter, Draws
from pytreellama.sampling.sampler import Sampler
from pytreellama.tree import TokenTree
from pytreellama.verify import UniformChance, Verdict, VerificationRule, check_verdict

Float64 = NDArray[np.float64]


class RuleWalk:
    """Gives a rule the distributions of the target and the drafter, and lets the sampler follow.

    Args:
        rule: decides.
        drafter: of the request; what it drew is asked of it.
        seed: of the request's random decisions.
        n_before: tokens of the output that a fork shares with its parent.
    """

    def __init__(
        self, rule: VerificationRule, drafter: Drafter, seed: int, n_before: int = 0
    ) -> None:
        self._rule = rule
        self._drafter = drafter if isinstance(drafter, Draws) else None
        # the streams must differ: a draft that knows what accepts it is no sample
        self._chance = UniformChance(Random(f"rule {seed} {n_before}").random)
        if self._drafter is not None:
            self._drafter.seed_draws(f"draft {seed} {n_before}")

    def verify(
        self,
        tree: TokenTree,
        outputs: Outputs,
        first_row: int,
        sampler: Sampler,
        stop: Callable[[int], bool],
    ) -> Verdict:
        """The rule's verdict on a tree whose nodes have consecutive rows of logits.

        Raises:
            TreeError: the verdict does not fit the tree.
            SamplerError, GrammarError: no token can follow a node.
        """

        def target(node: int) -> Float64:
            state = sampler
            if node and sampler.has_state:
                state = sampler.clone()
                for token in _tokens_to(tree, node):
                    state.accept(token)
            try:
                return state.distribution(outputs.logits_view[first_row + node])
            finally:
                if state is not sampler:
                    state.close()

        def draft(node: int) -> Float64:
            return self._drawn_from(tree, node, sampler.vocab.n_tokens)

        verdict = check_verdict(tree, self._rule(tree, target, draft, self._chance, stop))
        for token in verdict.tokens:
            sampler.accept(token)
        return verdict

    def _drawn_from(self, tree: TokenTree, node: int, n_vocab: int) -> Float64:
        """What the children of a node were drawn from; all on the first one where they were not."""
        q = np.zeros(n_vocab)
        row = None if self._drafter is None else self._drafter.drawn_from(_tokens_to(tree, node))
        if row is not None and row[0]:
            q[row[0]] = row[1]
        else:
            children = tree.children(node)
            q[tree.tokens[children[0]] if len(children) else 0] = 1.0
        return q


def _tokens_to(tree: TokenTree, node: int) -> tuple[int, ...]:
    """Tokens from below the root to a node."""
    return tuple(tree.tokens[tree.path(node)[1:]].tolist())
