"""The model drafter: a smaller model of the same vocabulary drafts trees."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING, Any

from pytreellama.closing import Closing
from pytreellama.draft.calibration import Calibration, TextCalibration
from pytreellama.draft.drawn_growth import N_KEPT, Drawn, growing_by_draws
from pytreellama.draft.growth import Grow, Growth, Row, growing
from pytreellama.draft.lockstep import Growing, TreeAsk, in_lockstep
from pytreellama.draft.protocol import EMPTY_TREE, Tokens, checked_n_nodes, checked_tokens
from pytreellama.draft.same_vocab import check_same_vocab
from pytreellama.errors import DraftError, PyTreeLlamaError
from pytreellama.tree import TokenTree
from pytreellama.tree.candidates import grown
from pytreellama.tree.grown import Grown

if TYPE_CHECKING:
    from pytreellama.context.context import Context
    from pytreellama.draft.draft_cache import DraftCache, DraftText
    from pytreellama.model.model import Model as GgufModel

_N_CTX = 8192


class Model(Closing):
    """Factory of drafters that use a draft model: a smaller model of the same vocabulary.

    The target itself, quantised further (``pytreellama.quantize``), has the target's vocabulary.
    All drafters of a factory share one context of the draft model, with a sequence id each, and the
    learned calibration. Close the factory after its engines; it serves one thread at a time.

    Example:
        with draft.Model("small.gguf", n_levels=4) as drafter:
            engine = Engine(model, drafter=drafter)

    Args:
        source: a GGUF file, or an open ``pytreellama.Model``, which the caller closes.
        grow: "best" expands the most likely nodes first; "chain" drafts a chain; a tuple such as
            (4, 2, 2, 1) gives the number of children of a node on each level. Models that cannot
            branch (recurrent ones) always draft a chain.
        top: of "best": children per node; at least 1.
        width: of "best": maximum number of nodes that one pass expands; at least 1.
        n_levels: of "best" and "chain": levels of a tree, each a pass of the draft model; >= 1.
        min_p: nodes with a lower path probability are not proposed; in [0, 1].
        sample: draw nodes at this temperature, for an engine with ``verify=rejection``; ``grow`` is
            then "chain" or a tuple. None takes the likeliest.
        calibrate: learn the acceptance rate of each estimated probability, rank by rank, and
            report that instead.
        n_ctx: size of the draft model's KV cache in tokens, for all sequences and draft nodes; by
            default 8192. A sequence that does not fit is decoded without drafts.
        n_seq_max: maximum number of sequences with drafts at the same time.
        n_threads: threads of a pass; None for the cores of this machine.
        options: further fields of ``ContextParams``.

    Raises:
        DraftError: options out of range.
        ModelLoadError, ContextError: the draft model cannot be loaded, or sizes do not fit.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | GgufModel,
        *,
        grow: Grow = "best",
        top: int = 4,
        width: int = 4,
        n_levels: int = 6,
        min_p: float = 0.05,
        sample: float | None = None,
        calibrate: bool = True,
        n_ctx: int | None = None,
        n_seq_max: int = 32,
        n_threads: int | None = None,
        **options: Any,
    ) -> None:
        growth = Growth.of(grow, top=top, width=width, n_levels=n_levels, min_p=min_p)
        _check_sample(sample, grow)
        # Drafters work without a native build; this one needs it when it is made.
        from pytreellama.draft.draft_cache import DraftCache

        sizes = {"n_ctx": _N_CTX if n_ctx is None else n_ctx, "n_seq_max": n_seq_max}
        self._cache = DraftCache(source, n_threads=n_threads, **sizes, **options)
        self._growth = self._tree_growth = growth if self._cache.can_branch else growth.as_chain()
        self._sample = sample
        learns = calibrate and sample is None
        self._calibration = Calibration(growth.n_top) if learns else None

    def prepare(self, model: GgufModel) -> None:
        """Get to know the target; an engine does this before anything runs.

        Raises:
            DraftError: its vocabulary is another, or this factory is closed.
        """
        self._cache.require_open()
        check_same_vocab(model.vocab, self._cache.model.vocab)
        self._cache.n_vocab_target = model.vocab.n_tokens

    def attach(self, context: Context) -> None:
        """Get to know the target's context: where it takes chains alone, draft chains."""
        chains_only = not context.can_branch
        self._growth = self._tree_growth.as_chain() if chains_only else self._tree_growth

    def __call__(self) -> ModelDrafter:
        """Return a fresh drafter; raises DraftError once the factory is closed."""
        self._cache.require_open()
        return ModelDrafter(self._cache, self._growth, self._calibration, self._sample)

    def close(self) -> None:
        """Free the draft model's context, and the model unless it was given open."""
        self._cache.close()

    def __repr__(self) -> str:
        return f"<pytreellama.draft.Model on {self._cache.model.path.name}>"


class ModelDrafter:
    """Proposes a tree that a draft model generates; made by ``Model``.

    The text is prefilled, and the tree grown, at a proposal. The draft model's KV cache is kept: if
    the text continues along drafted nodes, only new tokens are computed.

    Args:
        cache: the draft model's KV cache.
        growth: depth and width of trees.
        calibration: shared by all sequences. Each copies it at its start and then learns
            independently; None to use the draft model's probabilities.
        sample: temperature at which nodes are drawn; None for the likeliest nodes.
    """

    __slots__ = (
        "_ask",
        "_cache",
        "_calibration",
        "_can_read",
        "_drawn",
        "_growth",
        "_in_cache",
        "_random",
        "_sample",
        "_shared",
        "_text",
    )

    name = "model"

    def __init__(
        self,
        cache: DraftCache,
        growth: Growth,
        calibration: Calibration | None,
        sample: float | None = None,
    ) -> None:
        self._cache = cache
        self._sample = sample
        self._random = Random("draft")
        self._drawn: Drawn = {}
        self._growth = growth
        self._shared = calibration
        self._in_cache: DraftText | None = None
        self._ask: ModelAsk | None = None
        self.reset()

    def reset(self) -> None:
        """Forget the text, and give its sequence id back."""
        self._text: list[int] = []
        self._can_read = True
        self._calibration = TextCalibration(self._shared)
        self._in_cache = None
        self._withdraw()
        with self._cache.lock:
            self._cache.free_abandoned()

    def observe(self, tokens: Tokens) -> None:
        """Observe committed text, shape (n,); raises ``DraftError`` if not token ids."""
        ids = checked_tokens(tokens)
        self._withdraw()
        # What a longer vocabulary of the target has alone, no draft can be read after.
        self._can_read &= not ids or max(ids) < self._cache.n_vocab
        self._text += ids

    def propose(self, n_nodes: int) -> TokenTree:
        """Propose a tree of at most ``n_nodes`` nodes.

        Raises:
            DraftError: `n_nodes` < 0, the factory is closed, or the draft model failed; the text is
                then read anew when the next guess is asked for.
        """
        return self._proposed(n_nodes, self._growth.min_p)

    def grow_likely(self, n_nodes: int, min_p: float) -> Grown:
        """Propose nodes of at least ``min_p``; raises ``DraftError`` as ``propose``."""
        return grown(self._proposed(n_nodes, min_p), "the draft model")

    def announce(
        self, n_nodes: int, min_p: float | None = None, token_s: float | None = None
    ) -> None:
        """See ``SharesPasses``: trees that were announced grow together."""
        with self._cache.lock:
            min_p = self._growth.min_p if min_p is None else min_p
            self._ask = ModelAsk(self, n_nodes, min_p, token_s=token_s)
            self._cache.announced.append(self._ask)

    def _withdraw(self) -> None:
        with self._cache.lock:
            if self._ask in self._cache.announced:
                self._cache.announced.remove(self._ask)
            self._ask = None

    def _proposed(self, n_nodes: int, min_p: float) -> TokenTree:
        checked_n_nodes(n_nodes)
        self._cache.require_open()
        try:
            with self._cache.lock:
                ask = self._ask
                if ask is None or (ask.n_nodes, ask.min_p) != (n_nodes, min_p):
                    ask = ModelAsk(self, n_nodes, min_p)
                if ask.tree is None:
                    announced, self._cache.announced = self._cache.announced, []
                    grow_together(self._cache, announced if ask in announced else [ask])
                assert ask.tree is not None
                return ask.tree
        except PyTreeLlamaError as error:
            self._in_cache = None
            raise DraftError(
                f"the draft model {self._cache.model.path.name} failed: {error}"
            ) from error

    def begin(self, ask: ModelAsk) -> tuple[DraftText, list[int]] | None:
        """The text that a tree grows below, and its tokens that are to be read; None for no tree.

        Raises:
            TreeError, MemoryStateError: the draft model's cache failed.
        """
        n_left = self._cache.n_text_max - len(self._text)
        if not self._text or not self._can_read or n_left < 0:
            self._in_cache = None
            return None
        if ask.n_nodes == 0:
            return None
        if self._in_cache is None:
            n_top = self._growth.n_top if self._sample is None else N_KEPT
            self._in_cache = self._cache.new_text(max(n_top, self._growth.n_top))
        if self._in_cache is None:
            return None
        self._calibration.learn(self._in_cache.outcomes(self._text))
        return self._in_cache, self._in_cache.follow(self._text)

    def growing(self, text: DraftText, ask: ModelAsk) -> Growing:
        """The tree that grows below a text that was read."""
        # guesses on the last level are not read, so they need no position
        n_left = self._cache.n_text_max - len(self._text)
        growth = replace(self._growth.limited(n_left + 1), min_p=ask.min_p)
        if self._sample is not None:
            shape, self._drawn = growth.n_children, {}
            return growing_by_draws(
                text.children, shape, ask.n_nodes, self._sample, self._random, self._drawn
            )
        return growing(text.children, growth, ask.n_nodes, self._calibration.belief)

    def seed_draws(self, seed: str) -> None:
        """See ``Draws``."""
        self._random = Random(seed)

    def drawn_from(self, path: Sequence[int]) -> Row | None:
        """See ``Draws``."""
        return self._drawn.get(tuple(path))


def _check_sample(sample: float | None, grow: Grow) -> None:
    if sample is None:
        return
    if not 0.01 <= sample <= 100.0:
        raise DraftError(f"invalid sample={sample}: expected None, or a temperature of 0.01 to 100")
    if grow == "best":
        raise DraftError(
            "sample draws nodes, and grow='best' keeps the likeliest: give 'chain', or the number "
            "of children of a node on each level, such as (2, 1, 1)"
        )


@dataclass(eq=False, slots=True)
class ModelAsk(TreeAsk):
    """A tree that a drafter wants."""

    drafter: ModelDrafter
    n_nodes: int
    min_p: float


def grow_together(cache: DraftCache, asks: Sequence[ModelAsk]) -> None:
    """Grow trees of several texts, with one pass a level for all of them."""
    begun = [(ask, begin) for ask in asks if (begin := ask.drafter.begin(ask)) is not None]
    cache.read([begin for _, begin in begun])
    ready = [(ask, text) for ask, (text, _) in begun if text.is_read]
    texts = [text for _, text in ready]
    token_s = [ask.token_s for ask, _ in ready]
    steps = [ask.drafter.growing(text, ask) for ask, text in ready]
    trees = in_lockstep(steps, lambda levels: cache.add_levels(texts, levels, token_s))
    for ask in asks:
        ask.tree = EMPTY_TREE
    for (ask, _), tree in zip(ready, trees, strict=True):
        ask.tree = tree
