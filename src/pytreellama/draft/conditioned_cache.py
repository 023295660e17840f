"""ConditionedCache: the KV cache of a draft that reads the target's states, for many texts."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

from pytreellama.closing import Closing
from pytreellama.context.draft_context import DraftContext, Piece
from pytreellama.draft.calibration import limit_siblings
from pytreellama.draft.conditioned_text import ConditionedText, Node
from pytreellama.draft.growth import Belief, Growth, Level, growing
from pytreellama.draft.level_cost import LevelCost
from pytreellama.draft.lockstep import TreeAsk, in_lockstep
from pytreellama.draft.protocol import EMPTY_TREE, Float32Array
from pytreellama.errors import CacheFullError, TreeError
from pytreellama.tree import TokenTree

N_ENDED = 4
"""Sequences beyond those that run, for ended texts that others may begin like."""

_MAX_FLAGGED = 16  # tokens of a text that are worth rows of logits, to save a pass
_MAX_PENDING = 1024  # states of a text that wait for its tokens, while it does not draft


@dataclass(eq=False, slots=True)
class Ask(TreeAsk):
    """A tree that is wanted below the end of a text.

    Attributes:
        belief: calibrates the draft's probabilities.
    """

    text: ConditionedText
    growth: Growth
    n_nodes: int
    belief: Belief = limit_siblings


class ConditionedCache(Closing):
    """One draft context, shared by many texts: a sequence each.

    What the draft has read of a text is never wrong, but may be less than the whole: where states
    are missing (a prefix that the target did not compute again), cells are copied from a text that
    begins alike, one missing state counts as zeros, and else the draft reads the rest alone.

    Args:
        context: of the draft; closed with this.
        n_row: width of the states as the target leaves them.
        first: index of the first token of a text that is read: 0, with a state of zeros, or 1.
        n_vocab: tokens that the draft knows, which are the target's.
        encode: makes such states what the draft reads.
    """

    def __init__(
        self,
        context: DraftContext,
        *,
        n_row: int,
        first: int,
        n_vocab: int,
        encode: Callable[[Float32Array], Float32Array] | None = None,
    ) -> None:
        self._context = context
        self._n_row, self._first, self._encode = n_row, first, encode
        self._n_vocab = n_vocab
        self._texts: list[ConditionedText] = []  # all that run, and the ended that have cells
        self._abandoned: list[ConditionedText] = []
        self._announced: list[Ask] = []
        self._clock = 0
        self._level_cost = LevelCost()

    @property
    def closed(self) -> bool:
        return self._context.closed

    def close(self) -> None:
        """Free the draft's context; a second call does nothing."""
        self._context.close()

    # -- texts

    def new_text(self) -> ConditionedText:
        """A text of which nothing is known."""
        text = ConditionedText(self._first)
        self._texts.append(text)
        if self._first == 0:
            text.add_states(self._zeros())
        return text

    def abandon(self, text: ConditionedText) -> None:
        """A text has ended, at any time and on any thread: it is nobody's, until it is evicted."""
        self._abandoned.append(text)

    def observe(self, text: ConditionedText, first: int, rows: Float32Array) -> None:
        """Take the states of a text's tokens from index ``first`` on, shape (n, n_row)."""
        self._free_abandoned()
        rows = rows[max(text.n_known - first, 0) :]
        if len(rows) == 0:
            return
        if first > text.n_known:
            self._bridge(text, first)
        text.add_states(rows)
        n_ready = text.n_readable - text.n_read
        if n_ready > _MAX_FLAGGED:
            self._read(text, n_ready - 1)
        elif text.n_pending > _MAX_PENDING:
            self._free(text)

    def _zeros(self) -> Float32Array:
        return np.zeros((1, self._n_row), np.float32)

    def _bridge(self, text: ConditionedText, first: int) -> None:
        """Go on at token ``first``, although states before it are missing."""
        if text.n_cells == 0 and text.start == self._first:
            self._copy_prefix(text, first)
        if text.n_readable > text.n_read:
            self._read(text, text.n_readable - text.n_read)
        if first - text.n_read == 1 and text.n_cells > 0:
            text.add_states(self._zeros())
        elif text.n_read < first:
            self._free(text)
            text.begin_at(first)

    def _copy_prefix(self, text: ConditionedText, n_max: int) -> None:
        """Share the cells of the text that begins most like this one, up to ``n_max`` tokens."""
        n_common, donor = self._first, None
        for other in self._texts:
            if other is not text and other.start == self._first:
                # its last token must be read together with its logits
                n_end = max(other.n_read, min(other.n_readable, len(other.tokens) - 1))
                n = _n_common(text.tokens[:n_max], other.tokens[:n_end])
                if n > n_common:
                    n_common, donor = n, other
        if donor is None:
            return
        if n_common > donor.n_read:
            self._read(donor, n_common - donor.n_read)
        is_read = donor.n_read >= n_common and donor.start == self._first
        if is_read and self._has_sequence(text, [donor]):
            seqs = donor.require_seq(), text.require_seq()
            self._context.memory.cp(*seqs, 0, n_common - self._first)
            text.begin_at(n_common)
            text.start = self._first

    # -- cells

    def _has_sequence(self, text: ConditionedText, keep: Collection[ConditionedText]) -> bool:
        """Give a text a sequence, if it has none; False if others need them all."""
        self._clock += 1
        text.last_used = self._clock
        if text.seq is None:
            n_used = sum(other.seq is not None for other in self._texts)
            if n_used == self._context.native.n_seq_max and not self._evict(keep):
                return False
            text.seq = self._context.sequences.new()
        return True

    def _has_room(
        self, text: ConditionedText, n_cells: int, keep: Collection[ConditionedText]
    ) -> bool:
        """Make room for more of a text; where that fails, it begins again after what is known."""
        keep = [text, *keep]
        fits = text.n_cells + n_cells <= self._context.n_text_max
        if fits and self._has_sequence(text, keep) and self._has_cells(n_cells, keep):
            return True
        self._free(text)
        return False

    def _has_cells(self, n_cells: int, keep: Collection[ConditionedText]) -> bool:
        while self._context.n_ctx - (self._context.memory.n_cells_used or 0) < n_cells:
            if not self._evict(keep):
                return False
        return True

    def _evict(self, keep: Collection[ConditionedText]) -> bool:
        """Free the cells of the text that was not used for longest; False if none is left."""
        others = [text for text in self._texts if text.seq is not None and text not in keep]
        if others:
            self._free(min(others, key=lambda text: (not text.has_ended, text.last_used)))
        return bool(others)

    def _free(self, text: ConditionedText) -> None:
        """Free a text's cells; one that still runs goes on after what is known."""
        if text.seq is not None:
            self._context.sequences.free(text.seq)
            text.seq = None
        text.begin_at(text.n_known)
        if text.has_ended:
            self._texts.remove(text)

    def _free_abandoned(self) -> None:
        """Texts that ended keep their cells, if others may begin alike.

        Only between two calls: the garbage collector may end a text in the middle of one.
        """
        while self._abandoned:
            text = self._abandoned.pop()
            text.has_ended = True
            if text.seq is None or text.start != self._first:
                self._free(text)

    # -- reading

    def _read(
        self, text: ConditionedText, n_tokens: int, keep: Collection[ConditionedText] = ()
    ) -> None:
        """Read pending tokens of which no logits are wanted."""
        if not self._has_room(text, n_tokens, keep):
            return
        while n_tokens:
            n = min(n_tokens, self._context.n_batch)
            self._context.decode(self._pieces([(text, n)]), flagged=False)
            text.count_read(n)
            n_tokens -= n

    def _pieces(self, wanted: Sequence[tuple[ConditionedText, int]]) -> list[Piece]:
        """The next pending tokens of texts, with their states as the draft reads them."""
        tokens, states = zip(*(text.pending(n) for text, n in wanted), strict=True)
        rows = np.concatenate(states)
        if self._encode is not None:
            rows = self._encode(rows)
        parts = np.split(rows, np.cumsum([len(own) for own in tokens])[:-1])
        return [
            Piece(text.require_seq(), np.array(own, np.int32), part)
            for (text, _), own, part in zip(wanted, tokens, parts, strict=True)
        ]

    def _catch_up(self, texts: Sequence[ConditionedText], n_top: int) -> None:
        """Read all that is known of texts, in one pass; sets the root of those that are ready."""
        wanted: list[tuple[ConditionedText, int]] = []
        for text in texts:
            n = len(text.tokens) - text.n_read
            if text.root is not None or n < 1 or text.n_pending < n:
                continue
            if n > _MAX_FLAGGED:
                self._read(text, n - 1, texts)
                n = len(text.tokens) - text.n_read
            n_before = sum(n for _, n in wanted)
            fits = n_before + n <= self._context.n_batch
            if 1 <= n <= _MAX_FLAGGED and fits and self._has_room(text, n + n_before, texts):
                wanted.append((text, n))
        if not wanted:
            return
        places = self._context.decode(self._pieces(wanted))
        nodes = self._nodes(n_top)
        for (text, n), place in zip(wanted, places, strict=True):
            text.count_read(n)
            text.root = nodes[place.stop - 1]

    def _nodes(self, n_top: int) -> list[Node]:
        """What the last pass left, a node a row."""
        tokens, logp = self._context.outputs.top_k(min(n_top, self._n_vocab))
        p = np.exp(logp)
        p[~(p > 0)] = 0  # NaN too
        rows = zip(tokens.tolist(), p.tolist(), strict=True)
        return [Node(row, state) for row, state in zip(rows, self._context.states(), strict=True)]

    # -- drafting

    def announce(self, ask: Ask) -> None:
        """A tree will be asked for in this step: it may grow together with others."""
        self._announced.append(ask)

    def withdraw(self, ask: Ask) -> None:
        """The text of a tree that was announced has gone on."""
        if ask in self._announced:
            self._announced.remove(ask)

    def grow(self, ask: Ask) -> TokenTree:
        """Grow a tree, and with it all that were announced: one pass a level for all of them.

        Raises:
            DecodeError: the backend failed or was aborted.
        """
        self._free_abandoned()
        asks = [one for one in self._announced if not one.text.has_ended]
        asks = asks if ask in asks else [ask]
        self._announced = []
        texts = [one.text for one in asks]
        self._catch_up(texts, max(one.growth.n_top for one in asks))
        ready = [one for one in asks if one.text.root is not None]
        for one in ready:
            one.text.drop_nodes()
        steps = [
            growing(one.text.children, self._limited(one), one.n_nodes, one.belief) for one in ready
        ]
        try:
            trees = in_lockstep(steps, lambda levels: self._add_levels(ready, levels))
        finally:
            for one in ready:
                self._context.discard(one.text.require_seq())
        for one in asks:
            one.tree = EMPTY_TREE
        for one, tree in zip(ready, trees, strict=True):
            one.tree = tree
        assert ask.tree is not None
        return ask.tree

    def _limited(self, ask: Ask) -> Growth:
        """Nodes of the last level are not read, so they need no position."""
        return ask.growth.limited(self._context.n_text_max - ask.text.n_cells + 1)

    def _add_levels(
        self, asks: Sequence[Ask], levels: Sequence[Level | None]
    ) -> list[list[int]] | None:
        """Run the nodes of one level of each tree that grows on.

        Returns:
            The numbers of the new nodes of each; None if there is no room, or it does not pay.
        """
        texts = [ask.text for ask in asks]
        grown = [(ask, level) for ask, level in zip(asks, levels, strict=True) if level is not None]
        n_nodes = sum(len(level.tokens) for _, level in grown)
        fits = n_nodes <= self._context.n_batch and self._has_cells(n_nodes, texts)
        token_s = [ask.token_s for ask, _ in grown]
        if not fits or not self._level_cost.pays([level for _, level in grown], token_s):
            return None
        started_s = time.perf_counter()
        try:
            places = self._context.decode([_level_piece(ask.text, level) for ask, level in grown])
        except (CacheFullError, TreeError):  # so many nodes that there is no room for them
            return None
        nodes = self._nodes(max(ask.growth.n_top for ask in asks))
        self._level_cost.learn(n_nodes, time.perf_counter() - started_s)
        added = iter(places)
        return [
            [] if level is None else text.add_nodes(level, nodes[next(added)])
            for text, level in zip(texts, levels, strict=True)
        ]


def _level_piece(text: ConditionedText, level: Level) -> Piece:
    tokens, parents = np.array(level.tokens, np.int32), np.array(level.parents, np.int32)
    states = np.stack([text.node(parent).state for parent in level.parents])
    return Piece(text.require_seq(), tokens, states, parents)


def _n_common(a: Sequence[int], b: Sequence[int]) -> int:
    n = min(len(a), len(b))
    return next((i for i in range(n) if a[i] != b[i]), n)
