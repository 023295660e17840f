"""The Medusa drafter: small heads guess the next tokens from the target's own hidden state."""

from __future__ import annotations

import logging
import operator
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pytreellama.draft.options import require_at_least_1, require_probability
from pytreellama.draft.protocol import (
    Float32Array,
    Int32Array,
    Tokens,
    checked_n_nodes,
    checked_tokens,
)
from pytreellama.errors import DraftError, MedusaError
from pytreellama.tree import TokenTree
from pytreellama.tree.grown import NOTHING, Grown

if TYPE_CHECKING:
    from pytreellama.context.context import Context
    from pytreellama.model.heads import Heads
    from pytreellama.model.model import Model

_log = logging.getLogger(__name__)

_MAX_RANK = 63

Choices = Sequence[Sequence[int]]
"""Paths of ranks, as the Medusa project writes its trees: (0, 1) is the second guess of the second
head behind the first guess of the first head."""


@dataclass(frozen=True, slots=True)
class MedusaOptions:
    """How trees grow from what heads hold likely. Raises DraftError if out of range."""

    top: int = 8
    """Children of a node that are considered; at least 1."""
    width: int = 4
    """Nodes of a level that are followed up, where heads see earlier guesses; at least 1."""
    min_p: float = 0.01
    """Nodes whose path probability is lower are not proposed; in [0, 1]."""

    def __post_init__(self) -> None:
        require_at_least_1(top=self.top, width=self.width)
        require_probability(min_p=self.min_p)


class MedusaDrafter:
    """Proposes what heads hold likely behind the last token; see `Medusa`, which makes it.

    A head's guess is made from the hidden state from which the last token was drawn: it costs no
    pass of the model, and it is there after the first pass of a text.

    Args:
        heads: the target's.
        options: how trees grow.
        shape: a tree that is always taken instead.
        n_threads: the threads to compute on, the target's.
    """

    __slots__ = ("_heads", "_n_threads", "_options", "_root", "_shape", "_state", "_states")

    name = "medusa"
    wants_hidden = True

    def __init__(
        self, heads: Heads, options: MedusaOptions, shape: Shape | None, n_threads: int
    ) -> None:
        self._heads = heads
        self._options = options
        self._shape = shape
        self._n_threads = n_threads
        self.reset()

    def reset(self) -> None:
        """Forget the text."""
        self._states: Float32Array | None = None
        self._state: Float32Array | None = None
        self._root = -1

    def observe_hidden(self, states: Float32Array) -> None:
        """See HiddenObserver."""
        self._states = states

    def observe(self, tokens: Tokens) -> None:
        """Hear committed text, shape (n,); raises DraftError, keeping nothing, if not token ids."""
        ids = checked_tokens(tokens)
        if not ids:
            return
        # the last state is the last token's, even where earlier ones were not told
        states, self._states = self._states, None
        self._root = ids[-1]
        self._state = None if states is None else states[-1]

    def propose(self, n_nodes: int) -> TokenTree:
        """Guess what follows, in at most `n_nodes` nodes; see Drafter. Raises DraftError if < 0."""
        return self.grow_likely(n_nodes, self._options.min_p).tree()

    def grow_likely(self, n_nodes: int, min_p: float) -> Grown:
        """See Selective; raises DraftError if `n_nodes` < 0."""
        if checked_n_nodes(n_nodes) == 0 or self._state is None:
            return NOTHING
        if self._shape is not None:
            parents, ranks = self._shape.parents, self._shape.ranks
            whole = self._heads.fill(self._n_threads, self._state, self._root, parents, ranks)
            return _likeliest(whole, n_nodes)
        return self._heads.grow(
            self._n_threads,
            self._state,
            self._root,
            n_nodes,
            top=self._options.top,
            width=self._options.width,
            min_p=min_p,
        )


class Medusa:
    """Makes Medusa drafters: `Engine(model, drafter=Medusa("heads.gguf"))`.

    Heads are trained for a model by `pytreellama medusa train`. Without a path they are those
    beside the model's file (`model.medusa.gguf` for `model.gguf`), or those that come with the
    package, as for the default model. All drafters of a factory share them.

    Source: Medusa (arXiv 2401.10774); heads that see what was guessed before: Hydra (arXiv
    2402.05109).

    Args:
        path: a file of heads.
        choices: a tree of fixed shape in place of the likeliest, as the Medusa project writes
            them: `mc_sim_7b_63` and others can be given as they are. Where an engine's `n_draft`
            is less, the likeliest of its nodes are taken.
        any_model: take heads of another model's weights, if the sizes fit.
        options: fields of `MedusaOptions`.

    Raises:
        DraftError: options out of range, or choices that are no tree.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        choices: Choices | None = None,
        any_model: bool = False,
        **options: float,
    ) -> None:
        self._path = path
        self._any_model = any_model
        self._options = MedusaOptions(**options)  # type: ignore[arg-type]
        self._shape = None if choices is None else Shape.of(choices)
        self._heads: Heads | None = None
        self._n_threads = 1

    def prepare(self, model: Model) -> None:
        """Load the heads for a model; an engine does this before anything runs.

        Raises:
            MedusaError: there are none, or they are not this model's, or too few for the choices.
        """
        from pytreellama.model.heads import Heads

        path = self._path or require_heads(model)
        heads = Heads(path, model, any_model=self._any_model)
        if self._shape is not None and self._shape.n_levels > heads.n_heads:
            heads.close()
            raise MedusaError(
                f"the choices have {self._shape.n_levels} levels, and {path} has {heads.n_heads} "
                "heads; leave out the deeper ones"
            )
        self._heads = heads

    def attach(self, context: Context) -> None:
        """See NeedsContext."""
        context.outputs.keep_hidden()
        self._n_threads = context.n_threads

    @property
    def heads(self) -> Heads:
        """The heads, once an engine has them; raises MedusaError before."""
        if self._heads is None:
            raise MedusaError("heads belong to a model: make an engine with this drafter first")
        return self._heads

    def __call__(self) -> MedusaDrafter:
        """Return a fresh drafter that shares the heads."""
        return MedusaDrafter(self.heads, self._options, self._shape, self._n_threads)


def find_heads(model: Model) -> Path | None:
    """The heads beside a model's file, or else those of the package for its weights."""
    from pytreellama.model.heads import model_hash

    beside = _beside(model)
    if beside.exists():
        return beside
    folder = Path(__file__).parent.parent / "heads"
    return next(iter(sorted(folder.glob(f"*-{model_hash(model)[:12]}.gguf"))), None)


def require_heads(model: Model) -> Path:
    """As `find_heads`; raises MedusaError if there are none."""
    path = find_heads(model)
    if path is None:
        raise MedusaError(
            f"there are no heads for {model.path.name}: none beside it ({_beside(model).name}) and "
            f"none in the package; train some: pytreellama medusa train {model.path} "
            f"-o {_beside(model)}"
        )
    return path


def heads_that_fit(model: Model) -> Medusa | None:
    """A factory of drafters with the heads of `find_heads`, or None if there are none that fit."""
    try:
        medusa = Medusa()
        medusa.prepare(model)
    except MedusaError as error:
        if find_heads(model) is not None:
            _log.warning("the heads for %s are left out: %s", model.path.name, error)
        return None
    return medusa


def _beside(model: Model) -> Path:
    return model.path.with_name(f"{model.path.stem}.medusa.gguf")


@dataclass(frozen=True, slots=True)
class Shape:
    """A tree of fixed shape, level by level.

    parents, ranks: int32, shape (n,); see `Heads.fill`.
    """

    parents: Int32Array
    ranks: Int32Array
    n_levels: int

    @classmethod
    def of(cls, choices: Choices) -> Shape:
        """The tree of these paths of ranks; raises DraftError unless they are one."""
        paths = sorted({_path_of(choice) for choice in choices}, key=lambda p: (len(p), p))
        place = {path: i for i, path in enumerate(paths)}
        for path in paths:
            if len(path) > 1 and path[:-1] not in place:
                raise DraftError(f"choices hold {path!r} without its parent {path[:-1]!r}")
        if not paths:
            raise DraftError("choices are empty; give paths of ranks, such as [(0,), (0, 0), (1,)]")
        parents = [place[path[:-1]] if len(path) > 1 else -1 for path in paths]
        ranks = [path[-1] for path in paths]
        return cls(np.array(parents, np.int32), np.array(ranks, np.int32), len(paths[-1]))


def _path_of(choice: object) -> tuple[int, ...]:
    try:
        path = tuple(operator.index(rank) for rank in choice)  # type: ignore[attr-defined]
    except TypeError:
        path = ()
    if not path or not all(0 <= rank <= _MAX_RANK for rank in path):
        raise DraftError(
            f"choices hold {choice!r}; give paths of ranks from 0 to {_MAX_RANK}, such as (0, 1)"
        )
    return path


def _likeliest(grown: Grown, n_nodes: int) -> Grown:
    """The likeliest nodes, parents first."""
    order = sorted(range(len(grown.p)), key=lambda i: (-grown.p[i], i))[:n_nodes]
    place = {node: i for i, node in enumerate(order)}
    return Grown(
        [grown.tokens[i] for i in order],
        [place.get(grown.parents[i], -1) for i in order],
        [grown.p[i] for i in order],
    )
