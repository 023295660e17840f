"""ScoreJob: log-probabilities of continuations of one prompt, evaluated as one tree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pytreellama.context.context import Context
from pytreellama.engine.jobs.evaluation import EvaluationJob
from pytreellama.engine.jobs.job import JobLimits
from pytreellama.engine.token_state import Int32
from pytreellama.errors import RequestError
from pytreellama.tree import TokenTree

Float32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Score:
    """Log-probabilities of one continuation.

    Attributes:
        tokens: its ids.
        logps: natural logarithm of each token's probability (softmax at temperature 1), given the
            prompt and the tokens before it; float32, shape (n,).
        is_greedy: each token is the likeliest one after those before it.
    """

    tokens: tuple[int, ...]
    logps: Float32
    is_greedy: bool = False

    @property
    def logp(self) -> float:
        """Log-probability of the whole continuation."""
        return float(self.logps.sum(dtype=np.float64))


class ScoreJob(EvaluationJob):
    """Prefills a prompt, then evaluates all continuations as one tree in one pass.

    Args:
        prompt: as ``Job``.
        continuations: token ids of each, at least one.

    Attributes:
        scores: one for each continuation, in order, once the job has finished.

    Raises:
        RequestError: no continuations, or an empty one.
    """

    def __init__(self, prompt: Int32, continuations: Sequence[Sequence[int]]) -> None:
        super().__init__(prompt)
        if not continuations or not all(continuations):
            raise RequestError("a continuation has no tokens; give at least one, of one or more")
        self._continuations = continuations
        self._tree = TokenTree.from_paths(continuations).with_root(self.state.last)
        self.scores: list[Score] = []

    @property
    def n_cells(self) -> int:
        """See EvaluationJob."""
        return len(self._tree)

    def check(self, limits: JobLimits) -> None:
        """See Job."""
        super().check(limits)
        if len(self._tree) > limits.n_nodes_max:
            raise RequestError(
                f"the continuations make a tree of {len(self._tree)} tokens, and a pass takes "
                f"{limits.n_nodes_max}; score them in several requests"
            )
        if len(self.state) - 1 + len(self._tree) > limits.n_text_max:
            raise RequestError(
                f"the prompt has {len(self.state)} tokens and the tree of its continuations "
                f"{len(self._tree)}, which the context of {limits.n_text_max} cannot hold; "
                "shorten them, or make the engine with a larger n_ctx"
            )

    def run(self, context: Context) -> None:
        """See EvaluationJob."""
        context.decode(self._tree, seq=self.require_id())
        logps = _node_logps(context, self._tree)
        likeliest = context.outputs.argmax()[self._tree.parents] == self._tree.tokens
        context.discard(self.require_id())
        nodes = _node_of(self._tree)
        for tokens in self._continuations:
            node, path = 0, []
            for token in tokens:
                node = nodes[node, token]
                path.append(node)
            self.scores.append(Score(tuple(tokens), logps[path], bool(likeliest[path].all())))
        self.finish("stop")


def _node_of(tree: TokenTree) -> dict[tuple[int, int], int]:
    """The child node of each parent with each token."""
    keys = zip(tree.parents.tolist(), tree.tokens.tolist(), strict=True)
    return {key: node for node, key in enumerate(keys)}


def _node_logps(context: Context, tree: TokenTree) -> Float32:
    """Log-probability of each node's token at its parent, float32, shape (n_nodes,); root: 0."""
    n_nodes = len(tree)
    rows, tokens = tree.parents[1:], tree.tokens[1:]
    some = np.zeros(n_nodes, np.int32)
    some[rows] = tokens
    logits = context.outputs.logits_view
    # a logit less its log-probability is the same for all tokens of a row
    log_sums = logits[np.arange(n_nodes), some].astype(np.float64)
    log_sums -= context.outputs.token_logps(some)
    logps = np.zeros(n_nodes, np.float32)
    logps[1:] = logits[rows, tokens] - log_sums[rows]
    return logps
