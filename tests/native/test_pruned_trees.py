"""Trees that lose their dead branches: what stays goes on as if the rest had never been."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from pytreellama import Context, Model, TokenTree, TreeEncoding
from pytreellama.errors import MemoryStateError, TreeError
from pytreellama.testing.cells import read_cells

TEXT = [10, 20, 30, 40, 50]
BRANCHING = TokenTree.from_paths([[5, 6, 7], [5, 8], [9, 11]])  # 5 9, 6 8 11, 7

TinyModel = Callable[..., Model]


@pytest.fixture(params=TreeEncoding, ids=lambda encoding: encoding.value)
def encoding(request: pytest.FixtureRequest) -> TreeEncoding:
    found: TreeEncoding = request.param
    return found


def n_used(context: Context) -> int:
    cells = read_cells(context)
    assert cells is not None
    return int((cells.positions >= 0).sum())


def logits_after(model: Model, text: list[int]) -> np.ndarray:
    with Context(model, n_ctx=256, n_threads=1) as context:
        context.prefill(text, logits=True)
        return context.outputs.logits[0]


@pytest.mark.parametrize("kind", ["rope", "swa", "alibi"])
def test_what_stays_is_grown_and_committed_as_before(
    tiny_model: TinyModel, encoding: TreeEncoding, kind: str
) -> None:
    model = tiny_model(kind)
    with Context(model, n_ctx=256, n_threads=1, tree_encoding=encoding) as context:
        seq = context.prefill(TEXT)
        context.decode(BRANCHING, seq=seq)
        assert context.prune(seq, [2, 4]).tolist() == [0, 1, 2, -1, 3, -1]  # 5, 9, 5 6, 9 11
        assert n_used(context) == len(TEXT) + 4
        grown = context.grow(seq, [12, 13, 14], [2, 3, 4]).logits  # 5 6 12, 9 11 13, 5 6 12 14
        paths = ([5, 6, 12], [9, 11, 13], [5, 6, 12, 14])
        for row, path in zip(grown, paths, strict=True):
            expected = logits_after(model, TEXT + path)
            if context.is_batch_invariant and encoding is TreeEncoding.ANCESTORS:
                assert np.array_equal(row, expected)
            assert np.abs(row - expected).max() < 2e-2
        context.commit(seq, [0, 2, 4, 6])
        assert n_used(context) == context.sequences.n_past(seq) == len(TEXT) + 4
        context.prefill([77], seq, logits=True)
        expected = logits_after(model, [*TEXT, 5, 6, 12, 14, 77])
        assert np.abs(context.outputs.logits[0] - expected).max() < 2e-2


def test_to_keep_nothing_is_to_discard(tiny_model: TinyModel, encoding: TreeEncoding) -> None:
    with Context(tiny_model("rope"), n_ctx=256, n_threads=1, tree_encoding=encoding) as context:
        seq = context.prefill(TEXT)
        context.decode(BRANCHING, seq=seq)
        assert context.prune(seq, []).tolist() == [-1] * 6
        assert not context.sequences.is_pending(seq)
        assert n_used(context) == len(TEXT)
        context.decode(BRANCHING, seq=seq)


def test_to_keep_all_changes_nothing(tiny_model: TinyModel, encoding: TreeEncoding) -> None:
    with Context(tiny_model("rope"), n_ctx=256, n_threads=1, tree_encoding=encoding) as context:
        seq = context.prefill(TEXT)
        context.decode(BRANCHING, seq=seq)
        assert context.prune(seq, [5, 3, 4]).tolist() == list(range(6))
        assert n_used(context) == len(TEXT) + 6


@pytest.mark.parametrize("keep", [[6], [-1], [0, 10**12]])
def test_nodes_that_there_are_not_cannot_be_kept(
    tiny_model: TinyModel, encoding: TreeEncoding, keep: list[int]
) -> None:
    with Context(tiny_model("rope"), n_ctx=256, n_threads=1, tree_encoding=encoding) as context:
        seq = context.prefill(TEXT)
        with pytest.raises(MemoryStateError, match="no pending nodes"):
            context.prune(seq, [0])
        context.decode(BRANCHING, seq=seq)
        with pytest.raises(TreeError, match=r"invalid keep=.* from 0 to 5"):
            context.prune(seq, keep)
        assert n_used(context) == len(TEXT) + 6


def test_beams_go_far_deeper_than_a_tree_has_nodes(tiny_model: TinyModel) -> None:
    """Width 4 for 400 levels is 1,600 nodes; what is alive is 400 and a few."""
    model = tiny_model("rope")
    rng = np.random.default_rng(1)
    with Context(model, n_ctx=512, n_batch=64, n_threads=1) as context:
        seq = context.prefill(TEXT)
        context.decode(TokenTree.from_parents([5, 6, 7, 8], [-1] * 4), seq=seq)
        ends, paths = [0, 1, 2, 3], [[5], [6], [7], [8]]
        for _ in range(399):
            parents = sorted(rng.integers(0, 4, 4).tolist())
            moved = context.prune(seq, [ends[p] for p in parents])
            n_nodes = int(moved.max()) + 1
            tokens = rng.permutation(np.arange(5, 60))[:4].tolist()
            context.grow(seq, tokens, [int(moved[ends[p]]) for p in parents])
            paths = [[*paths[p], token] for p, token in zip(parents, tokens, strict=True)]
            ends = list(range(n_nodes, n_nodes + 4))
        row = context.outputs.logits[2]
    with Context(model, n_ctx=512, n_batch=64, n_threads=1) as plain:
        plain.prefill(TEXT + paths[2], logits=True)
        assert np.abs(plain.outputs.logits[0] - row).max() < 2e-2


@pytest.mark.parametrize("kind", ["qwen4exp", "glm5-next"])
def test_a_chain_on_a_state_is_kept_whole_or_not_at_all(tiny_model: TinyModel, kind: str) -> None:
    with Context(tiny_model(kind), n_ctx=256, n_threads=1) as context:
        seq = context.prefill(TEXT)
        context.decode(TokenTree.chain([5, 6, 7]), seq=seq)
        with pytest.raises(TreeError, match="recurrent state"):
            context.prune(seq, [1])
        assert context.prune(seq, [2]).tolist() == [0, 1, 2]
        assert context.prune(seq, []).tolist() == [-1, -1, -1]
        assert context.sequences.n_past(seq) == len(TEXT)
        assert not context.sequences.is_pending(seq)
