"""A KV cache in plain Python: what llama.cpp's cells should hold, by the documentation of Memory.

It knows no tensors. A cell remembers which tokens it was computed from, so that the model can tell
whether a sequence is still plain text, whose logits sequential decoding can confirm.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from strategies import path_to

Text = tuple[int, ...]
SavedCells = list["Cell"]


class RefusedError(Exception):
    """The operation must raise, and change nothing that the model does not say."""


class FullError(RefusedError):
    """No room for the cells."""


@dataclass
class Cell:
    """One cell.

    Attributes:
        seen: the text that the key and value were computed from, this token included; None where
            they are not those of a plain text from position 0 (shifted, gaps, or unknown).
        sequences: who sees it.
        node: its index in the pending tree of its only sequence; None if it is committed.
    """

    position: int
    token: int
    seen: Text | None
    sequences: set[int]
    node: int | None = None


@dataclass
class Stream:
    """Cells that are one pool."""

    capacity: int
    cells: list[Cell] = field(default_factory=list)

    def take(self, cells: Sequence[Cell]) -> None:
        self.require(len(cells))
        self.cells += cells

    def require(self, n_cells: int) -> None:
        if len(self.cells) + n_cells > self.capacity:
            raise FullError

    def sweep(self) -> None:
        """Free the cells that nobody sees."""
        self.cells = [cell for cell in self.cells if cell.sequences]


class CacheModel:
    """The cache of a context; ranges are [p0, p1), and a negative bound is none."""

    def __init__(self, n_cells: int, n_seq_max: int, *, unified: bool, branches: bool) -> None:
        """`n_cells`: of all sequences together if unified, of each otherwise.

        `branches`: trees may have them.
        """
        self.n_seq_max = n_seq_max
        self.unified = unified
        self.branches = branches
        self._streams = [Stream(n_cells) for _ in range(1 if unified else n_seq_max)]
        self.pending: dict[int, list[int]] = {}  # sequence -> parents of its nodes

    # -- what a test may ask

    def cells(self, seq: int) -> list[Cell]:
        """The committed cells that a sequence sees, by position."""
        own = [c for c in self._pool(seq).cells if seq in c.sequences and c.node is None]
        return sorted(own, key=lambda cell: cell.position)

    def pos_min(self, seq: int) -> int:
        return min((cell.position for cell in self.cells(seq)), default=-1)

    def pos_max(self, seq: int) -> int:
        return max((cell.position for cell in self.cells(seq)), default=-1)

    def n_free(self, seq: int) -> int:
        pool = self._pool(seq)
        return pool.capacity - len(pool.cells)

    def committed(self, seq: int) -> Counter[tuple[int, frozenset[int]]]:
        """Positions and owners of the committed cells in the pool of a sequence."""
        cells = self._pool(seq).cells
        return Counter((c.position, frozenset(c.sequences)) for c in cells if c.node is None)

    def pending_positions(self, seq: int) -> Counter[int]:
        """Positions of the pending nodes in the pool of a sequence."""
        return Counter(c.position for c in self._pool(seq).cells if c.node is not None)

    def pending_nodes(self, seq: int) -> Counter[tuple[int, ...]]:
        """Position, owner and node of the pending cells in the pool of a sequence."""
        cells = (c for c in self._pool(seq).cells if c.node is not None)
        return Counter((c.position, *c.sequences, c.node) for c in cells if c.node is not None)

    def plain_text(self, seq: int) -> Text | None:
        """The tokens of a sequence that sequential decoding would have left just so, or None."""
        cells = self.cells(seq)
        text = tuple(cell.token for cell in cells)
        plain = all(c.position == i and c.seen == text[: i + 1] for i, c in enumerate(cells))
        return text if plain else None

    # -- passes

    def append(self, seq: int, tokens: Sequence[int]) -> None:
        self._require_settled(seq)
        text, start = self.plain_text(seq), self.pos_max(seq) + 1
        new = []
        for i, token in enumerate(tokens):
            seen = None if text is None else (*text, *tokens[: i + 1])
            new.append(Cell(start + i, token, seen, {seq}))
        self._pool(seq).take(new)

    def grow(self, seq: int, tokens: Sequence[int], parents: Sequence[int]) -> None:
        old = self.pending.get(seq, [])
        joined = [*old, *parents]
        if not self.branches and (len(set(joined)) < len(joined) or self._branches(old, parents)):
            raise RefusedError
        start, nodes = self.pos_max(seq) + 1, self._nodes(seq)
        new = []
        for i, (token, parent) in enumerate(zip(tokens, parents, strict=True)):
            position = nodes[parent].position + 1 if parent >= 0 else start
            nodes.append(Cell(position, token, None, {seq}, node=len(old) + i))
            new.append(nodes[-1])
        self._pool(seq).take(new)
        self.pending[seq] = joined

    @staticmethod
    def _branches(old: Sequence[int], parents: Sequence[int]) -> bool:
        return any(parent != len(old) + i - 1 for i, parent in enumerate(parents))

    def commit(self, seq: int, path: Sequence[int]) -> None:
        parents = self._pending_parents(seq)
        above = [-1, *path]
        if any(not 0 <= n < len(parents) or parents[n] != above[i] for i, n in enumerate(path)):
            raise RefusedError
        text, nodes = self.plain_text(seq), self._nodes(seq)
        for i, node in enumerate(path):
            cell = nodes[node]
            path_tokens = [nodes[other].token for other in path[: i + 1]]
            cell.node, cell.seen = None, None if text is None else (*text, *path_tokens)
        self.discard(seq)

    def prune(self, seq: int, keep: Sequence[int]) -> list[int]:
        """The new number of each node, -1 for those that are gone."""
        parents = self._pending_parents(seq)
        if any(not 0 <= node < len(parents) for node in keep):
            raise RefusedError
        stays = sorted({a for node in keep for a in path_to(parents, node)})
        numbers = [stays.index(node) if node in stays else -1 for node in range(len(parents))]
        for cell in self._nodes(seq):
            assert cell.node is not None
            cell.sequences -= set() if cell.node in stays else {seq}
            cell.node = numbers[cell.node]
        self._pool(seq).sweep()
        self.pending[seq] = [numbers[p] if p >= 0 else p for p in map(parents.__getitem__, stays)]
        if not stays:
            del self.pending[seq]
        return numbers

    def discard(self, seq: int) -> None:
        if self.pending.pop(seq, None) is not None:
            pool = self._pool(seq)
            pool.cells = [c for c in pool.cells if c.node is None or seq not in c.sequences]

    # -- memory

    def clear(self) -> None:
        self.pending.clear()
        for stream in self._streams:
            stream.cells.clear()

    def rm(self, seq: int, p0: int, p1: int) -> None:
        self._require_settled(seq)
        for cell in self._within(seq, p0, p1):
            cell.sequences.discard(seq)
        self._pool(seq).sweep()

    def cp(self, source: int, target: int, p0: int, p1: int) -> None:
        self._require_settled(source)
        self._require_settled(target)
        if source == target:
            return
        copied = self._within(source, p0, p1)
        if self.unified:
            self._require_no_other_text(source, target, copied)
            for cell in copied:
                cell.sequences.add(target)
            return
        if len(copied) < len(self.cells(source)) or self.cells(target):
            raise RefusedError
        self._pool(target).take([replace(cell, sequences={target}) for cell in copied])

    def _require_no_other_text(self, source: int, target: int, copied: list[Cell]) -> None:
        if not copied:
            return
        first, last = copied[0].position, copied[-1].position
        between = [c for c in self.cells(target) if first <= c.position <= last]
        if any(source not in cell.sequences for cell in between):
            raise RefusedError

    def keep(self, seq: int) -> None:
        self._require_all_settled()
        for stream in self._streams:
            for cell in stream.cells:
                cell.sequences &= {seq}
            stream.sweep()

    def add(self, seq: int, p0: int, p1: int, delta: int) -> None:
        self._require_all_settled()
        for cell in self._within(seq, p0, p1) if delta else []:
            cell.position, cell.seen = cell.position + delta, None
            if cell.position < 0:
                cell.sequences.clear()
        self._pool(seq).sweep()

    def div(self, seq: int, p0: int, p1: int, divisor: int) -> None:
        self._require_all_settled()
        if divisor < 1:
            raise RefusedError
        for cell in self._within(seq, p0, p1) if divisor > 1 else []:
            cell.position, cell.seen = cell.position // divisor, None

    # -- saving

    def save(self, seq: int) -> SavedCells:
        self._require_settled(seq)
        return [replace(cell, sequences=set()) for cell in self.cells(seq)]

    def load(self, saved: SavedCells, seq: int) -> None:
        """Raises FullError after it has emptied the sequence."""
        self._require_settled(seq)
        self.rm(seq, -1, -1)
        self._pool(seq).take([replace(cell, sequences={seq}) for cell in saved])

    def save_all(self) -> list[SavedCells]:
        self._require_all_settled()
        return [_copies(stream.cells) for stream in self._streams]

    def load_all(self, saved: list[SavedCells]) -> None:
        self._require_all_settled()
        for stream, cells in zip(self._streams, saved, strict=True):
            stream.cells = _copies(cells)

    # -- inside

    def _pool(self, seq: int) -> Stream:
        return self._streams[0 if self.unified else seq]

    def _within(self, seq: int, p0: int, p1: int) -> list[Cell]:
        return [c for c in self.cells(seq) if p0 <= c.position and (p1 < 0 or c.position < p1)]

    def _nodes(self, seq: int) -> list[Cell]:
        own = [c for c in self._pool(seq).cells if c.node is not None and seq in c.sequences]
        return sorted(own, key=lambda cell: cell.node if cell.node is not None else -1)

    def _pending_parents(self, seq: int) -> list[int]:
        if seq not in self.pending:
            raise RefusedError
        return self.pending[seq]

    def _require_settled(self, seq: int) -> None:
        if seq in self.pending:
            raise RefusedError

    def _require_all_settled(self) -> None:
        if self.pending:
            raise RefusedError


def _copies(cells: SavedCells) -> SavedCells:
    return [replace(cell, sequences=set(cell.sequences)) for cell in cells]
