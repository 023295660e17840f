"""Trees on a real cache: what is refused, and that nothing is left behind."""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from pytreellama import Batch, Context, Model, TokenTree, TreeEncoding
from pytreellama.errors import (
    BatchError,
    CacheFullError,
    ContextError,
    DecodeError,
    MemoryStateError,
    TreeError,
)
from pytreellama.native import tree as native_tree
from pytreellama.native.decode import TEXT as NO_NODE
from pytreellama.testing.cells import commit_in_place, read_cells
from pytreellama.testing.probe import Probe, probe_of
from strategies import path_to

TEXT = [10, 20, 30, 40, 50]
BRANCHING = TokenTree.from_paths([[5, 6, 7], [5, 8], [9]])  # nodes 5 9, 6 8, 7

MakeContext = Callable[..., Context]

ANCESTORS, SEQUENCES = TreeEncoding.ANCESTORS, TreeEncoding.SEQUENCES


@pytest.fixture(params=TreeEncoding, ids=lambda encoding: encoding.value)
def encoding(request: pytest.FixtureRequest) -> TreeEncoding:
    """Each test that makes a context runs once for each."""
    found: TreeEncoding = request.param
    return found


def for_one(encoding: TreeEncoding) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("encoding", [encoding], ids=[encoding.value], indirect=True)


by_ancestors, by_sequences = for_one(ANCESTORS), for_one(SEQUENCES)


@pytest.fixture(scope="module")
def made_contexts() -> Iterator[dict[object, Context]]:
    made: dict[object, Context] = {}
    yield made
    for context in made.values():
        context.close()


@pytest.fixture
def make_context(
    tiny_model: Callable[..., Model], made_contexts: dict[object, Context], encoding: TreeEncoding
) -> MakeContext:
    """An empty context over a kind of tiny model; one for each set of options."""

    def make(kind: str = "rope", *, probe: bool = False, **options: Any) -> Context:
        key = (kind, encoding, probe, *sorted(options.items()))
        if key not in made_contexts:
            sizes: dict[str, Any] = {"n_ctx": 512, "n_batch": 256, "n_threads": 1} | options
            made_contexts[key] = Context(tiny_model(kind), tree_encoding=encoding, **sizes)
            if probe:
                Probe(made_contexts[key])
        context = made_contexts[key]
        context.memory.clear(data=False)
        for seq in range(context.n_seq_max):
            context.sequences.free(seq)
        return context

    return make


@pytest.fixture
def context(make_context: MakeContext) -> Context:
    return make_context(n_seq_max=3)


def used_cells(context: Context) -> list[tuple[int, tuple[int, ...]]]:
    """Position and owners of every used cell, sorted."""
    cells = read_cells(context)
    assert cells is not None
    used = np.flatnonzero(cells.positions >= 0)
    return sorted(
        (int(cells.positions[i]), tuple(np.flatnonzero(cells.members[i]).tolist())) for i in used
    )


def next_logits(context: Context, seq: int, token: int = 77) -> np.ndarray:
    context.prefill([token], seq, logits=True)
    return context.outputs.logits[0]


def assert_is_text(context: Context, seq: int, text: list[int], other: Context) -> None:
    """The cache goes on as one that has only ever seen this text."""
    assert context.sequences.n_past(seq) == len(text)
    other.memory.clear(data=False)
    other.prefill(text, 0)
    assert np.abs(next_logits(context, seq) - next_logits(other, 0)).max() < 2e-2


# -- how large a tree may be


def test_a_tree_may_have_many_leaves(context: Context) -> None:
    seq = context.prefill(TEXT)
    tree = TokenTree.from_paths([[5, token] for token in range(10, 210)])
    logits = context.decode(tree, seq=seq).logits
    assert tree.n_leaves == 200
    assert logits.shape == (201, context.n_vocab)
    context.commit(seq, [0, 150])
    assert used_cells(context) == [(p, (seq,)) for p in range(7)]


@by_sequences
def test_trees_of_several_sequences_share_the_ids_for_leaves(make_context: MakeContext) -> None:
    context = make_context(n_seq_max=3, n_batch=512)
    tree = TokenTree.from_paths([[token] for token in range(10, 110)])
    batch = Batch(300)
    for seq in (0, 1):
        context.prefill(TEXT, seq)
        context.place(batch, seq, tree)
    context.prefill(TEXT, 2)
    with pytest.raises(TreeError, match="sequence ids are free; truncate the tree"):
        context.place(batch, 2, tree)
    assert not context.sequences.is_pending(2)
    context.decode(batch)
    assert context.outputs.n_rows == 200
    context.discard(0)
    context.decode(tree, seq=2)


@by_sequences
def test_too_many_leaves_are_refused_and_leave_nothing_behind(make_context: MakeContext) -> None:
    context = make_context(n_seq_max=3, n_batch=512)
    seq = context.prefill(TEXT)
    before = used_cells(context)
    tree = TokenTree.from_paths([[token] for token in range(3, 3 + 255)])
    with pytest.raises(TreeError, match=r"255 leaves.*253 of llama\.cpp's 256.*truncate"):
        context.decode(tree, seq=seq)
    assert not context.sequences.is_pending(seq)
    assert used_cells(context) == before
    assert len(context.decode(tree.truncate(254), seq=seq).logits) == 254


def test_a_tree_larger_than_the_batch_is_refused(context: Context) -> None:
    seq = context.prefill(TEXT)
    with pytest.raises(TreeError, match=r"257 nodes.*room for 256.*larger n_batch"):
        context.decode(TokenTree.chain([5] * 257), seq=seq)
    assert not context.sequences.is_pending(seq)
    assert len(context.decode(TokenTree.chain([5] * 256), seq=seq).logits) == 256


BIG = TokenTree.from_parents(np.arange(600) % 250 + 3, [-1, *(i // 3 for i in range(1, 600))])


@by_ancestors
def test_sequences_have_big_trees_of_their_own_in_one_pass(make_context: MakeContext) -> None:
    """Far more leaves than there are sequence ids; a prime number of nodes in each micro-batch."""
    context = make_context(n_seq_max=3, n_ctx=2048, n_batch=2048, n_ubatch=97)
    batch = Batch(2048)
    texts = {0: TEXT, 1: [], 2: TEXT[::-1]}
    for seq, text in texts.items():
        if text:
            context.prefill(text, seq)
    places = {seq: context.place(batch, seq, BIG) for seq in texts}
    context.decode(batch)
    logits = context.outputs.logits
    assert BIG.n_leaves > 256
    plain = make_context(n_ctx=2048, n_batch=2048)
    for seq, text in texts.items():
        for node in (0, 17, 300, 599):
            path = BIG.tokens[BIG.path(node)].tolist()
            plain.memory.clear()
            plain.prefill([*text, *path], 0, logits=True)
            assert np.abs(logits[places[seq]][node] - plain.outputs.logits[0]).max() < 2e-2
    context.commit(1, BIG.path(599).tolist())
    assert_is_text(context, 1, BIG.tokens[BIG.path(599)].tolist(), plain)


@by_ancestors
def test_a_sequence_has_1024_nodes_at_most(make_context: MakeContext) -> None:
    context = make_context(n_seq_max=2, n_ctx=2048, n_batch=2048)
    context.prefill(TEXT, 1)
    before = used_cells(context)
    many = TokenTree.from_parents(np.full(1025, 5), np.arange(-1, 1024))
    with pytest.raises(TreeError, match=r"1025 pending nodes, at most 1024.*truncate"):
        context.decode(many, seq=1)
    assert used_cells(context) == before
    assert len(context.decode(many.truncate(1024), seq=1).logits) == 1024
    with pytest.raises(TreeError, match="1025 pending nodes"):
        context.grow(1, [5], [7])
    context.commit(1, [0, 1])
    assert_is_text(context, 1, [*TEXT, 5, 5], make_context())


@by_ancestors
@pytest.mark.parametrize("n_new", [1, 3])
@pytest.mark.parametrize("kind", ["rope", "alibi", "swa"])
def test_growth_anywhere_goes_deeper_than_any_shortcut(
    make_context: MakeContext, kind: str, n_new: int
) -> None:
    """A pass copies the first row of a sequence's mask to its other rows, and llama.cpp then looks
    again only at what is near the batch's positions: 40 levels is beyond."""
    context, plain = make_context(kind, n_seq_max=2), make_context(kind)
    text = TEXT * 12
    context.prefill(text, 1)
    rng = np.random.default_rng(2)
    tokens, parents = rng.integers(3, 320, 210).tolist(), list[int]()
    for begin in range(0, 210, n_new):
        parents += [parent_deep_down(rng, parents + [-1] * i) for i in range(n_new)]
        logits = context.grow(1, tokens[begin : begin + n_new], parents[begin:]).logits
        if begin % 30 == 0:
            for row in range(n_new):
                path = [tokens[node] for node in path_to(parents, begin + row)]
                plain.memory.clear()
                plain.prefill([*text, *path], 0, logits=True)
                assert np.abs(logits[row] - plain.outputs.logits[0]).max() < 2e-2
    path = max((path_to(parents, node) for node in range(210)), key=len)
    assert len(path) > 50
    context.commit(1, path)
    assert_is_text(context, 1, [*text, *(tokens[node] for node in path)], plain)


def parent_deep_down(rng: np.random.Generator, parents: list[int]) -> int:
    """Mostly one of the last nodes, so that a few branches become long; sometimes any."""
    node = len(parents)
    return int(rng.integers(-1, node)) if rng.random() < 0.1 else max(-1, node - 3)


@pytest.mark.parametrize("kind", ["rope", "learned", "alibi", "swa"])
def test_nodes_may_come_branch_by_branch(make_context: MakeContext, kind: str) -> None:
    """Parents before children is all that growth asks for: depths jump back in one pass."""
    context, plain = make_context(kind, n_seq_max=3), make_context(kind)
    context.prefill(TEXT, 1)
    tokens, parents = [5, 6, 7, 8, 9, 11, 12], [-1, 0, 1, 0, -1, 4, 2]
    logits = context.grow(1, tokens, parents).logits
    for node in range(7):
        plain.memory.clear()
        plain.prefill([*TEXT, *(tokens[n] for n in path_to(parents, node))], 0, logits=True)
        assert np.abs(logits[node] - plain.outputs.logits[0]).max() < 2e-2
    context.commit(1, [0, 1, 2, 6])
    assert_is_text(context, 1, [*TEXT, 5, 6, 7, 12], plain)


@by_ancestors
def test_a_stream_of_its_own_and_a_small_window_take_trees(make_context: MakeContext) -> None:
    """Text is longer than the window, so cells are dropped; what a rollback needs is not."""
    for kind, options in (("rope", {"kv_unified": False}), ("swa", {"swa_full": False})):
        context, plain = make_context(kind, n_seq_max=2, **options), make_context(kind)
        text = TEXT * 20
        for seq in (1, 0):
            context.prefill(text, seq)
        for _ in range(30):
            context.decode(BRANCHING, seq=1)
            context.grow(1, [11, 12], [4, -1])
            context.commit(1, [0, 2])
            context.decode(BRANCHING, seq=0)
            context.discard(0)
            text = [*text, 5, 6]
        assert_is_text(context, 1, text, plain)
        assert_is_text(context, 0, TEXT * 20, plain)


@by_ancestors
@pytest.mark.parametrize("n_kept", [0, 3, 30])
def test_a_tree_deeper_than_a_small_window_costs_its_text_no_cell(
    make_context: MakeContext, n_kept: int
) -> None:
    """Another sequence's passes take what is out of the window; a rollback needs the window of the
    text, which a node further down no longer sees."""
    context = make_context("swa", n_ctx=1024, n_seq_max=2, n_ubatch=64, swa_full=False)
    text, chain = list(range(40, 60)), list(range(100, 130))
    context.prefill(text, 0)
    context.decode(TokenTree.chain(chain), seq=0)
    context.prefill([6] * 400, 1)
    cells = read_cells(context, sliding=True)
    assert cells is not None
    kept = sorted(cells.positions[cells.members[:, 0] & (cells.nodes < 0)].tolist())
    assert 0 not in kept, "the cache was full, and what is out of the window was taken"
    assert kept[-7:] == list(range(13, 20))
    context.commit(0, list(range(n_kept)))
    assert_is_text(context, 0, text + chain[:n_kept], make_context("swa"))


@by_ancestors
def test_a_small_window_without_room_for_a_tree_refuses_it_whole(
    make_context: MakeContext,
) -> None:
    context = make_context("swa", n_ctx=2048, n_batch=1024, n_ubatch=64, swa_full=False)
    seq = context.prefill(TEXT * 40)
    with pytest.raises(CacheFullError, match="no room for 600"):
        context.decode(BIG, seq=seq)
    assert not context.sequences.is_pending(seq)
    assert_is_text(context, seq, TEXT * 40, make_context("swa"))


@by_ancestors
def test_a_refused_growth_leaves_the_nodes_before_it_where_they_are(
    make_context: MakeContext,
) -> None:
    """Also where nodes of an earlier refused tree had found the cells that they are in now."""
    context = make_context("rope", n_ctx=256, n_seq_max=3, n_batch=64, n_ubatch=2)
    text, neighbour = list(range(10, 110)), list(range(10, 164))  # 254 cells
    a, b = context.prefill(text), context.prefill(neighbour)
    with pytest.raises(CacheFullError):  # two of them have found cells when the third finds none
        context.decode(TokenTree([20, 21, 22], [-1, -1, -1]), seq=a)
    context.decode(30, seq=b)
    context.decode(TokenTree([20], [-1]), seq=a)
    with pytest.raises(CacheFullError):
        context.grow(a, [21], [-1])
    with pytest.raises(CacheFullError):  # the node has not lost its cell
        context.decode(31, seq=b)
    context.commit(a, [0])
    plain = make_context("rope", n_ctx=256, n_seq_max=3, n_batch=64, n_ubatch=64)
    for seq, written in ((a, [*text, 20]), (b, [*neighbour, 30])):
        assert context.sequences.n_past(seq) == len(written)
    context.memory.rm(a)
    assert_is_text(context, b, [*neighbour, 30], plain)


@by_ancestors
def test_text_of_one_sequence_and_nodes_of_another_share_a_pass(
    make_context: MakeContext,
) -> None:
    context, batch = make_context(n_seq_max=2), Batch(8)
    context.prefill(TEXT, 0)
    context.prefill(TEXT, 1)
    context.place(batch, 1, BRANCHING)
    batch.add([60], context.sequences.n_past(0), 0, True)
    context.decode(batch)
    context.commit(1, [0, 2])
    assert_is_text(context, 0, [*TEXT, 60], make_context())
    assert_is_text(context, 1, [*TEXT, 5, 6], make_context())


@by_ancestors
@pytest.mark.parametrize("position", [5, 6, 8], ids=["sibling", "child", "after the tree"])
def test_text_of_a_sequence_beside_its_own_nodes_is_refused(
    make_context: MakeContext, position: int
) -> None:
    context, batch = make_context(n_seq_max=2), Batch(8)
    context.prefill(TEXT, 0)
    context.prefill(TEXT, 1)
    before = used_cells(context)
    context.place(batch, 1, BRANCHING)
    batch.add([60], position, 1, True)
    with pytest.raises(BatchError):
        context.decode(batch)
    assert not context.sequences.is_pending(1)
    assert used_cells(context) == before


def test_text_of_a_sequence_with_pending_nodes_is_refused_and_they_stay(
    context: Context,
) -> None:
    context.prefill(TEXT, 0)
    context.decode(BRANCHING, seq=0)
    before = used_cells(context)
    batch = Batch(2)
    batch.add([60], [len(TEXT)], 0)
    for act in (
        lambda: context.decode(batch),
        lambda: context.decode(60, seq=0),
        lambda: context.prefill([60], 0),
    ):
        with pytest.raises(MemoryStateError, match="commit or discard"):
            act()
    assert used_cells(context) == before
    context.commit(0, [0, 2])


@by_ancestors
def test_the_native_side_refuses_what_would_mix_text_and_nodes(context: Context) -> None:
    """Checked in C as well, for whoever calls it without Context."""
    context.prefill(TEXT, 0)
    context.decode(BRANCHING, seq=0)
    before = used_cells(context)
    batch = Batch(2)
    batch.add([60], [len(TEXT) + 3], 0, True)
    with pytest.raises(BatchError, match="refuses the batch"):
        context.native.decode(batch.as_struct())
    with pytest.raises(BatchError, match="refuses the batch"):
        context.native.decode_one(seq=0, token=60)
    for parents, positions in (
        ([-1, NO_NODE], [5, 8]),  # a node, and text of its sequence
        ([5, 4], [6, 8]),  # a child of a node that comes later
        ([-1, 5], [5, 7]),  # one position too far
        ([-3, -1], [5, 5]),
    ):
        batch.clear()
        batch.add([60, 61], positions, 0, True, parents)
        given = np.array([6, 5], np.int32) if parents == [5, 4] else batch.parents
        with pytest.raises(BatchError, match="refuses the batch"):
            context.native.decode_tree(batch.as_struct(), given)
    assert used_cells(context) == before
    with pytest.raises(MemoryStateError, match="refused the operation"):
        native_tree.commit(context.native.handle, 0, [1, 2])
    context.commit(0, [0, 2])


@by_ancestors
@pytest.mark.parametrize("in_place", [False, True], ids=["host", "device"])
def test_trees_of_one_size_reuse_the_graph(make_context: MakeContext, in_place: bool) -> None:
    """Whatever their shapes, and whether a commit between them moves cells or not."""
    context = make_context(n_seq_max=3)
    context.prefill(TEXT, 0)
    before = context.n_reused_graphs
    text = list(TEXT)
    for step in range(10):
        context.decode(TokenTree.from_parents([5, 6, 7, 8], [-1, -1, step % 2, 1]), seq=0)
        commit_natively(context, 0, [1, 3], in_place)
        text += [6, 8]
    assert context.n_reused_graphs - before >= 8
    assert_is_text(context, 0, text, make_context())


CACHE_KINDS = [
    ("rope", {}),
    ("rope", {"flash_attention": False}),
    ("rope", {"type_k": "f32", "type_v": "f32", "flash_attention": False}),
    ("rope", {"type_k": "f32", "type_v": "f32"}),
    ("rope", {"type_k": "q8_0", "type_v": "q8_0"}),
    ("rope", {"type_k": "q8_0", "flash_attention": False}),
    ("rope", {"type_k": "q4_0", "type_v": "q4_0"}),
    ("rope", {"type_k": "q4_0", "type_v": "q5_1"}),
    ("swa", {}),
    ("swa", {"flash_attention": False}),
    ("swa", {"type_k": "q8_0", "type_v": "q8_0"}),
    ("swa", {"swa_full": False}),
    ("swa", {"swa_full": False, "flash_attention": False}),
    ("swa", {"swa_full": False, "kv_unified": False}),
    ("rope", {"kv_unified": False}),
    ("rope", {"kv_unified": False, "type_k": "q8_0", "type_v": "q8_0"}),
    ("rope", {"kv_unified": False, "flash_attention": False}),
]


@pytest.mark.parametrize("in_place", [False, True], ids=["host", "device"])
@pytest.mark.parametrize(("kind", "options"), CACHE_KINDS, ids=str)
def test_a_commit_keeps_the_path_bit_for_bit(
    tiny_model: Callable[..., Model], kind: str, options: dict[str, Any], in_place: bool
) -> None:
    """It moves to the lowest cells on the host, and stays where it is on a device. The other
    encoding never moves it: the same bytes, cell by cell."""
    sizes: dict[str, Any] = {"n_ctx": 512, "n_seq_max": 2, "n_threads": 1}
    with Context(tiny_model(kind), **sizes, **options) as context:
        context.prefill(TEXT, 1)
        first = lowest_free_cell(context)
        context.decode(SCATTERED, seq=1)
        commit_natively(context, 1, PATH, in_place)
        for sliding in (False, True):
            cells = read_cells(context, 1, sliding=sliding)
            if cells is not None:
                stands = [5, -1, 6, -1, 7, -1] if in_place else [5, 6, 7, -1, -1, -1]
                assert cells.positions[first : first + 6].tolist() == stands
                assert (cells.nodes == -1).all()
        moved = context.memory.save(1)
        if not context.kv_unified:
            moved = moved.replace(IN_THE_SECOND_STREAM, IN_THE_ONLY_STREAM)
    usual: dict[str, Any] = {
        name: value for name, value in options.items() if name not in STOCK_CANNOT
    }
    with Context(tiny_model(kind), **sizes, **usual, tree_encoding=SEQUENCES) as context:
        context.prefill(TEXT, 1)
        context.decode(SCATTERED, seq=1)
        context.commit(1, PATH)
        expected = context.memory.save(1)
    assert moved == expected


# the number of streams, and how many cells each has
IN_THE_SECOND_STREAM, IN_THE_ONLY_STREAM = struct.pack("<3I", 2, 0, 8), struct.pack("<2I", 1, 8)
STOCK_CANNOT = ("kv_unified", "swa_full")
SCATTERED = TokenTree.from_parents([5, 9, 6, 8, 7, 11], [-1, -1, 0, 0, 2, 2])
PATH = [0, 2, 4]


def commit_natively(context: Context, seq: int, path: list[int], in_place: bool) -> None:
    if in_place:
        commit_in_place(context, seq, path)
    else:
        native_tree.commit(context.native.handle, seq, path)
    context._trees.forget()


@by_ancestors
@pytest.mark.parametrize("path", [[0, 1], [0, 1, 2], [0, 3], [4], []], ids=str)
@pytest.mark.parametrize("in_place", [False, True], ids=["host", "device"])
def test_a_tree_whose_cells_wrap_around_is_committed_as_well(
    make_context: MakeContext, path: list[int], in_place: bool
) -> None:
    """Later nodes stand in lower cells then, and some of the path on cells that it moves to."""
    context, plain = make_context(n_ctx=256, n_seq_max=3), make_context()
    context.prefill([3] * 3, 1)
    context.prefill(TEXT, 0)
    context.prefill([4] * 246, 2)  # all but two cells
    context.decode(TokenTree.chain([5, 6]), seq=0)
    context.memory.rm(1)
    context.grow(0, [7, 8, 9], [1, 0, -1])
    cells = read_cells(context)
    assert cells is not None
    stands = [int(np.flatnonzero(cells.nodes == node)[0]) for node in range(5)]
    assert stands == [254, 255, 0, 1, 2]
    commit_natively(context, 0, path, in_place)
    context.memory.rm(2)
    assert_is_text(context, 0, [*TEXT, *(5 + node for node in path)], plain)


@by_ancestors
@pytest.mark.parametrize("kind", ["rope", "swa"])
@pytest.mark.parametrize(
    "options", [{}, {"flash_attention": False}, {"kv_unified": False}], ids=str
)
def test_many_commits_leave_the_cells_that_plain_decoding_leaves(
    make_context: MakeContext, kind: str, options: dict[str, Any]
) -> None:
    """Each position in the cell of its number, so that attention never reads beyond the text."""
    context, plain = make_context(kind, n_seq_max=2, **options), make_context(kind)
    rng = np.random.default_rng(4)
    text = list(TEXT)
    context.prefill(text, 1)
    for step in range(50):
        tree = BIG.truncate(int(rng.integers(1, 60)))
        context.decode(tree, seq=1)
        if step % 3 == 0:
            context.grow(1, [11, 12], [len(tree) - 1, -1])
        path = tree.path(int(rng.integers(-1, len(tree)))).tolist()
        context.commit(1, path)
        text += tree.tokens[path].tolist()
        for sliding in (False, True) if kind == "swa" else (False,):
            assert cells_in_use(context, 1, sliding) == list(range(len(text)))
    assert len(text) > 100
    assert_is_text(context, 1, text, plain)


@by_ancestors
@pytest.mark.parametrize("kind", ["rope", "swa"])
def test_later_nodes_fill_the_gaps_that_a_commit_on_a_device_leaves(
    make_context: MakeContext, kind: str
) -> None:
    """What attention reads does not grow with the number of commits, and text is text."""
    context, plain = make_context(kind, n_seq_max=2), make_context(kind)
    rng = np.random.default_rng(5)
    text, n_largest = list(TEXT), 0
    context.prefill(text, 1)
    for _ in range(50):
        tree = BIG.truncate(int(rng.integers(1, 60)))
        n_largest = max(n_largest, len(tree))
        context.decode(tree, seq=1)
        path = tree.path(int(rng.integers(-1, len(tree)))).tolist()
        commit_natively(context, 1, path, in_place=True)
        text += tree.tokens[path].tolist()
        for sliding in (False, True) if kind == "swa" else (False,):
            assert len(cells_in_use(context, 1, sliding)) <= len(text) + n_largest
    assert len(text) > 100
    assert_is_text(context, 1, text, plain)


def cells_in_use(context: Context, seq: int, sliding: bool) -> list[int]:
    """The positions that stand in the cells up to the last that is used."""
    cells = read_cells(context, seq, sliding=sliding)
    assert cells is not None
    return cells.positions[: np.flatnonzero(cells.positions >= 0)[-1] + 1].tolist()


def lowest_free_cell(context: Context) -> int:
    cells = read_cells(context, 1)
    assert cells is not None
    return int(np.flatnonzero(cells.positions < 0)[0])


def test_an_empty_tree_is_refused(context: Context) -> None:
    seq = context.prefill(TEXT)
    with pytest.raises(TreeError, match="empty"):
        context.decode(TokenTree.empty(), seq=seq)
    with pytest.raises(TreeError, match="empty"):
        context.grow(seq, [], [])
    assert not context.sequences.is_pending(seq)


def test_a_tree_may_stand_at_the_beginning_of_a_text(make_context: MakeContext) -> None:
    context = make_context(n_seq_max=3)
    context.decode(BRANCHING, seq=1)
    assert context.sequences.n_past(1) == 0
    context.commit(1, [0, 2, 4])
    assert_is_text(context, 1, [5, 6, 7], make_context())


def test_a_token_out_of_the_vocabulary_is_refused(context: Context) -> None:
    seq = context.prefill(TEXT)
    before = used_cells(context)
    with pytest.raises(BatchError, match="id 320"):
        context.decode(TokenTree.from_paths([[5, 6], [5, 320]]), seq=seq)
    assert not context.sequences.is_pending(seq)
    assert used_cells(context) == before


# -- commit, discard and grow


@pytest.mark.parametrize(
    "path", [[1, 2], [0, 1], [2], [0, 2, 3], [5], [-1], [0, 0], [2, 0]], ids=str
)
def test_a_commit_of_what_is_no_path_is_refused_and_the_tree_stays(
    make_context: MakeContext, path: list[int]
) -> None:
    context = make_context(n_seq_max=3)
    seq = context.prefill(TEXT)
    context.decode(BRANCHING, seq=seq)
    with pytest.raises(TreeError, match="not a path of the pending tree of 5 nodes"):
        context.commit(seq, path)
    assert context.sequences.is_pending(seq)
    context.commit(seq, [0, 3])
    assert_is_text(context, seq, [*TEXT, 5, 8], make_context())


def test_an_empty_path_commits_nothing(make_context: MakeContext) -> None:
    context = make_context(n_seq_max=3)
    seq = context.prefill(TEXT)
    context.decode(BRANCHING, seq=seq)
    context.commit(seq, [])
    assert_is_text(context, seq, TEXT, make_context())


def test_a_commit_without_a_tree_is_refused(context: Context) -> None:
    seq = context.prefill(TEXT)
    with pytest.raises(MemoryStateError, match="no pending nodes; decode a tree first"):
        context.commit(seq, [])
    context.discard(seq)
    assert context.sequences.n_past(seq) == len(TEXT)


def test_a_second_tree_is_refused_while_one_is_pending(context: Context) -> None:
    seq = context.prefill(TEXT)
    context.decode(BRANCHING, seq=seq)
    with pytest.raises(MemoryStateError, match="grow, commit or discard"):
        context.decode(BRANCHING, seq=seq)
    context.commit(seq, [0])
    context.decode(BRANCHING, seq=seq)


def test_growth_may_begin_where_nothing_is_pending(make_context: MakeContext) -> None:
    context = make_context(n_seq_max=3)
    seq = context.prefill(TEXT)
    context.grow(seq, [5, 9], [-1, -1])
    context.grow(seq, [6, 7], [0, 2])
    context.commit(seq, [0, 2, 3])
    assert_is_text(context, seq, [*TEXT, 5, 6, 7], make_context())


@pytest.mark.parametrize("parents", [[5], [-2], [6, 5], [5, 6]], ids=str)
def test_growth_on_a_parent_that_is_not_there_is_refused(
    context: Context, parents: list[int]
) -> None:
    seq = context.prefill(TEXT)
    context.decode(BRANCHING, seq=seq)
    before = used_cells(context)
    with pytest.raises(TreeError, match="a parent stands before its child"):
        context.grow(seq, [7] * len(parents), parents)
    assert used_cells(context) == before
    context.commit(seq, [0, 2, 4])


def test_nodes_that_were_added_and_not_decoded_are_in_the_way(context: Context) -> None:
    seq = context.prefill(TEXT)
    context.place(Batch(8), seq, BRANCHING)
    with pytest.raises(MemoryStateError, match="not decoded"):
        context.commit(seq, [])
    with pytest.raises(MemoryStateError, match="not decoded"):
        context.grow(seq, [5], [-1])
    context.discard(seq)
    assert used_cells(context) == [(p, (seq,)) for p in range(5)]
    context.decode(BRANCHING, seq=seq)


# -- memory


def test_memory_operations_refuse_a_sequence_with_pending_nodes(context: Context) -> None:
    memory = context.memory
    context.prefill(TEXT, 0)
    context.prefill(TEXT, 1)
    saved = memory.save(0)
    context.decode(BRANCHING, seq=0)
    before = used_cells(context)
    for act in (
        lambda: memory.rm(0),
        lambda: memory.rm(0, 2, 3),
        lambda: memory.cp(0, 2),
        lambda: memory.cp(1, 0),
        lambda: memory.keep(0),
        lambda: memory.keep(1),
        lambda: memory.add(0, 0, -1, 1),
        lambda: memory.div(0, 0, -1, 2),
        lambda: memory.save(0),
        lambda: memory.save(),
        lambda: memory.load(saved, 0),
        lambda: memory.load(saved),
        lambda: context.prefill(TEXT, 0),
    ):
        with pytest.raises(MemoryStateError, match="commit or discard"):
            act()
    assert used_cells(context) == before
    context.commit(0, [0])


def test_cells_that_a_pending_tree_may_share_are_not_moved(context: Context) -> None:
    context.prefill(TEXT, 0)
    context.memory.cp(0, 1)
    context.decode(BRANCHING, seq=1)
    with pytest.raises(MemoryStateError, match="sequence 1 has pending"):
        context.memory.add(0, 0, -1, 3)
    with pytest.raises(MemoryStateError, match="sequence 1 has pending"):
        context.memory.div(0, 0, -1, 2)


@by_sequences
def test_the_ids_of_leaves_are_out_of_a_users_reach(context: Context) -> None:
    seq = context.prefill(TEXT)
    context.decode(BRANCHING, seq=seq)
    before = used_cells(context)
    for borrowed in range(context.n_seq_max, 6):
        with pytest.raises(MemoryStateError, match="out of range"):
            context.memory.rm(borrowed)
    assert used_cells(context) == before


def test_other_sequences_may_change_while_a_tree_is_pending(make_context: MakeContext) -> None:
    context = make_context(n_seq_max=3)
    context.prefill(TEXT, 0)
    context.memory.cp(0, 1)
    context.decode(BRANCHING, seq=0)
    context.prefill([60, 70], 1)
    context.memory.rm(1)
    context.prefill([60, 70], 2)
    context.commit(0, [0, 2])
    assert_is_text(context, 0, [*TEXT, 5, 6], make_context())
    assert_is_text(context, 2, [60, 70], make_context())


def test_a_new_sequence_is_never_one_that_holds_text(make_context: MakeContext) -> None:
    context = make_context("rope", n_seq_max=3)
    context.prefill(TEXT, seq=0)
    assert context.prefill(TEXT) == 1
    context.memory.cp(0, 2)
    with pytest.raises(ContextError, match="in use"):
        context.sequences.new()


def test_a_prefill_that_its_watcher_ends_leaves_nothing(make_context: MakeContext) -> None:
    context = make_context("rope", n_seq_max=1)

    def stop(share: float) -> None:
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        context.prefill(TEXT, progress=stop)
    assert context.memory.pos_max(0) == -1
    assert context.prefill(TEXT) == 0


def test_clear_and_free_forget_pending_nodes(context: Context) -> None:
    seq = context.prefill(TEXT)
    context.decode(BRANCHING, seq=seq)
    context.sequences.free(seq)
    assert not context.sequences.is_pending(seq) and used_cells(context) == []
    seq = context.prefill(TEXT)
    context.decode(BRANCHING, seq=seq)
    context.memory.clear()
    assert not context.sequences.is_pending(seq) and used_cells(context) == []


# -- kinds of memory


@pytest.mark.parametrize("kind", ["qwen4exp", "glm5-next"])
def test_a_recurrent_model_refuses_branches(make_context: MakeContext, kind: str) -> None:
    context = make_context(kind, n_seq_max=2)
    seq = context.prefill(TEXT)
    with pytest.raises(TreeError, match=r"recurrent.*chain"):
        context.decode(BRANCHING, seq=seq)
    assert not context.sequences.is_pending(seq)
    context.decode(TokenTree.chain([5, 6]), seq=seq)
    with pytest.raises(TreeError, match=r"recurrent.*chain"):
        context.grow(seq, [7], [1])
    context.commit(seq, [0, 1])


@pytest.mark.parametrize("n_kept", [0, 1, 3])
@pytest.mark.parametrize("text", [TEXT, []], ids=["text", "empty"])
@pytest.mark.parametrize("kind", ["recurrent", "hybrid"])
def test_a_recurrent_model_takes_chains_and_goes_back_to_any_part_of_one(
    make_context: MakeContext, kind: str, text: list[int], n_kept: int
) -> None:
    context, plain = make_context(kind, n_seq_max=2), make_context(kind)
    if text:
        context.prefill(text, 1)
    chain = [5, 6, 7]
    logits = context.decode(TokenTree.chain(chain), seq=1).logits
    context.commit(1, list(range(n_kept)))
    plain.prefill([*text, *chain], 0, logits=True)
    assert np.abs(logits[-1] - plain.outputs.logits[0]).max() < 2e-2
    assert context.sequences.n_past(1) == len(text) + n_kept
    if text or n_kept:
        assert_is_text(context, 1, [*text, *chain[:n_kept]], plain)
    context.decode(TokenTree.chain(chain), seq=1)
    context.discard(1)
    context.sequences.free(1)
    assert context.sequences.n_past(1) == 0


@by_sequences
def test_a_sequence_with_a_stream_of_its_own_takes_chains_alone(make_context: MakeContext) -> None:
    context = make_context(n_seq_max=2, kv_unified=False)
    context.prefill(TEXT, 1)
    with pytest.raises(TreeError, match="without kv_unified only chains"):
        context.decode(BRANCHING, seq=1)
    context.decode(TokenTree.chain([5, 6, 7]), seq=1)
    context.grow(1, [8], [2])
    with pytest.raises(TreeError, match="without kv_unified only chains"):
        context.grow(1, [9], [0])
    context.commit(1, [0, 1])
    assert_is_text(context, 1, [*TEXT, 5, 6], make_context())


@by_sequences
def test_a_small_window_cache_takes_no_trees(make_context: MakeContext) -> None:
    context = make_context("swa", n_seq_max=2, swa_full=False)
    seq = context.prefill(TEXT)
    for tree in (BRANCHING, TokenTree.chain([5, 6])):
        with pytest.raises(TreeError, match="swa_full=True"):
            context.decode(tree, seq=seq)
    context.decode(TokenTree.chain([5]), seq=seq)
    with pytest.raises(TreeError, match="swa_full=True"):
        context.grow(seq, [6], [0])
    context.commit(seq, [0])
    assert_is_text(context, seq, [*TEXT, 5], make_context("swa"))


# -- passes that fail


@pytest.fixture
def nearly_full(make_context: MakeContext) -> Context:
    """256 cells, of which sequence 0 has 5 and sequence 1 has 248: 3 are free."""
    context = make_context(n_ctx=256, n_seq_max=2)
    context.prefill(TEXT, 0)
    context.prefill([3] * 248, 1)
    return context


def test_a_full_cache_leaves_the_text_and_a_retry_works(
    make_context: MakeContext, nearly_full: Context
) -> None:
    context = nearly_full
    before = used_cells(context)
    with pytest.raises(CacheFullError, match="no room for 5"):
        context.decode(BRANCHING, seq=0)
    assert not context.sequences.is_pending(0)
    assert used_cells(context) == before
    context.memory.rm(1, 240)
    context.decode(BRANCHING, seq=0)
    context.commit(0, [0, 3])
    assert_is_text(context, 0, [*TEXT, 5, 8], make_context())


def test_a_full_cache_leaves_the_nodes_that_were_pending(
    make_context: MakeContext, nearly_full: Context
) -> None:
    context = nearly_full
    context.decode(BRANCHING.truncate(3), seq=0)
    before = used_cells(context)
    with pytest.raises(CacheFullError):
        context.grow(0, [8, 7, 7], [0, 2, -1])
    assert used_cells(context) == before
    context.memory.rm(1, 240)
    context.grow(0, [8, 7, 7], [0, 2, -1])
    context.commit(0, [0, 2, 4])
    assert_is_text(context, 0, [*TEXT, 5, 6, 7], make_context())


def test_all_trees_of_a_pass_that_fails_are_forgotten(nearly_full: Context) -> None:
    context, batch = nearly_full, Batch(16)
    before = used_cells(context)
    for seq in (0, 1):
        context.place(batch, seq, BRANCHING)
    with pytest.raises(CacheFullError):
        context.decode(batch)
    assert not context.sequences.is_pending(0) and not context.sequences.is_pending(1)
    assert used_cells(context) == before


@pytest.mark.parametrize("parent", [-1, 0, 4], ids=["text", "node", "leaf"])
def test_an_aborted_pass_leaves_the_text_and_the_nodes_that_were_pending(
    make_context: MakeContext, parent: int
) -> None:
    context = make_context(n_seq_max=3, n_ubatch=1)
    seq = context.prefill(TEXT)
    context.decode(BRANCHING, seq=seq)
    before = used_cells(context)
    many = [parent, *range(5, 205)]
    assert any(is_aborted(context, seq, many) for _ in range(50))
    assert used_cells(context) == before
    context.commit(seq, [0, 2, 4])
    assert_is_text(context, seq, [*TEXT, 5, 6, 7], make_context())


def is_aborted(context: Context, seq: int, parents: list[int]) -> bool:
    """Let BRANCHING grow while another thread asks again and again, since a pass begins by
    forgetting what was asked. False, and all as before, if that thread got no time to."""
    try:
        with aborting(context):
            context.grow(seq, [7] * len(parents), parents)
    except DecodeError as error:
        assert "aborted, as asked" in str(error)
        return True
    context.discard(seq)
    context.decode(BRANCHING, seq=seq)
    return False


def test_a_pass_that_is_aborted_in_its_middle_leaves_none_of_its_nodes(
    make_context: MakeContext,
) -> None:
    """Micro-batches that were done before the abort have put nodes into the cache."""
    context = make_context(n_seq_max=3, n_ubatch=1, probe=True)
    seq = context.prefill(TEXT)
    context.decode(BRANCHING, seq=seq)
    before = used_cells(context)
    delays_s = (step / 4000 for step in range(1, 80))
    assert any(0 < passes_until_abort(context, seq, delay_s) < 200 for delay_s in delays_s)
    assert used_cells(context) == before
    context.grow(seq, [7], [2])
    context.commit(seq, [0, 2, 5])
    assert_is_text(context, seq, [*TEXT, 5, 6, 7], make_context())


def passes_until_abort(context: Context, seq: int, delay_s: float) -> int:
    """Micro-batches of 200 nodes that ran until the abort, all of which must leave no trace."""
    before = used_cells(context)
    probe_of(context).reset()
    timer = threading.Timer(delay_s, context.abort)
    timer.start()
    try:
        context.grow(seq, [7] * 200, [-1, *range(5, 204)])
    except DecodeError:
        assert used_cells(context) == before
        return len(probe_of(context).records()) - 1
    finally:
        timer.cancel()
        timer.join()
    context.discard(seq)
    context.decode(BRANCHING, seq=seq)
    return 200


class aborting:  # noqa: N801
    """Asks a context to abort, without a pause, until the block is left."""

    def __init__(self, context: Context) -> None:
        self._context, self._done = context, threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def _ask(self) -> None:
        while not self._done.is_set():
            self._context.abort()

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


# -- what must not pile up


def test_a_thousand_rounds_leave_no_id_and_no_cell_behind(context: Context) -> None:
    """Then a tree with as many leaves as there are ids still fits."""
    rng = np.random.default_rng(5)
    context.prefill(TEXT, 0)
    context.prefill(TEXT, 1)
    for step in range(1000):
        seq = step % 2
        context.decode(BRANCHING, seq=seq)
        if step % 3 == 0:
            context.grow(seq, [11, 12], [4, -1])
        if step % 5 == 0:
            with pytest.raises(TreeError):
                context.grow(seq, [11], [99])
        if step % 4:
            context.commit(seq, BRANCHING.path(int(rng.integers(5))).tolist())
        else:
            context.discard(seq)
        context.memory.rm(seq, len(TEXT))
    assert used_cells(context) == sorted((p, (seq,)) for p in range(5) for seq in (0, 1))
    leaves = TokenTree.from_paths([[token] for token in range(3, 3 + 254)])
    assert len(context.decode(leaves, seq=0).logits) == 254


def test_a_lone_tree_needs_no_batch(make_context: MakeContext) -> None:
    context = make_context("rope")
    seq = context.prefill(TEXT)
    expected = context.decode(BRANCHING, seq=seq).logits
    context.discard(seq)
    context.decode(BRANCHING, seq=seq)
    assert np.array_equal(context.outputs.logits, expected)
    assert context.sequences.is_pending(seq)
    path = BRANCHING.path(4).tolist()
    context.commit(seq, path)
    assert context.sequences.n_past(seq) == len(TEXT) + len(path)


def test_a_lone_tree_that_cannot_be_changes_nothing(make_context: MakeContext) -> None:
    context = make_context("rope")
    seq = context.prefill(TEXT)
    with pytest.raises(BatchError, match="token"):
        context.decode(TokenTree.chain([5, context.n_vocab]), seq=seq)
    with pytest.raises((TreeError, BatchError)):
        context.decode(TokenTree.empty(), seq=seq)
    assert not context.sequences.is_pending(seq)
    context.decode(BRANCHING, seq=seq)
    with pytest.raises(MemoryStateError, match="pending"):
        context.decode(BRANCHING, seq=seq)
    context.discard(seq)
    assert context.sequences.n_past(seq) == len(TEXT)
