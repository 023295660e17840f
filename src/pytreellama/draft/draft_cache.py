"""A draft model's KV cache: sequences, and the draft nodes below their ends."""

from __future__ import annotations

import os
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from pytreellama.closing import Closing
from pytreellama.context.context import Context
from pytreellama.draft.growth import TRUNK, Row
from pytreellama.errors import ContextError, DraftError, TreeError
from pytreellama.model.model import Model


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

    def rows(self, n_top: int) -> list[Row]:
        """What the last pass expects, a row an output."""
        tokens, logp = self._context.outputs.top_k(n_top)
        p = np.exp(logp)
        p[~(p > 0) | (tokens >= self.n_vocab_target)] = 0  # NaN too
        return list(zip(tokens.tolist(), p.tolist(), strict=True))


class DraftText(ABC):
    """One sequence in the cache and its draft nodes: the ``Foresight`` that trees grow from."""

    def __init__(self, cache: DraftCache, context: Context, seq: int, n_top: int) -> None:
        self._cache, self._context, self._seq, self._n_top = cache, context, seq, n_top
        self._n_read = 0
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
        for node, token in zip(nodes, text[self._n_read :], strict=False):
            yield self._rows[node], token

    def follow(self, text: list[int]) -> bool:
        """Prefill the new tokens of a text; accepted draft nodes are not computed again.

        Args:
            text: the same as before, and more or nothing more.

        Returns:
            False if there is no room for it now.
        """
        if len(text) > self._n_read:
            path = self._path(text)
            end_row = self._rows.get(path[-1] if path else TRUNK)
            self._n_read += self._settle(path)
            self._candidates.clear()
            self._rows = {} if end_row is None else {TRUNK: end_row}
            self._read(text[self._n_read :])
        return bool(self._rows)

    def _path(self, text: list[int]) -> list[int]:
        """The draft nodes that the text followed since it was read."""
        path: list[int] = []
        node = TRUNK
        for token in text[self._n_read :]:
            child = self._candidates.get((node, token))
            if child is None:
                break
            path.append(child)
            node = child
        return path

    @abstractmethod
    def _settle(self, path: list[int]) -> int:
        """Commit a path of draft nodes and free all others; returns the number committed."""

    def _read(self, tokens: list[int]) -> None:
        if not tokens:
            return
        self._rows = {}
        self._count_cells()
        if len(tokens) <= self._cache.n_cells_left:
            self._context.prefill(tokens, self._seq, logits=True)
            self._n_read += len(tokens)
            self._rows = {TRUNK: self._cache.rows(self._n_top)[0]}
            self._count_cells()

    # -- the draft nodes

    def children(self, node: int) -> Row:
        """The likeliest tokens behind a node; see ``Foresight``."""
        return self._rows[node]

    def add(self, tokens: Sequence[int], parents: Sequence[int]) -> list[int]:
        """Add draft nodes below earlier ones; known nodes are not decoded again."""
        candidates = list(zip(parents, tokens, strict=True))
        new = [candidate for candidate in candidates if candidate not in self._candidates]
        if new and not (len(new) <= self._cache.n_cells_left and self._decode(new)):
            return []
        if new:
            for candidate, row in zip(new, self._cache.rows(self._n_top), strict=True):
                self._candidates[candidate] = node = len(self._candidates)
                self._rows[node] = row
            self._count_cells()
        return [self._candidates[candidate] for candidate in candidates]

    @abstractmethod
    def _decode(self, candidates: list[tuple[int, int]]) -> bool:
        """Run the model over new draft nodes in one pass; False if there is no room."""

    def _count_cells(self) -> None:
        self._cache.count_cells(self._seq, self._n_read + self.n_candidates)


class TreeText(DraftText):
    """A sequence with a draft tree: nodes stay pending in the cache until the text continues."""

    def _settle(self, path: list[int]) -> int:
        if self._candidates:
            self._context.commit(self._seq, path)
        return len(path)

    def _decode(self, candidates: list[tuple[int, int]]) -> bool:
        parents, tokens = zip(*candidates, strict=True)
        try:
            self._context.grow(self._seq, tokens, parents)
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
            self._context.memory.load(self._before, self._seq)
            return 0
        return len(path)

    def _decode(self, candidates: list[tuple[int, int]]) -> bool:
        ((_, token),) = candidates
        if not self._candidates:
            self._before = self._context.memory.save(self._seq)
        self._context.decode(token, seq=self._seq)
        return True
