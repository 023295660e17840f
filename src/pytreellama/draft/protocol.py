"""The protocols of drafters: observe the committed text, propose a draft tree."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from pytreellama.errors import DraftError
from pytreellama.tree import TokenTree
from pytreellama.tree.grown import Grown

if TYPE_CHECKING:
    from pytreellama.context.context import Context
    from pytreellama.model.model import Model

Int32Array: TypeAlias = NDArray[np.int32]
Float32Array: TypeAlias = NDArray[np.float32]
Tokens: TypeAlias = Sequence[int] | NDArray[np.int32]

_MAX_TOKEN = int(np.iinfo(np.int32).max)


@runtime_checkable
class Drafter(Protocol):
    """Proposes continuations of one running sequence.

    A drafter belongs to exactly one sequence and holds its state; an engine that runs eight
    sequences has eight drafters. One thread at a time drives it.
    """

    @property
    def name(self) -> str:
        """The registry's name for this kind of drafter, as statistics show it."""
        ...

    def observe(self, tokens: Tokens) -> None:
        """Hear committed text: the prompt first, then each accepted run, in order, once.

        `tokens` has shape (n,), n >= 0. Drafted tokens that were refused are never observed.
        """
        ...

    def propose(self, n_nodes: int) -> TokenTree:
        """Propose a tree of at most ``n_nodes`` nodes that continues the observed text.

        The roots are candidates for the very next token. `tree.p` (float32, shape (n,)) is, for
        each node, the estimated probability that its whole path will be accepted, so it never
        rises from parent to child. No draft is an empty tree. Proposing changes nothing: asked
        twice, a drafter answers the same.
        """
        ...

    def reset(self) -> None:
        """Forget everything: the next `observe` starts a new text."""
        ...


@runtime_checkable
class PassObserver(Protocol):
    """A drafter that learns from the top tokens of every verified node, rejected ones included."""

    @property
    def n_top(self) -> int:
        """How many of a row's likeliest tokens it wants to know, 1 or more."""
        ...

    def observe_pass(self, tree: TokenTree, tokens: Int32Array, logits: Float32Array) -> None:
        """See the rows of one pass, before `observe` tells which path was accepted.

        Node 0 of `tree` is the text's last token, its descendants are what was drafted. Row i has
        the likeliest successors of node i, falling: `tokens` int32 and `logits` float32, both of
        shape (n_nodes, k), k >= `n_top`.
        """
        ...


@runtime_checkable
class HiddenObserver(Protocol):
    """A drafter that drafts from the target's hidden states."""

    @property
    def wants_hidden(self) -> bool:
        """Whether the states of the next pass are of use."""
        ...

    def observe_hidden(self, states: Float32Array) -> None:
        """See the states from which the accepted tokens were drawn, before `observe` tells them.

        `states` is float32, shape (n, n_embd), behind the output norm, one for each token.
        """
        ...


@runtime_checkable
class RowObserver(Protocol):
    """A drafter that reads what the target's passes leave of each token, and finds it itself."""

    def observe_prefill(self, begin: int, n_tokens: int) -> None:
        """The last pass computed the text's tokens from index ``begin`` on, and nothing else.

        Tokens that are in the KV cache already (a shared prefix) are not told; those of a request
        that was preempted may come again.
        """
        ...

    def observe_rows(self, rows: Sequence[int]) -> None:
        """From these tokens of the last pass the accepted tokens were drawn, one for each.

        Told at every step, before `observe` tells the tokens.
        """
        ...


@runtime_checkable
class SharesPasses(Protocol):
    """A drafter whose proposals cost a pass, which it can share with others of its kind."""

    def announce(
        self, n_nodes: int, min_p: float | None = None, token_s: float | None = None
    ) -> None:
        """It is going to be asked for so many nodes, before anything is observed.

        Args:
            min_p: as in ``Selective``; None where ``propose`` is going to be called.
            token_s: seconds that an accepted token saves: what costs more need not be drafted.
        """
        ...


@runtime_checkable
class Draws(Protocol):
    """A drafter that draws the nodes of its trees, for ``verify.rejection``."""

    def seed_draws(self, seed: str) -> None:
        """Begin a random stream: requests of other seeds must draw other trees."""
        ...

    def drawn_from(self, path: Sequence[int]) -> tuple[list[int], list[float]] | None:
        """What the children behind a path of the last proposal were drawn from.

        Args:
            path: tokens from the end of the text on; () for the roots of the draft.

        Returns:
            Tokens, and their probabilities, which sum to 1; None if they were not drawn.
        """
        ...


@runtime_checkable
class Selective(Protocol):
    """A drafter that accepts a minimum path probability, below which it need not search."""

    def grow_likely(self, n_nodes: int, min_p: float) -> Grown:
        """As `propose`, without the nodes whose path probability is below `min_p`, in [0, 1].

        It replaces the drafter's own limit: a lower one gives more nodes than `propose`.
        """
        ...


DrafterFactory: TypeAlias = Callable[[], Drafter]
"""Makes a fresh drafter for one sequence."""


@runtime_checkable
class NeedsTarget(Protocol):
    """A factory whose drafters depend on the target model, such as a draft model's."""

    def prepare(self, model: Model) -> None:
        """Get to know the target; an engine calls this once, before it asks for a drafter.

        Raises DraftError if this target cannot be drafted for.
        """
        ...


@runtime_checkable
class NeedsContext(Protocol):
    """A factory whose drafters need the target's context, such as for hidden states."""

    def attach(self, context: Context) -> None:
        """Get to know the target's context; an engine calls this once, before its first pass."""
        ...


@runtime_checkable
class HoldsContext(Protocol):
    """A factory that holds native memory for the engine that it is attached to."""

    def detach(self, context: Context) -> None:
        """The engine of this context closes: free it."""
        ...


def checked_tokens(tokens: Tokens) -> list[int]:
    """Convert ``tokens`` to plain ints; raises ``DraftError`` for anything but token ids."""
    if isinstance(tokens, np.ndarray):
        if tokens.ndim != 1 or tokens.dtype.kind not in "iu":
            raise DraftError(
                f"observe() got an array of shape {tokens.shape} and dtype {tokens.dtype}; "
                "give token ids as integers of shape (n,)"
            )
        ids: list[int] = tokens.tolist()
    else:
        try:
            ids = list(map(operator.index, tokens))
        except TypeError as error:
            raise DraftError(f"observe() takes token ids, all integers: {error}") from error
    if ids and not (min(ids) >= 0 and max(ids) <= _MAX_TOKEN):
        raise DraftError(
            f"observe() got token ids from {min(ids)} to {max(ids)}; "
            f"a token id lies between 0 and {_MAX_TOKEN}"
        )
    return ids


def checked_n_nodes(n_nodes: int) -> int:
    """Return ``n_nodes``; raises ``DraftError`` if it is negative."""
    if n_nodes < 0:
        raise DraftError(f"invalid n_nodes={n_nodes}: expected at least 0")
    return n_nodes


# It has probabilities, none of them, so that it can be merged with a tree that has some.
EMPTY_TREE = TokenTree([], [], p=[])
"""The tree of a drafter that proposes nothing."""
