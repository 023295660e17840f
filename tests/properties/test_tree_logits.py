"""A tree's logits against plain decoding: each node as if its path alone had been decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends import tolerance
from exactness import EXACT
from pytreellama import Batch, Context, Model, TokenTree, TreeEncoding
from strategies import token_trees
from tiny_models import BRANCHING_KINDS


@dataclass(frozen=True)
class CacheKind:
    """How keys and values are kept, and how far logits may then be from plain decoding's.

    The logits of the tiny models have a standard deviation of 3, and another token among the
    ancestors moves them by whole units in the median (the last test here). Sums over cells in
    another order and over another number of columns move them by 1e-5 where all is F32; the GELU
    of some models looks up F16 values, which makes it 2e-3. F16 cells are rounded: 1e-2. One Q8_0
    step up or down in a key, which a mixture of experts then weighs differently, 6e-2.

    Flash attention and products of this project are the same bits, where the CPU has them.
    """

    type_kv: str
    flash: bool
    tolerance: float
    unified: bool = True
    swa_full: bool = True


def flash(type_kv: str, tolerance: float, **options: bool) -> CacheKind:
    return CacheKind(type_kv, flash=True, tolerance=0.0 if EXACT else tolerance, **options)


CACHES = (
    CacheKind("f32", flash=False, tolerance=tolerance(5e-3, 2e-2)),
    flash("f32", 3e-2),
    CacheKind("f16", flash=False, tolerance=3e-2),
    flash("f16", 3e-2),
    flash("q8_0", 0.15),
    flash("q4_0", 0.3),
)
# what the encoding by sequence ids cannot have
OTHER_CACHES = (
    flash("f16", 3e-2, unified=False),
    CacheKind("f16", flash=False, tolerance=3e-2, unified=False),
    flash("f16", 3e-2, swa_full=False),
    flash("q8_0", 0.15, unified=False, swa_full=False),
)
N_VOCAB = 320


def id_of(value: TreeEncoding | CacheKind) -> str:
    if isinstance(value, TreeEncoding):
        return value.value
    flags = {
        "flash": value.flash,
        "streams": not value.unified,
        "small": not value.swa_full,
    }
    return "-".join([value.type_kv, *(word for word, flag in flags.items() if flag)])


ContextOf = Callable[[str, CacheKind], Context]


@pytest.fixture(scope="module", params=TreeEncoding, ids=lambda encoding: encoding.value)
def encoding(request: pytest.FixtureRequest) -> TreeEncoding:
    found: TreeEncoding = request.param
    return found


@pytest.fixture(scope="module")
def context_of(tiny_model: Callable[..., Model], encoding: TreeEncoding) -> Iterator[ContextOf]:
    """The context for trees of a kind of model and cache, empty."""
    with _Contexts(tiny_model, n_seq_max=4, tree_encoding=encoding) as contexts:
        yield contexts.get


@pytest.fixture(scope="module")
def plain_of(tiny_model: Callable[..., Model]) -> Iterator[ContextOf]:
    """The context for plain decoding of a kind of model and cache, empty."""
    with _Contexts(tiny_model, n_seq_max=1) as contexts:
        yield contexts.get


class _Contexts:
    def __init__(self, tiny_model: Callable[..., Model], **options: Any) -> None:
        self._tiny_model, self._options = tiny_model, options
        self._made: dict[tuple[str, CacheKind], Context] = {}

    def get(self, kind: str, cache: CacheKind) -> Context:
        if (kind, cache) not in self._made:
            self._made[kind, cache] = Context(
                self._tiny_model(kind),
                n_ctx=1024,
                n_batch=512,
                n_threads=1,
                kv_unified=cache.unified,
                swa_full=cache.swa_full,
                **self._options,
                type_k=cache.type_kv,
                type_v=cache.type_kv,
                flash_attention=cache.flash,
            )
        self._made[kind, cache].memory.clear(data=False)
        return self._made[kind, cache]

    def __enter__(self) -> _Contexts:
        return self

    def __exit__(self, *_: object) -> None:
        for context in self._made.values():
            context.close()


def plain_logits(plain: Context, text: Sequence[int], n_last: int) -> np.ndarray:
    """Logits of the last tokens of a text that is decoded alone, (n_last, n_vocab)."""
    plain.memory.clear(data=False)
    batch = Batch(len(text))
    flags = np.arange(len(text)) >= len(text) - n_last
    batch.add(np.array(text), np.arange(len(text)), 0, flags)
    plain.decode(batch)
    return plain.outputs.logits


def next_logits(context: Context, seq: int, token: int) -> np.ndarray:
    """Logits after one more token, which is taken out again."""
    position = context.sequences.n_past(seq)
    batch = Batch(1)
    batch.add([token], [position], seq, True)
    context.decode(batch)
    context.memory.rm(seq, position)
    return context.outputs.logits[0]


def tree_differences(
    plain: Context, text: list[int], tree: TokenTree, logits: np.ndarray
) -> np.ndarray:
    """Each node's largest difference from decoding its path alone, float (n_nodes,)."""
    worst = np.full(len(tree), np.inf)
    for leaf in tree.leaves.tolist():
        path = tree.path(leaf)
        alone = plain_logits(plain, text + tree.tokens[path].tolist(), len(path))
        worst[path] = np.abs(logits[path] - alone).max(axis=1)
    return worst


tokens = st.integers(3, N_VOCAB - 1)


def caches(encoding: TreeEncoding) -> st.SearchStrategy[CacheKind]:
    """What a context of this encoding may be made with."""
    return st.sampled_from(CACHES + (OTHER_CACHES if encoding is TreeEncoding.ANCESTORS else ()))


@st.composite
def texts(draw: st.DrawFn, min_size: int = 0, max_size: int = 24) -> list[int]:
    return draw(st.lists(tokens, min_size=min_size, max_size=max_size))


def trees(max_nodes: int = 14) -> st.SearchStrategy[TokenTree]:
    return token_trees(min_nodes=1, max_nodes=max_nodes, n_vocab=N_VOCAB)


def random_path(data: st.DataObject, tree: TokenTree) -> list[int]:
    node = data.draw(st.integers(-1, len(tree) - 1), "end of the path")
    return [] if node < 0 else tree.path(node).tolist()


@pytest.mark.parametrize("kind", BRANCHING_KINDS)
@given(data=st.data())
def test_logits_of_each_node_equal_decoding_its_path_alone(
    context_of: ContextOf,
    plain_of: ContextOf,
    encoding: TreeEncoding,
    kind: str,
    data: st.DataObject,
) -> None:
    """Also of two sequences in one pass, the second of which shares a prefix with the first."""
    cache = data.draw(caches(encoding))
    context, plain = context_of(kind, cache), plain_of(kind, cache)
    first = data.draw(texts(), "text")
    n_shared = data.draw(st.integers(0, len(first)), "shared")
    both = [first, first[:n_shared] + data.draw(texts(), "other text")]
    start(context, both, n_shared)
    seqs = list(range(data.draw(st.integers(1, 2), "sequences")))
    batch, planted = Batch(context.n_batch), []
    for seq in seqs:
        tree = data.draw(trees(), "tree")
        planted.append((tree, context.place(batch, seq, tree)))
    context.decode(batch)
    logits = context.outputs.logits
    for seq, (tree, rows) in zip(seqs, planted, strict=True):
        worst = tree_differences(plain, both[seq], tree, logits[rows])
        assert worst.max() <= cache.tolerance


def start(context: Context, both: list[list[int]], n_shared: int) -> None:
    """Two texts; what they share is computed once, in one stream or copied to the other's."""
    if n_shared:
        context.prefill(both[0][:n_shared], 0)
        context.memory.cp(0, 1)
    for seq, text in enumerate(both):
        if len(text) > n_shared:
            context.prefill(text[n_shared:], seq)


@pytest.mark.parametrize("kind", BRANCHING_KINDS)
@given(data=st.data())
def test_logits_of_a_tree_that_grew_equal_decoding_its_paths_alone(
    context_of: ContextOf,
    plain_of: ContextOf,
    encoding: TreeEncoding,
    kind: str,
    data: st.DataObject,
) -> None:
    cache = data.draw(caches(encoding))
    context, plain = context_of(kind, cache), plain_of(kind, cache)
    text, tree = data.draw(texts(min_size=1), "text"), data.draw(trees(), "tree")
    context.prefill(text, 0)
    logits = grow_in_passes(data, context, tree)
    assert tree_differences(plain, text, tree, logits).max() <= cache.tolerance


def grow_in_passes(data: st.DataObject, context: Context, tree: TokenTree) -> np.ndarray:
    """Decode a tree cut anywhere into passes, the first of which is a tree of its own."""
    cuts = data.draw(st.sets(st.integers(1, len(tree)), max_size=4), "cuts")
    bounds = sorted({*cuts, len(tree)})
    rows = [context.decode(tree.truncate(bounds[0]), seq=0).logits]
    for begin, end in pairwise(bounds):
        rows.append(context.grow(0, tree.tokens[begin:end], tree.parents[begin:end]).logits)
    return np.concatenate(rows)


@pytest.mark.parametrize("kind", BRANCHING_KINDS)
@given(data=st.data())
def test_commit_then_decode_equals_sequential_decode(
    context_of: ContextOf,
    plain_of: ContextOf,
    encoding: TreeEncoding,
    kind: str,
    data: st.DataObject,
) -> None:
    cache = data.draw(caches(encoding))
    context, plain = context_of(kind, cache), plain_of(kind, cache)
    text, tree = data.draw(texts(min_size=1), "text"), data.draw(trees(), "tree")
    context.prefill(text, 0)
    grow_in_passes(data, context, tree)
    path = random_path(data, tree)
    context.commit(0, path)
    text += tree.tokens[path].tolist()
    assert_goes_on_as(context, plain, 0, text, cache)


@pytest.mark.parametrize("kind", BRANCHING_KINDS)
@given(data=st.data())
def test_discard_then_decode_equals_decoding_without_the_tree(
    context_of: ContextOf,
    plain_of: ContextOf,
    encoding: TreeEncoding,
    kind: str,
    data: st.DataObject,
) -> None:
    cache = data.draw(caches(encoding))
    context, plain = context_of(kind, cache), plain_of(kind, cache)
    text, tree = data.draw(texts(min_size=1), "text"), data.draw(trees(), "tree")
    context.prefill(text, 0)
    grow_in_passes(data, context, tree)
    context.discard(0)
    assert_goes_on_as(context, plain, 0, text, cache)


def assert_goes_on_as(
    context: Context, plain: Context, seq: int, text: list[int], cache: CacheKind
) -> None:
    assert context.sequences.n_past(seq) == len(text)
    token = 3 + sum(text) % (N_VOCAB - 3)
    alone = plain_logits(plain, [*text, token], 1)[0]
    assert np.abs(next_logits(context, seq, token) - alone).max() <= cache.tolerance


ROUNDS = [
    *((TreeEncoding.SEQUENCES, cache) for cache in CACHES),
    *((TreeEncoding.ANCESTORS, cache) for cache in CACHES + OTHER_CACHES),
]


@pytest.mark.parametrize(("encoding", "cache"), ROUNDS, indirect=["encoding"], ids=id_of)
@pytest.mark.parametrize("kind", BRANCHING_KINDS)
def test_many_rounds_of_trees_equal_sequential_decode(
    context_of: ContextOf, plain_of: ContextOf, kind: str, cache: CacheKind
) -> None:
    """Three sequences, two of which share their beginning, through 24 rounds of one pass each."""
    context, plain = context_of(kind, cache), plain_of(kind, cache)
    rng = np.random.default_rng(7)
    written = [rng.integers(3, N_VOCAB, n).tolist() for n in (9, 9, 3)]
    written[1] = written[0][:6] + written[1][6:]
    start(context, written[:2], 6)
    context.prefill(written[2], 2)
    for _ in range(24):
        seqs = np.flatnonzero(rng.random(3) < 0.7).tolist() or [0]
        batch, planted = Batch(context.n_batch), {}
        for seq in seqs:
            tree = random_tree(rng)
            planted[seq] = tree, context.place(batch, seq, tree)
        context.decode(batch)
        logits = context.outputs.logits
        checked = int(rng.choice(seqs))
        tree, rows = planted[checked]
        worst = tree_differences(plain, written[checked], tree, logits[rows])
        assert worst.max() <= cache.tolerance
        for seq, (tree, _) in planted.items():
            path = tree.path(int(rng.integers(-1, len(tree)))).tolist()
            context.commit(seq, path)
            written[seq] += tree.tokens[path].tolist()
    for seq, text in enumerate(written):
        assert_goes_on_as(context, plain, seq, text, cache)


def test_a_pending_chain_longer_than_the_window_costs_its_text_no_cell(
    context_of: ContextOf, plain_of: ContextOf
) -> None:
    """Another sequence's pass must not count the text as out of the chain's window: it may be
    rolled back to. (Nothing is taken here, as cells are free: a full cache is in test_tree.py.)"""
    cache = CACHES[0]
    context, plain = context_of("swa", cache), plain_of("swa", cache)
    text = list(range(40, 60))
    context.prefill(text[:5], 1)
    context.prefill(text, 0)
    context.decode(TokenTree.chain([5] * 30), seq=0)
    context.memory.rm(1)
    context.prefill([6] * 40, 2)
    context.discard(0)
    assert_goes_on_as(context, plain, 0, text, cache)


def random_tree(rng: np.random.Generator) -> TokenTree:
    n_nodes = int(rng.integers(1, 13))
    parents = [int(rng.integers(-1, node)) for node in range(n_nodes)]
    return TokenTree.from_parents(rng.integers(3, N_VOCAB, n_nodes), parents)


@pytest.mark.parametrize("cache", CACHES, ids=id_of)
@pytest.mark.parametrize("kind", BRANCHING_KINDS)
def test_the_tolerance_tells_a_tree_with_another_ancestor(
    plain_of: ContextOf, kind: str, cache: CacheKind
) -> None:
    """Otherwise the tests above could not fail: a wrong ancestor moves the logits by far more."""
    plain = plain_of(kind, cache)
    rng = np.random.default_rng(3)
    moved = []
    for _ in range(30):
        text = rng.integers(3, N_VOCAB, 12)
        wrong = text.copy()
        wrong[rng.integers(6, 11)] = rng.integers(3, N_VOCAB)
        if (wrong != text).any():
            right_row, wrong_row = (plain_logits(plain, t.tolist(), 1)[0] for t in (text, wrong))
            moved.append(np.abs(right_row - wrong_row).max())
    assert np.mean(np.array(moved) > cache.tolerance) > 0.95
    assert np.median(moved) > 5 * cache.tolerance
