"""Evaluation: a sequence that writes nothing; what the model makes of a text is its result."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pytreellama.context.batch import Batch
from pytreellama.context.context import Context
from pytreellama.draft import NoDrafter
from pytreellama.engine.request import Request
from pytreellama.engine.sequence import Sequence
from pytreellama.errors import RequestError
from pytreellama.model.model import Model
from pytreellama.model.vocab import Vocab
from pytreellama.tree import TokenTree

Float32 = NDArray[np.float32]
Pooling = Literal["mean", "last"]
POOLINGS: tuple[Pooling, ...] = ("mean", "last")


@dataclass(frozen=True, slots=True, eq=False)
class Score:
    """How likely the model holds a continuation.

    Attributes:
        tokens: its ids.
        logps: natural logarithm of each one's probability (softmax at temperature 1), given the
            prompt and those before it; float32, shape (n,).
    """

    tokens: tuple[int, ...]
    logps: Float32

    @property
    def logp(self) -> float:
        """Of the whole continuation."""
        return float(self.logps.sum(dtype=np.float64))


class Evaluation(Sequence):
    """Runs in the scheduler beside those who write, in passes of its own.

    Args:
        tokens: what the model reads.
    """

    def __init__(self, tokens: tuple[int, ...], vocab: Vocab) -> None:
        super().__init__(Request(tokens, max_tokens=1), vocab, NoDrafter())

    @property
    @abstractmethod
    def n_cells(self) -> int:
        """Cells that the next pass needs."""

    @abstractmethod
    def evaluate(self, context: Context) -> None:
        """One pass; ``finish`` once the result is there. A CacheFullError leaves it as it was."""

    def check_size(self, n_text_max: int, n_nodes_max: int) -> None:
        """Raise RequestError for what could never be evaluated."""


class Scoring(Evaluation):
    """Reads a prompt, then all continuations as one tree in one pass.

    Args:
        continuations: token ids; each at least one.

    Attributes:
        scores: one for each, once it is finished.
    """

    def __init__(
        self, prompt: tuple[int, ...], continuations: list[tuple[int, ...]], vocab: Vocab
    ) -> None:
        super().__init__(prompt, vocab)
        if not continuations or not all(continuations):
            raise RequestError("a continuation has no tokens; give at least one, of one or more")
        self._continuations = continuations
        self._tree = TokenTree.from_paths(continuations).with_root(prompt[-1])
        self.scores: list[Score] = []

    @property
    def n_cells(self) -> int:
        """See Evaluation."""
        return len(self._tree)

    def check_size(self, n_text_max: int, n_nodes_max: int) -> None:
        """See Evaluation."""
        if len(self._tree) > n_nodes_max:
            raise RequestError(
                f"the continuations make a tree of {len(self._tree)} tokens, and a pass takes "
                f"{n_nodes_max}; score them in several requests"
            )
        n_text = len(self.context) - 1 + self._tree.n_levels
        if n_text > n_text_max or len(self.context) - 1 + len(self._tree) > n_text_max:
            raise RequestError(
                f"the prompt has {len(self.context)} tokens and the tree of its continuations "
                f"{len(self._tree)}, which the context of {n_text_max} cannot hold; shorten them, "
                "or make the engine with a larger n_ctx"
            )

    def evaluate(self, context: Context) -> None:
        """See Evaluation."""
        context.decode_one_tree(self.require_id(), self._tree)
        logps = _node_logps(context, self._tree)
        context.discard(self.require_id())
        nodes = _node_of(self._tree)
        for tokens in self._continuations:
            node, path = 0, []
            for token in tokens:
                node = nodes[node, token]
                path.append(node)
            self.scores.append(Score(tokens, logps[path]))
        self.finish("stop")


class Embedding(Evaluation):
    """Reads a text in pieces, and puts its tokens' hidden states together.

    Args:
        pooling: "mean" of all tokens' states, or that of the "last" one.
        n_piece: tokens of a pass.

    Attributes:
        state: float32, shape (n_embd_out,), of length 1, once it is finished.
    """

    def __init__(
        self, tokens: tuple[int, ...], vocab: Vocab, pooling: Pooling, n_piece: int
    ) -> None:
        super().__init__(tokens, vocab)
        self._pooling = pooling
        self._n_piece = n_piece
        self._sum = np.zeros(0, np.float64)
        self.state: Float32 = np.zeros(0, np.float32)

    @property
    def n_missing(self) -> int:
        """Nothing is read for it: it needs the state of each token."""
        return 0

    @property
    def can_be_set_aside(self) -> bool:
        """What was read of it is in the sum; it begins again."""
        return False

    @property
    def n_cells(self) -> int:
        """See Evaluation."""
        return min(self._n_piece, len(self.context) - self.n_past)

    def evaluate(self, context: Context) -> None:
        """See Evaluation."""
        context.keep_hidden()
        piece = self.context[self.n_past : self.n_past + self.n_cells]
        is_last = self.n_past + len(piece) == len(self.context)
        flags = np.full(len(piece), self._pooling == "mean")
        flags[-1] = True
        batch = Batch(len(piece))
        positions = range(self.n_past, self.n_past + len(piece))
        batch.add(piece, list(positions), self.require_id(), flags)
        context.decode(batch)
        states = context.hidden(range(int(flags.sum()))).astype(np.float64)
        before = self._sum if self.n_past and self._pooling == "mean" else 0.0
        self._sum = before + states.sum(axis=0)
        self.n_past += len(piece)
        if is_last:
            length = float(np.linalg.norm(self._sum))
            self.state = (self._sum / (length or 1.0)).astype(np.float32)
            self.finish("stop")


def own_pooling(model: Model) -> Pooling:
    """What a model's file says of how its texts are pooled: the last token's state, or the mean."""
    return "last" if model.pools_last_token else "mean"


def _node_of(tree: TokenTree) -> dict[tuple[int, int], int]:
    """The node behind each parent with each token."""
    keys = zip(tree.parents.tolist(), tree.tokens.tolist(), strict=True)
    return {key: node for node, key in enumerate(keys)}


def _node_logps(context: Context, tree: TokenTree) -> Float32:
    """Log-probability of each node's token at its parent, float32, shape (n_nodes,); root: 0."""
    n_nodes = len(tree)
    rows, tokens = tree.parents[1:], tree.tokens[1:]
    some = np.zeros(n_nodes, np.int32)
    some[rows] = tokens
    logits = context.logits_view
    # what a row's one token lacks to its logit is the same for all its tokens
    log_sums = logits[np.arange(n_nodes), some].astype(np.float64)
    log_sums -= context.logp(some)
    logps = np.zeros(n_nodes, np.float32)
    logps[1:] = logits[rows, tokens] - log_sums[rows]
    return logps
