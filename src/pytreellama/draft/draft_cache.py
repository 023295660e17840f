"""A draft model's KV cache: sequences, and the draft nodes below their ends."""

from __future__ import annotations

import os
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pytreellama.closing import Closing
from pytreellama.context.batch import Batch
from pytreellama.context.context import Context
from pytreellama.draft.growth import MAX_GROWTH, TRUNK, Level, Row
from pytreellama.draft.level_cost import LevelCost
from pytreellama.errors import ContextError, DraftError, TreeError
from pytreellama.model.model import Model

if TYPE_CHECKING:
    from pytreellama.draft.model import ModelAsk

_N_SHORT = 16  # tokens of a text that may share a pass; longer ones have passes of their own


class DraftCache(Closing):
    """One context of a draft model, shared by many texts: a sequence id for each.

    Attributes:
        model: the draft model.
        n_vocab: tokens that the model knows, so that a text can be read.
        n_vocab_target: tokens that may be expected: the target knows no more.
        n_text_max: tokens of the longest text that can be read.

    Args:
        source: a GGUF file, or an open model, which then stays its owner's to close.
        options: fields of ``ContextParams``.

    Raises:
        ModelLoadError, ContextError: it cannot be loaded, or sizes that do not fit.
    """

    def __init__(self, source: str | os.PathLike[str] | Model, **options: Any) -> None:
        if options.get("kv_unified") is False:
            raise ContextError(
                "invalid kv_unified=False: all sequences share one KV cache; leave it out"
            )
        self.model = source if isinstance(source, Model) else Model(source)
        self._owns_model = self.model is not source
        try:
            # drafts are evaluated as trees or token by token: chains would take memory for nothing
            self._context = Context(self.model, **({"n_rs_seq": 0} | options))
        except BaseException:
            self._close_own_model()
            raise
        self.n_vocab = self.n_vocab_target = self._context.n_vocab
        self.n_text_max = self._context.n_text_max
        self.lock = threading.RLock()  # several engines may share a factory, each with its thread
        self._n_cells: dict[int, int] = {}
        self._abandoned: list[int] = []
        self._batch = Batch(self._context.n_batch)
        self.announced: list[ModelAsk] = []  # trees that will be asked for in this step
        self._level_cost = LevelCost()
        self._can_share_levels = self.model.can_branch

    def close(self) -> None:
        """Free the context, and the model unless it was given open; a second call does nothing."""
        self._context.close()
        self._close_own_model()

    def _close_own_model(self) -> None:
        if self._owns_model:
            self.model.close()

    @property
    def closed(self) -> bool:
        return self._context.closed

    def require_open(self) -> None:
        """Raise DraftError once it is closed."""
        if self.closed:
            raise DraftError("this draft model is closed; make a new pytreellama.draft.Model(...)")

    @property
    def can_branch(self) -> bool:
        """True if texts can be read with trees below them, not chains alone."""
        return self._context.can_roll_back and self._context.can_branch

    @property
    def n_cells_left(self) -> int:
        """Free cells, for sequences and draft nodes together."""
        self.free_abandoned()
        return self._context.n_ctx - sum(self._n_cells.values())

    def new_text(self, n_top: int) -> DraftText | None:
        """A text to be read, of which the `n_top` likeliest tokens are asked everywhere.

        None while all sequence ids are in use. The id is given back when the text is forgotten.
        """
        self.free_abandoned()
        if len(self._n_cells) == self._context.n_seq_max:
            return None
        seq = self._context.sequences.new()
        self._n_cells[seq] = 0
        kind = TreeText if self.can_branch else ChainText
        return kind(self, self._context, seq, min(n_top, self.n_vocab))

    def abandon_with(self, text: DraftText, seq: int) -> None:
        """Give `seq` back once `text` is gone.

        Only noted down then: the garbage collector may come by in the middle of a pass.
        """
        weakref.finalize(text, self._abandoned.append, seq)

    def free_abandoned(self) -> None:
        """Free what forgotten texts held."""
        while self._abandoned:
            seq = self._abandoned[0]  # meanwhile more may come, at the end
            if not self.closed:
                self._context.sequences.free(seq)
            del self._n_cells[seq], self._abandoned[0]

    def count_cells(self, seq: int, n_cells: int) -> None:
        """Record how many cells a sequence and its draft nodes hold."""
        self._n_cells[seq] = n_cells

    # -- passes that texts share

    def read(self, wanted: Sequence[tuple[DraftText, list[int]]]) -> None:
        """Prefill the new tokens of texts; short ones in one pass, as far as there is room."""
        short = [one for one in wanted if 0 < len(one[1]) <= _N_SHORT]
        n_tokens = sum(len(tokens) for _, tokens in short)
        if len(short) < 2 or n_tokens > min(self.n_cells_left, self._batch.capacity):
            short = []
        for one in wanted:
            if one not in short:
                one[0].read(one[1])
        if short:
            self._read_together(short)

    def _read_together(self, wanted: Sequence[tuple[DraftText, list[int]]]) -> None:
        self._batch.clear()
        for text, tokens in wanted:
            text.forget_rows()
            positions = np.arange(text.n_read, text.n_read + len(tokens))
            flags = [i == len(tokens) - 1 for i in range(len(tokens))]
            self._batch.add(tokens, positions, text.seq, logits=flags)
        self._context.decode(self._batch)
        rows = self.rows(max(text.n_top for text, _ in wanted))
        for (text, tokens), row in zip(wanted, rows, strict=True):
            text.take_end(len(tokens), row)

    def add_levels(
        self,
        texts: Sequence[DraftText],
        levels: Sequence[Level | None],
        token_s: Sequence[float | None],
    ) -> list[list[int]] | None:
        """Add a level below each text, or none; in one pass where all fit into one.

        Args:
            token_s: seconds that an accepted token of each saves; None where nobody knows.

        Returns:
            The names of the nodes of each, empty if there is no room for them; None if the levels
            are not worth their pass.
        """
        growing = [(one, s) for one, s in zip(levels, token_s, strict=True) if one is not None]
        if not self._level_cost.pays([one for one, _ in growing], [s for _, s in growing]):
            return None
        started_s = time.perf_counter()
        new = [
            [] if level is None else text.unknown(level.tokens, level.parents)
            for text, level in zip(texts, levels, strict=True)
        ]
        if self._can_share(texts, new):
            pairs = zip(texts, new, strict=True)
            self._decode_together([(text, nodes) for text, nodes in pairs if nodes])
        names = [
            [] if level is None else text.add(level.tokens, level.parents)
            for text, level in zip(texts, levels, strict=True)
        ]
        if n_new := sum(map(len, new)):
            self._level_cost.learn(n_new, time.perf_counter() - started_s)
        return names

    def _can_share(self, texts: Sequence[DraftText], new: Sequence[list[tuple[int, int]]]) -> bool:
        n_new = sum(map(len, new))
        fits = all(
            text.n_candidates + len(nodes) <= MAX_GROWTH
            for text, nodes in zip(texts, new, strict=True)
        )
        # a recurrent state limits the nodes of all texts together
        can_share = self._can_share_levels and self.can_branch and sum(map(bool, new)) > 1
        return can_share and fits and n_new <= min(self.n_cells_left, self._batch.capacity)

    def _decode_together(self, wanted: Sequence[tuple[DraftText, list[tuple[int, int]]]]) -> None:
        self._batch.clear()
        places = []
        for text, nodes in wanted:
            parents, tokens = zip(*nodes, strict=True)
            places.append(self._context.place_nodes(self._batch, text.seq, tokens, parents))
        self._context.decode(self._batch)
        rows = self.rows(max(text.n_top for text, _ in wanted))
        for (text, nodes), place in zip(wanted, places, strict=True):
            text.take_nodes(nodes, rows[place])

    def rows(self, n_top: int) -> list[Row]:
        """What the last pass expects, a row an output."""
        tokens, logp = self._context.outputs.top_k(n_top)
        p = np.exp(logp)
        p[~(p > 0) | (tokens >= self.n_vocab_target)] = 0  # NaN too
        return list(zip(tokens.tolist(), p.tolist(), strict=True))


class DraftText(ABC):
    """One sequence in the cache and its draft nodes: the ``Foresight`` that trees grow from."""

    def __init__(self, cache: DraftCache, context: Context, seq: int, n_top: int) -> None:
        self._cache, self._context, self.seq, self.n_top = cache, context, seq, n_top
        self.n_read = 0
        self._rows: dict[int, Row] = {}
        self._candidates: dict[tuple[int, int], int] = {}  # by parent and token
        cache.abandon_with(self, seq)

    # -- the text

    @property
    def n_candidates(self) -> int:
        """Nodes that hang below the text's end."""
        return len(self._candidates)

    def outcomes(self, text: list[int]) -> Iterator[tuple[Row, int]]:
        """What was expected wherever the text went on since it was read, and what came instead."""
        nodes = [TRUNK, *self._path(text)] if self._rows else []
        for node, token in zip(nodes, text[self.n_read :], strict=False):
            yield self._rows[node], token

    def follow(self, text: list[int]) -> list[int]:
        """Let the draft tree go where a text went; accepted draft nodes are not computed again.

        Args:
            text: the same as before, and more or nothing more.

        Returns:
            Its tokens that are to be read.
        """
        if len(text) > self.n_read:
            path = self._path(text)
            end_row = self._rows.get(path[-1] if path else TRUNK)
            self.n_read += self._settle(path)
            self._candidates.clear()
            self._rows = {} if end_row is None else {TRUNK: end_row}
        return text[self.n_read :]

    @property
    def is_read(self) -> bool:
        """True if all of the text was read, so that a tree can grow below it."""
        return bool(self._rows)

    def _path(self, text: list[int]) -> list[int]:
        """The draft nodes that the text followed since it was read."""
        path: list[int] = []
        node = TRUNK
        for token in text[self.n_read :]:
            child = self._candidates.get((node, token))
            if child is None:
                break
            path.append(child)
            node = child
        return path

    @abstractmethod
    def _settle(self, path: list[int]) -> int:
        """Commit a path of draft nodes and free all others; returns the number committed."""

    def read(self, tokens: list[int]) -> None:
        """Prefill new tokens of the text, if there is room for them."""
        if not tokens:
            return
        self.forget_rows()
        if len(tokens) <= self._cache.n_cells_left:
            self._context.prefill(tokens, self.seq, logits=True)
            self.take_end(len(tokens), self._cache.rows(self.n_top)[0])

    def forget_rows(self) -> None:
        """What was expected is past: the text goes on."""
        self._rows = {}
        self._count_cells()

    def take_end(self, n_tokens: int, row: Row) -> None:
        """So many more tokens were read; ``row`` is what is expected after them."""
        self.n_read += n_tokens
        self._rows = {TRUNK: row}
        self._count_cells()

    # -- the draft nodes

    def children(self, node: int) -> Row:
        """The likeliest tokens behind a node; see ``Foresight``."""
        return self._rows[node]

    def add(self, tokens: Sequence[int], parents: Sequence[int]) -> list[int]:
        """Add draft nodes below earlier ones; known nodes are not decoded again."""
        new = self.unknown(tokens, parents)
        if new and not (len(new) <= self._cache.n_cells_left and self._decode(new)):
            return []
        if new:
            self.take_nodes(new, self._cache.rows(self.n_top))
        return [self._candidates[one] for one in zip(parents, tokens, strict=True)]

    def unknown(self, tokens: Sequence[int], parents: Sequence[int]) -> list[tuple[int, int]]:
        """Of such nodes, those that were not decoded yet, by parent and token."""
        candidates = zip(parents, tokens, strict=True)
        return [one for one in candidates if one not in self._candidates]

    def take_nodes(self, new: Sequence[tuple[int, int]], rows: Sequence[Row]) -> None:
        """Such nodes were decoded; ``rows`` is what is expected after each."""
        for candidate, row in zip(new, rows, strict=True):
            self._candidates[candidate] = node = len(self._candidates)
            self._rows[node] = row
        self._count_cells()

    @abstractmethod
    def _decode(self, candidates: list[tuple[int, int]]) -> bool:
        """Run the model over new draft nodes in one pass; False if there is no room."""

    def _count_cells(self) -> None:
        self._cache.count_cells(self.seq, self.n_read + self.n_candidates)


class TreeText(DraftText):
    """A sequence with a draft tree: nodes stay pending in the cache until the text continues."""

    def _settle(self, path: list[int]) -> int:
        if self._candidates:
            self._context.commit(self.seq, path)
        return len(path)

    def _decode(self, candidates: list[tuple[int, int]]) -> bool:
        parents, tokens = zip(*candidates, strict=True)
        try:
            self._context.grow(self.seq, tokens, parents)
        except TreeError:  # these nodes make a tree, so there can only be too many of them
            return False
        return True


class ChainText(DraftText):
    """A text whose cache cannot be rolled back, such as a recurrent model's state.

    The state is saved before the first draft token, and restored unless all were accepted; the
    right ones are then read again, in the pass that reads what is new.
    """

    _before = b""

    def _settle(self, path: list[int]) -> int:
        if len(path) < self.n_candidates:
            self._context.memory.load(self._before, self.seq)
            return 0
        return len(path)

    def _decode(self, candidates: list[tuple[int, int]]) -> bool:
        ((_, token),) = candidates
        if not self._candidates:
            self._before = self._context.memory.save(self.seq)
        self._context.decode(token, seq=self.seq)
        return True
