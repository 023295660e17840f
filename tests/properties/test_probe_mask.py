"""The mask that attention really used, read back from the graph, against the definition of a tree.

A node sees the committed text of its own sequence, its own ancestors and itself, nothing else, and
in layers with a sliding window only what stands less than a window before it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytreellama import Batch, Context, Model, TokenTree, TreeEncoding
from pytreellama.context.batch import SequenceSets
from pytreellama.errors import TreeError
from pytreellama.testing.cells import read_cells
from pytreellama.testing.probe import MaskRecord, Probe, probe_of
from pytreellama.tree import sequence_sets
from pytreellama.tree.layout import depths, dfs_order
from pytreellama.tree.mask import ancestor_mask
from strategies import parent_lists, path_to, token_trees

N_SWA = 8  # narrower than many trees are deep
KINDS = ("rope", "learned", "alibi", "swa")
N_UBATCH = (5, 64)  # trees in several micro-batches, and in one
TEXT = 33  # a token id: masks do not depend on it

ContextOf = Callable[..., Context]


@pytest.fixture(scope="module", params=TreeEncoding, ids=lambda encoding: encoding.value)
def context_of(
    tiny_model: Callable[..., Model], request: pytest.FixtureRequest
) -> Iterator[ContextOf]:
    """A probed context of these options, empty; made once, since making one takes longest."""
    contexts: dict[tuple[object, ...], Context] = {}

    def get(kind: str, *, flash: bool, **options: Any) -> Context:
        key = (kind, flash, *sorted(options.items()))
        if key not in contexts:
            sizes: dict[str, Any] = {"n_ctx": 512, "n_batch": 256, "n_ubatch": 64, "n_seq_max": 16}
            contexts[key] = Context(
                tiny_model(kind, n_swa=N_SWA),
                n_threads=1,
                flash_attention=flash,
                tree_encoding=request.param,
                **sizes | options,
            )
            Probe(contexts[key])
        contexts[key].memory.clear(data=False)
        return contexts[key]

    yield get
    for context in contexts.values():
        context.close()


@dataclass
class Row:
    """A token of a pass: where it stands, and the cells that it must see in a full cache."""

    position: int
    cells: list[int]


@dataclass
class Ledger:
    """Which cell holds which pending node, found by which cells a pass has filled.

    llama.cpp fills free cells in the order of the batch; nothing is freed between the passes that
    one ledger covers, so a cell that was free before holds the next token.
    """

    context: Context
    node_cells: dict[int, list[int]] = field(default_factory=dict)
    parents: dict[int, list[int]] = field(default_factory=dict)
    text_cells: dict[int, list[int]] = field(default_factory=dict)
    positions: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.positions = self._read()

    def _read(self) -> np.ndarray:
        cells = read_cells(self.context)
        assert cells is not None
        return cells.positions

    def keep_text(self, seq: int) -> None:
        """Note the cells of a sequence that has no pending nodes."""
        cells = read_cells(self.context)
        assert cells is not None
        mine = np.flatnonzero(cells.members[:, seq])
        in_order = mine[np.argsort(cells.positions[mine])]
        assert cells.positions[in_order].tolist() == list(range(len(mine)))
        self.text_cells[seq] = in_order.tolist()
        self.node_cells[seq], self.parents[seq] = [], []

    def add(self, parts: list[tuple[int, list[int]]]) -> list[Row]:
        """Take in a pass over nodes of several sequences, in the order of the batch."""
        filled = self._take_filled()
        rows: list[Row] = []
        for seq, parents in parts:
            cells = [filled.pop(0) for _ in parents]
            self.node_cells[seq] += cells
            self.parents[seq] += parents
            rows += self._rows(seq, len(parents))
        assert not filled
        for row, cell in zip(rows, self._order(parts), strict=True):
            assert self.positions[cell] == row.position
        return rows

    def _order(self, parts: list[tuple[int, list[int]]]) -> Iterator[int]:
        for seq, parents in parts:
            yield from self.node_cells[seq][-len(parents) :]

    def _take_filled(self) -> list[int]:
        now = self._read()
        filled = np.flatnonzero((now >= 0) & (self.positions < 0)).tolist()
        self.positions = now
        return filled

    def _rows(self, seq: int, n_new: int) -> list[Row]:
        """What the last `n_new` nodes of a sequence see, by the definition."""
        parents = self.parents[seq]
        sees = ancestor_mask(parents)[-n_new:]
        text, cells = self.text_cells[seq], np.array(self.node_cells[seq])
        return [
            Row(len(text) + int(depth), text + cells[row].tolist())
            for row, depth in zip(sees, depths(parents)[-n_new:], strict=True)
        ]


def expected_mask(rows: list[Row], positions: np.ndarray, window: int | None) -> np.ndarray:
    """What each row sees, bool (n_rows, n_cells)."""
    sees = np.zeros((len(rows), len(positions)), np.bool_)
    for seen, row in zip(sees, rows, strict=True):
        seen[row.cells] = True
        if window is not None:
            seen &= row.position - positions < window
    return sees


def joined_masks(records: list[MaskRecord], n_ubatch: int, n_rows: int) -> dict[bool, np.ndarray]:
    """The masks of the micro-batches of a pass, one below the other, of each cache."""
    joined = {}
    for sliding in sorted({record.is_sliding for record in records}):
        own = [record for record in records if record.is_sliding == sliding]
        counts = [min(n_ubatch, n_rows - first) for first in range(0, n_rows, n_ubatch)]
        assert len(own) == len(counts), "one record a micro-batch"
        assert all(record.values.shape[0] == 1 for record in own)
        width = max(record.values.shape[2] for record in own)
        parts = []
        for record, count in zip(own, counts, strict=True):
            part = np.full((count, width), -np.inf, np.float32)
            part[:, : record.values.shape[2]] = record.values[0, :count]
            parts.append(part)
        joined[sliding] = np.concatenate(parts)
    return joined


def n_differences(context: Context, kind: str, rows: list[Row]) -> int:
    """Entries in which the masks of the last pass differ from the definition, over all caches."""
    masks = joined_masks(probe_of(context).records(), context.n_ubatch, len(rows))
    assert sorted(masks) == ([False, True] if kind == "swa" else [False])
    count = 0
    for sliding, mask in masks.items():
        cells = read_cells(context, sliding=sliding)
        assert cells is not None
        positions = cells.positions[: mask.shape[1]]
        assert not (cells.positions[mask.shape[1] :] >= 0).any(), "a mask leaves out no used cell"
        sees = expected_mask(rows, positions, N_SWA if sliding else None)
        own = np.array([row.position for row in rows])[:, None]
        bias = -np.abs(own - positions) if kind == "alibi" else np.zeros_like(own)
        count += int((mask != np.where(sees, bias, -np.inf)).sum())
    return count


def run(context: Context, action: Callable[[], object]) -> None:
    """Do it with an empty probe, so that what it holds afterwards is of this pass."""
    probe_of(context).reset()
    action()


def random_path(data: st.DataObject, parents: list[int]) -> list[int]:
    return path_to(parents, data.draw(st.integers(-1, len(parents) - 1), "path"))


def start_texts(data: st.DataObject, context: Context) -> list[int]:
    """Committed texts of different lengths; some share a prefix, and some are empty."""
    seqs = list(range(data.draw(st.integers(1, 3), "sequences")))
    for seq in seqs:
        n_shared = data.draw(st.integers(0, 12), "shared") if seq else 0
        if n_shared and context.memory.pos_max(0) >= 0:
            context.memory.cp(0, seq, 0, n_shared)
        n_own = data.draw(st.integers(0, 20), "own")
        if n_own:
            context.prefill([TEXT] * n_own, seq)
    return seqs


@pytest.mark.parametrize("flash", [True, False], ids=["flash", "plain"])
@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_trees_of_several_sequences_in_one_pass_see_their_text_and_their_ancestors(
    context_of: ContextOf, kind: str, flash: bool, data: st.DataObject
) -> None:
    context = context_of(kind, flash=flash, n_ubatch=data.draw(st.sampled_from(N_UBATCH)))
    seqs = start_texts(data, context)
    ledger = Ledger(context)
    trees = [data.draw(token_trees(min_nodes=1, max_nodes=16), "tree") for _ in seqs]
    batch = Batch(context.n_batch)
    for seq, tree in zip(seqs, trees, strict=True):
        ledger.keep_text(seq)
        context.place(batch, seq, tree)
    run(context, lambda: context.decode(batch))
    rows = ledger.add([(s, t.parents.tolist()) for s, t in zip(seqs, trees, strict=True)])
    assert n_differences(context, kind, rows) == 0


@pytest.mark.parametrize("flash", [True, False], ids=["flash", "plain"])
@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_trees_that_grow_in_many_passes_see_their_text_and_their_ancestors(
    context_of: ContextOf, kind: str, flash: bool, data: st.DataObject
) -> None:
    """Nodes join anywhere, of several sequences in turn; then another round on what was kept."""
    context = context_of(kind, flash=flash, n_ubatch=data.draw(st.sampled_from(N_UBATCH)))
    seqs = start_texts(data, context)
    # Once cells were freed, the cache of the sliding window may fill others than the base cache.
    for _ in range(1 if kind == "swa" else data.draw(st.integers(1, 2), "rounds")):
        ledger = Ledger(context)
        for seq in seqs:
            ledger.keep_text(seq)
        for part in data.draw(st.permutations(random_parts(data, seqs)), "order"):
            seq, n_new = part
            grow(context, kind, ledger, seq, random_growth(data, ledger.parents[seq], n_new))
        for seq in seqs:
            if context.sequences.is_pending(seq):
                context.commit(seq, random_path(data, ledger.parents[seq]))


def random_parts(data: st.DataObject, seqs: list[int]) -> list[tuple[int, int]]:
    sizes = st.lists(st.sampled_from([1, 1, 2, 7]), min_size=1, max_size=4)
    return [(seq, n_new) for seq in seqs for n_new in data.draw(sizes, "passes")]


def random_growth(data: st.DataObject, old: list[int], n_new: int) -> list[int]:
    """Parents of new nodes, which may hang anywhere."""
    n_old = len(old)
    return [data.draw(st.integers(-1, n_old + i - 1), "parent") for i in range(n_new)]


def grow(context: Context, kind: str, ledger: Ledger, seq: int, parents: list[int]) -> None:
    run(context, lambda: context.grow(seq, [TEXT] * len(parents), parents))
    assert n_differences(context, kind, ledger.add([(seq, parents)])) == 0


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_a_tree_that_grows_by_levels_equals_one_pass(
    context_of: ContextOf, kind: str, data: st.DataObject
) -> None:
    context = context_of(kind, flash=True)
    context.prefill([TEXT] * data.draw(st.integers(1, 20), "text"), 0)
    tree = data.draw(token_trees(min_nodes=1), "tree")
    ledger = Ledger(context)
    ledger.keep_text(0)
    for depth in range(tree.n_levels):
        level = np.flatnonzero(tree.depths == depth)
        grow(context, kind, ledger, 0, tree.parents[level].tolist())
    assert (ancestor_mask(ledger.parents[0]) == tree.ancestor_mask()).all()


@pytest.mark.parametrize("order", ["bfs", "dfs"])
@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_hand_made_sequence_sets_see_ancestors_in_either_order_of_nodes(
    context_of: ContextOf, kind: str, order: str, data: st.DataObject
) -> None:
    """A raw batch: one sequence a leaf, which the text was copied to."""
    context = context_of(kind, flash=True, n_ubatch=data.draw(st.sampled_from(N_UBATCH)))
    parents = data.draw(parent_lists(min_nodes=1, max_nodes=16), "parents")
    parents = TokenTree.from_parents(list(range(len(parents))), parents).parents.tolist()
    n_text = data.draw(st.integers(1, 20), "text")
    if order == "dfs":
        parents = in_dfs_order(parents)
    flat, offsets = sequence_sets(parents)
    context.prefill([TEXT] * n_text, 0)
    for seq in range(1, int(flat.max()) + 1):
        context.memory.cp(0, seq)
    ledger = Ledger(context)
    ledger.keep_text(0)
    batch = Batch(len(parents))
    batch.add(
        [TEXT] * len(parents), n_text + depths(parents), SequenceSets(flat, np.diff(offsets)), True
    )
    run(context, lambda: context.decode(batch))
    assert n_differences(context, kind, ledger.add([(0, parents)])) == 0


def in_dfs_order(parents: list[int]) -> list[int]:
    nodes = dfs_order(parents).tolist()
    place = {node: i for i, node in enumerate(nodes)}
    return [place.get(parents[node], -1) for node in nodes]


@pytest.mark.parametrize("kind", KINDS)
def test_growth_beyond_forty_levels_keeps_branches_apart(context_of: ContextOf, kind: str) -> None:
    """llama.cpp copies mask rows and looks again only at cells 32 positions or less before."""
    context = context_of(kind, flash=True)
    context.prefill([TEXT] * 5, 0)
    ledger = Ledger(context)
    ledger.keep_text(0)
    grow(context, kind, ledger, 0, [-1, -1, -1])
    for _ in range(50):
        n_old = len(ledger.parents[0])
        grow(context, kind, ledger, 0, [n_old - 3, n_old - 2, n_old - 1])
    grow(context, kind, ledger, 0, [0, 1, 2, 80, len(ledger.parents[0]) - 1])


@pytest.mark.parametrize("branches", [False, True], ids=["chains", "trees"])
@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_trees_in_streams_of_their_own_see_their_own_stream(
    context_of: ContextOf, kind: str, branches: bool, data: st.DataObject
) -> None:
    """Streams with trees of one size share a pass."""
    context = context_of(kind, flash=data.draw(st.booleans(), "flash"), kv_unified=False)
    n_nodes = data.draw(st.integers(1, 12), "nodes")
    if branches and context.tree_encoding is TreeEncoding.SEQUENCES:
        with pytest.raises(TreeError, match="only chains"):
            context.grow(0, [TEXT] * 2, [-1, -1])
        return
    batch, n_text, forests = Batch(64), {}, {}
    for seq in (0, 1):
        n_text[seq] = data.draw(st.integers(1, 20), "text")
        context.prefill([TEXT] * n_text[seq], seq)
        shape = parent_lists(min_nodes=n_nodes, max_nodes=n_nodes)
        parents = data.draw(shape, "parents") if branches else list(range(-1, n_nodes - 1))
        tree = TokenTree.from_parents(np.arange(n_nodes), parents)
        forests[seq] = tree.parents
        context.place(batch, seq, tree)
    run(context, lambda: context.decode(batch))
    for record in probe_of(context).records():
        assert record.values.shape[:2] == (2, n_nodes)
        for seq, visible in enumerate(record.visible):
            cells = read_cells(context, seq, sliding=record.is_sliding)
            assert cells is not None
            positions = cells.positions[: visible.shape[1]]
            sees = np.zeros_like(visible)
            sees[:, : n_text[seq]] = True  # the text, then the nodes, in cells from the first on
            sees[:, n_text[seq] : n_text[seq] + n_nodes] = ancestor_mask(forests[seq])
            if record.is_sliding:
                own = n_text[seq] + depths(forests[seq])
                sees &= own[:, None] - positions < N_SWA
            assert (visible == sees).all()


SEQS = (0, 1, 2)

# longer than the window, so that its end no longer sees its beginning
bushes_and_long_chains = st.one_of(
    token_trees(min_nodes=1, max_nodes=16),
    st.integers(1, 20).map(lambda n_nodes: TokenTree.chain([TEXT] * n_nodes)),
)


@pytest.mark.parametrize(
    "context_of", [TreeEncoding.ANCESTORS], indirect=True, ids=lambda encoding: encoding.value
)
@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_rounds_of_unlike_trees_see_their_text_and_their_ancestors_in_any_cache(
    context_of: ContextOf, kind: str, data: st.DataObject
) -> None:
    """Streams that are not equally long, windows that drop cells, micro-batches of any size."""
    context = context_of(kind, **any_cache(data, kind))
    for seq in SEQS:
        context.prefill([TEXT] * data.draw(st.sampled_from([1, 7, 20, 300]), "text"), seq)
    for _ in range(data.draw(st.integers(1, 3), "rounds")):
        batch, forests = Batch(64), {}
        for seq in data.draw(st.lists(st.sampled_from(SEQS), min_size=1, unique=True), "growing"):
            tree = data.draw(bushes_and_long_chains, "tree")
            forests[seq] = tree.parents.tolist()
            context.place(batch, seq, tree)
        run(context, lambda b=batch, seqs=list(forests): context.decode(b))
        assert_rows_are_of(context, kind, forests, n_old={})
        seq = data.draw(st.sampled_from(sorted(forests)), "grown")
        n_old, new = len(forests[seq]), random_growth(data, forests[seq], 3)
        run(context, lambda s=seq, n=new: context.grow(s, [TEXT] * len(n), n))
        forests[seq] += new
        assert_rows_are_of(context, kind, {seq: forests[seq]}, n_old={seq: n_old})
        for seq, parents in forests.items():
            context.commit(seq, random_path(data, parents))


def any_cache(data: st.DataObject, kind: str) -> dict[str, int]:
    return {
        "flash": data.draw(st.booleans(), "flash"),
        "n_ubatch": data.draw(st.sampled_from(N_UBATCH), "n_ubatch"),
        "kv_unified": data.draw(st.booleans(), "unified"),
        "swa_full": kind != "swa" or data.draw(st.booleans(), "swa_full"),
        "n_seq_max": len(SEQS),
        "n_ctx": 2048,
    }


def assert_rows_are_of(
    context: Context, kind: str, forests: dict[int, list[int]], n_old: dict[int, int]
) -> None:
    """The last pass's rows are those of its nodes, in whatever order its streams took them."""
    records = probe_of(context).records()
    for sliding in (False, True) if kind == "swa" else (False,):
        rows = (
            frozenset(np.flatnonzero(row).tolist())
            for record in records
            if record.is_sliding == sliding
            for row in record.visible.reshape(-1, record.visible.shape[-1])
        )
        assert Counter(rows) == Counter(
            seen_by(context, seq, parents, node, sliding)
            for seq, parents in forests.items()
            for node in range(n_old.get(seq, 0), len(parents))
        )


def seen_by(
    context: Context, seq: int, parents: list[int], node: int, sliding: bool
) -> frozenset[int]:
    """The cells that a node sees, all of which must be there."""
    cells = read_cells(context, seq, sliding=sliding)
    assert cells is not None
    path = [node]
    while parents[path[-1]] >= 0:
        path.append(parents[path[-1]])
    n_past = context.sequences.n_past(seq)
    position = n_past + len(path) - 1
    first = max(0, position - N_SWA + 1) if sliding else 0
    own = cells.members[:, seq] & (cells.positions >= first)
    text, ancestors = own & (cells.nodes < 0), own & np.isin(cells.nodes, path)
    assert sorted(cells.positions[text]) == list(range(first, n_past))
    assert sorted(cells.positions[ancestors]) == list(range(max(first, n_past), position + 1))
    return frozenset(np.flatnonzero(text | ancestors).tolist())


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_a_wrong_ancestor_would_be_noticed(
    context_of: ContextOf, kind: str, data: st.DataObject
) -> None:
    """The comparison itself: it counts differences when the expectation is of another tree."""
    context = context_of(kind, flash=True)
    context.prefill([TEXT] * 3, 0)
    tree = data.draw(token_trees(min_nodes=4, max_nodes=16).filter(has_two_on_a_level), "tree")
    ledger = Ledger(context)
    ledger.keep_text(0)
    run(context, lambda: context.decode(tree, seq=0))
    rows = ledger.add([(0, tree.parents.tolist())])
    assert n_differences(context, kind, rows) == 0
    first = next(d for d in range(tree.n_levels) if (tree.depths == d).sum() > 1)
    one, other = np.flatnonzero(tree.depths == first)[:2]
    rows[one].cells, rows[other].cells = rows[other].cells, rows[one].cells
    assert n_differences(context, kind, rows) >= 4
    rows[one].cells = []
    assert n_differences(context, kind, rows) > 0


def has_two_on_a_level(tree: TokenTree) -> bool:
    return bool((np.bincount(tree.depths) > 1).any())
