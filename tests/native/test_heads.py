"""Heads: what they compute, against NumPy; trees that grow from them; files that are refused."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends import tolerance
from pytreellama import Model
from pytreellama.errors import MedusaError
from pytreellama.medusa.weights import HeadWeights
from pytreellama.model.heads import Heads, model_hash
from pytreellama.native.logits import float_row, top_k_rows
from random_heads import expected_logits, random_heads, write_random_heads

gguf = pytest.importorskip("gguf", reason="needs gguf: pip install 'pytreellama[test]'")

TinyModel = Callable[..., Model]

SEES = ("none", "root", "path")
STATE = np.random.default_rng(7).normal(0, 1, 64).astype(np.float32)


@pytest.fixture
def model(tiny_model: TinyModel) -> Model:
    return tiny_model("rope", dtype="f32", n_embd=64)


def seen_of(head: int, heads: Heads, model: Model) -> list[int]:
    return [(17 * i + 270) % model.vocab.n_tokens for i in range(heads.n_seen(head))]


# -- what they compute


@pytest.mark.parametrize("sees", SEES)
@pytest.mark.parametrize("n_layers", [1, 3])
@pytest.mark.parametrize("n_shortlist", [0, 100])
@pytest.mark.parametrize("has_output", [False, True])
def test_logits_are_those_of_numpy(
    model: Model, tmp_path: Path, sees: Any, n_layers: int, n_shortlist: int, has_output: bool
) -> None:
    path = tmp_path / "heads.gguf"
    options: dict[str, Any] = {
        "n_layers": n_layers,
        "n_shortlist": n_shortlist,
        "has_output": has_output,
    }
    file = write_random_heads(model, path, sees=sees, **options)
    with Heads(path, model) as heads:
        assert (heads.n_layers, heads.sees, heads.has_output) == (n_layers, sees, has_output)
        assert heads.has_shortlist == bool(n_shortlist)
        for head in range(heads.n_heads):
            seen = seen_of(head, heads, model)
            logits = heads.logits(1, head, STATE, [seen])[0]
            expected = expected_logits(file, model, head, STATE, seen)
            np.testing.assert_allclose(logits, expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize(("file_type", "tolerance"), [("f16", 0.02), ("q8_0", 0.15)])
def test_smaller_types_are_close(
    model: Model, tmp_path: Path, file_type: Any, tolerance: float
) -> None:
    path = tmp_path / "heads.gguf"
    file = write_random_heads(model, path, file_type, sees="path")
    with Heads(path, model) as heads:
        seen = seen_of(2, heads, model)
        expected = expected_logits(file, model, 2, STATE, seen)
        found = heads.logits(1, 2, STATE, [seen])[0]
        assert np.abs(found - expected).max() < tolerance * np.abs(expected).max()


@pytest.mark.parametrize("dtype", ["f16", "q8_0"])
@pytest.mark.parametrize("n_shortlist", [0, 64])
def test_rows_are_the_models_own_in_the_models_type(
    tiny_model: TinyModel, tmp_path: Path, dtype: str, n_shortlist: int
) -> None:
    model = tiny_model("rope", dtype=dtype, n_embd=64)
    path = tmp_path / "heads.gguf"
    file = write_random_heads(model, path, n_shortlist=n_shortlist)
    with Heads(path, model) as heads:
        every = np.arange(model.vocab.n_tokens)
        assert np.array_equal(heads.tokens, every if file.shortlist is None else file.shortlist)
        expected = expected_logits(file, model, 0, STATE, [])
        found = heads.logits(1, 0, STATE, [[]])[0]
        assert np.abs(found - expected).max() < 0.03 * np.abs(expected).max()


@pytest.mark.parametrize("dtype", ["f32", "q8_0"])
def test_deeper_heads_have_the_first_rows_alone(
    tiny_model: TinyModel, tmp_path: Path, dtype: str
) -> None:
    model = tiny_model("rope", dtype=dtype, n_embd=64)
    path = tmp_path / "heads.gguf"
    file = write_random_heads(model, path, sees="path", n_shortlist=64, n_deep_rows=20)
    with Heads(path, model) as heads:
        for head, n_rows in enumerate((64, 20, 20)):
            seen = seen_of(head, heads, model)
            logits = heads.logits(1, head, STATE, [seen])
            assert logits.shape == (1, heads.n_rows_of(head)) == (1, n_rows)
            expected = expected_logits(file, model, head, STATE, seen)
            tolerance = 1e-4 if dtype == "f32" else 0.03
            assert np.abs(logits[0] - expected).max() < tolerance * np.abs(expected).max()
        assert file.shortlist is not None
        grown = heads.grow(1, STATE, 270, 300, top=64, width=8, min_p=0.0)
        deep = {t for t, parent in zip(grown.tokens, grown.parents, strict=True) if parent >= 0}
        assert deep <= set(file.shortlist[:20].tolist())


@pytest.mark.parametrize(("row_type", "tolerance"), [("f16", 0.01), ("q5_1", 0.1), ("f32", 1e-4)])
def test_rows_can_be_made_smaller(
    model: Model, tmp_path: Path, row_type: Any, tolerance: float
) -> None:
    path = tmp_path / "heads.gguf"
    file = write_random_heads(model, path, n_shortlist=64, row_type=row_type)
    with Heads(path, model) as heads:
        expected = expected_logits(file, model, 1, STATE, [])
        found = heads.logits(1, 1, STATE, [[]])[0]
        assert np.abs(found - expected).max() < tolerance * np.abs(expected).max()


def test_columns_and_threads_do_not_change_what_a_head_says(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "heads.gguf"
    write_random_heads(model, path, sees="path")
    with Heads(path, model) as heads:
        seen = [[270 + i, 280 + i] for i in range(5)]
        together = heads.logits(2, 1, STATE, seen)
        alone = np.concatenate([heads.logits(1, 1, STATE, [one]) for one in seen])
        np.testing.assert_allclose(together, alone, atol=1e-5)


def test_logits_are_scaled(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "heads.gguf"
    file = write_random_heads(model, path, logit_scale=0.25)
    with Heads(path, model) as heads:
        expected = expected_logits(file, model, 1, STATE, [])
        np.testing.assert_allclose(heads.logits(1, 1, STATE, [[]])[0], expected, atol=2e-4)


def test_facts_are_in_the_file(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "heads.gguf"
    facts = {"training.n_steps": 12, "accuracy.top1": [0.5, 0.25], "training.sees": "none"}
    dataclasses.replace(random_heads(model), facts=facts).write(path, "f32")
    with Heads(path, model) as heads:
        assert heads.meta("general.license") == "mit"
        assert heads.meta("medusa.model.hash") == model_hash(model)
        assert heads.meta("medusa.training.n_steps") == "12"
        assert heads.meta("medusa.nothing") is None


# -- trees


def p_of(heads: Heads, root: int, path: tuple[int, ...]) -> float:
    """The path probability of some tokens, each from its own head."""
    row_of = {int(token): row for row, token in enumerate(heads.tokens)}
    p = 1.0
    for head, token in enumerate(path):
        seen = [root, *path[:head]][: heads.n_seen(head)]
        logits = heads.logits(1, head, STATE, [seen])[0].astype(np.float64)
        shares = np.exp(logits - logits.max())
        p *= shares[row_of[token]] / shares.sum()
    return p


def paths_of(grown: Any) -> list[tuple[int, ...]]:
    paths: list[tuple[int, ...]] = []
    for token, parent in zip(grown.tokens, grown.parents, strict=True):
        paths.append((*paths[parent], token) if parent >= 0 else (token,))
    return paths


@pytest.mark.parametrize("sees", SEES)
def test_the_likeliest_paths_of_all_are_found(model: Model, tmp_path: Path, sees: Any) -> None:
    path = tmp_path / "heads.gguf"
    write_random_heads(model, path, sees=sees, n_shortlist=6)
    with Heads(path, model) as heads:
        tokens = heads.tokens.tolist()
        products = [itertools.product(tokens, repeat=n) for n in (1, 2, 3)]
        best = sorted(
            (p_of(heads, 270, one) for product in products for one in product), reverse=True
        )
        grown = heads.grow(1, STATE, 270, 20, top=6, width=100, min_p=0.0)
        np.testing.assert_allclose(grown.p, best[:20], rtol=tolerance(1e-3, 1e-2))
        expected = [p_of(heads, 270, one) for one in paths_of(grown)]
        np.testing.assert_allclose(grown.p, expected, rtol=tolerance(1e-3, 1e-2))


def grown_plainly(
    heads: Heads, n_nodes: int, *, top: int, width: int, min_p: float
) -> tuple[list[int], list[int], list[float]]:
    """Of all nodes so far the likeliest, of equal ones the earlier; a level of them at a time."""
    paths: list[tuple[int, ...]] = [()]
    found: list[tuple[float, int, int]] = []  # p, parent, row

    def ranked() -> list[int]:
        return sorted(range(len(found)), key=lambda i: (-found[i][0], i))[:n_nodes]

    def add_children(parent: int) -> None:
        path = paths[parent + 1]
        seen = [270, *path][: heads.n_seen(len(path))]
        logits = heads.logits(1, len(path), STATE, [seen])
        n_rows = logits.shape[1]
        rows, logp = top_k_rows(float_row(logits), 1, n_rows, min(top, n_rows))
        p_parent = found[parent][0] if parent >= 0 else 1.0
        for row, logp_row in zip(rows[0].tolist(), logp[0].tolist(), strict=True):
            p = p_parent * math.exp(logp_row)
            if p >= min_p and p > 0.0:
                found.append((p, parent, row))
                paths.append((*path, int(heads.tokens[row])))

    add_children(-1)
    for depth in range(1, heads.n_heads):
        level = [i for i in ranked() if len(paths[i + 1]) == depth]
        for node in level[: width if heads.sees == "path" else None]:
            add_children(node)
    best = ranked()
    place = {-1: -1, **{node: rank for rank, node in enumerate(best)}}
    return (
        [paths[i + 1][-1] for i in best],
        [place[found[i][1]] for i in best],
        [found[i][0] for i in best],
    )


@pytest.mark.parametrize("sees", SEES)
@pytest.mark.parametrize("has_ties", [False, True])
def test_trees_are_those_of_a_plain_search(
    model: Model, tmp_path: Path, sees: Any, has_ties: bool
) -> None:
    path = tmp_path / "heads.gguf"
    heads = random_heads(model, sees=sees, n_shortlist=24, has_output=True)
    if has_ties:
        heads = dataclasses.replace(heads, heads=tuple(with_twin_rows(one) for one in heads.heads))
    heads.write(path, "f32")
    with Heads(path, model) as loaded:
        for n_nodes, top, width, min_p in itertools.product(
            (1, 2, 7, 40), (1, 3, 8), (1, 2, 5), (0.0, 0.01)
        ):
            limits: dict[str, Any] = {"top": top, "width": width, "min_p": min_p}
            grown = loaded.grow(1, STATE, 270, n_nodes, **limits)
            found = list(grown.tokens), list(grown.parents), list(grown.p)
            assert found == grown_plainly(loaded, n_nodes, **limits)
            if has_ties and n_nodes > 2 and top > 1:
                assert len(set(grown.p)) < len(grown.p)


def with_twin_rows(head: HeadWeights) -> HeadWeights:
    """Two tokens each get the same logit."""
    assert head.output is not None
    return dataclasses.replace(head, output=np.repeat(head.output[::2], 2, axis=0))


@pytest.mark.parametrize("sees", SEES)
def test_unlikely_paths_are_left_out(model: Model, tmp_path: Path, sees: Any) -> None:
    path = tmp_path / "heads.gguf"
    write_random_heads(model, path, sees=sees, n_shortlist=6)
    with Heads(path, model) as heads:
        every = heads.grow(1, STATE, 270, 500, top=6, width=100, min_p=0.0)
        likely = heads.grow(1, STATE, 270, 500, top=6, width=100, min_p=0.01)
        assert 0 < len(likely.p) < len(every.p)
        expected = sorted(p for p in every.p if p >= 0.01)
        np.testing.assert_allclose(sorted(likely.p), expected, rtol=tolerance(0.0, 1e-3))
        assert heads.grow(1, STATE, 270, 500, top=6, width=100, min_p=1.0).p == []


def test_a_level_follows_up_as_many_as_it_may(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "heads.gguf"
    write_random_heads(model, path, sees="path", n_shortlist=6)
    with Heads(path, model) as heads:
        grown = heads.grow(1, STATE, 270, 500, top=6, width=1, min_p=0.0)
        parents = [p for p in set(grown.parents) if p >= 0]
        assert len(parents) == heads.n_heads - 1
        assert len(grown.p) == 6 * heads.n_heads


@pytest.mark.parametrize("sees", SEES)
def test_a_shape_is_filled_rank_by_rank(model: Model, tmp_path: Path, sees: Any) -> None:
    path = tmp_path / "heads.gguf"
    write_random_heads(model, path, sees=sees)
    parents = np.array([-1, -1, 0, 0, 1, 2, 4], np.int32)
    ranks = np.array([0, 2, 0, 1, 3, 0, 1], np.int32)
    with Heads(path, model) as heads:
        grown = heads.fill(1, STATE, 270, parents, ranks)
        tokens = heads.tokens
        for path_of, rank, p in zip(paths_of(grown), ranks.tolist(), grown.p, strict=True):
            head = len(path_of) - 1
            seen = [270, *path_of[:-1]][: heads.n_seen(head)]
            order = np.argsort(-heads.logits(1, head, STATE, [seen])[0], kind="stable")
            assert path_of[-1] == tokens[order[rank]]
            assert p == pytest.approx(p_of(heads, 270, path_of), rel=1e-3)


# -- files that are refused


def refused(path: Path, model: Model, match: str) -> None:
    with pytest.raises(MedusaError, match=match):
        Heads(path, model)


def test_heads_of_another_model_are_refused_unless_asked_for(
    model: Model, tiny_model: TinyModel, tmp_path: Path
) -> None:
    path = tmp_path / "heads.gguf"
    write_random_heads(model, path)
    other = tiny_model("rope", dtype="f32", n_embd=64, seed=5)
    refused(path, other, "other weights.*medusa train")
    Heads(path, other, any_model=True).close()


def test_another_type_of_weights_is_the_same_model(
    model: Model, tiny_model: TinyModel, tmp_path: Path
) -> None:
    path = tmp_path / "heads.gguf"
    write_random_heads(model, path)
    Heads(path, tiny_model("rope", dtype="q8_0", n_embd=64)).close()


def test_another_width_is_refused(model: Model, tiny_model: TinyModel, tmp_path: Path) -> None:
    path = tmp_path / "heads.gguf"
    write_random_heads(model, path)
    refused(path, tiny_model("rope", n_embd=32), "64 channels, the model has 32")


def test_a_model_is_no_file_of_heads(model: Model) -> None:
    refused(model.path, model, "architecture is 'llama', not 'medusa'")


@pytest.mark.parametrize("n_kept", [0, 10, 700, -1])
def test_a_file_that_is_cut_short_is_refused(model: Model, tmp_path: Path, n_kept: int) -> None:
    path = tmp_path / "heads.gguf"
    write_random_heads(model, path)
    whole = path.read_bytes()
    path.write_bytes(whole[:n_kept] if n_kept >= 0 else whole[: len(whole) - 100])
    refused(path, model, "no heads")


def test_a_missing_file_is_refused(model: Model, tmp_path: Path) -> None:
    refused(tmp_path / "none.gguf", model, "cannot read")


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["weights", "biases"])
def test_weights_that_are_no_numbers_are_refused(
    model: Model, tmp_path: Path, where: str, value: float
) -> None:
    path = tmp_path / "heads.gguf"
    file = random_heads(model)
    getattr(file.heads[1], where)[0].flat[3] = value
    file.write(path, "f32")
    refused(path, model, r"head\.1\.block\.0.*NaN or infinite")


def test_a_wrong_shape_is_refused(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "heads.gguf"
    dataclasses.replace(random_heads(model, sees="none"), sees="root").write(path, "f32")
    refused(path, model, r"shape 64 x 64, it must be 128 x 64")


@pytest.mark.parametrize("shortlist", [[5, 5], [-1, 3], [3, 10**6]])
def test_a_shortlist_of_no_tokens_is_refused(
    model: Model, tmp_path: Path, shortlist: list[int]
) -> None:
    path = tmp_path / "heads.gguf"
    file = random_heads(model)
    dataclasses.replace(file, shortlist=np.array(shortlist, np.int32)).write(path, "f32")
    refused(path, model, "shortlist must hold token ids from 0 to")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"n_deep_rows": 3}, "needs a shortlist"),
        ({"n_deep_rows": 3, "n_shortlist": 8}, "heads that see the path"),
        ({"n_deep_rows": 9, "n_shortlist": 8, "sees": "path"}, "it must be from 1 to 8"),
        ({"row_type": "q2_k", "n_shortlist": 8}, "row_type' is 'q2_k'"),
    ],
)
def test_rows_that_cannot_be_are_refused(
    model: Model, tmp_path: Path, changes: dict[str, Any], match: str
) -> None:
    path = tmp_path / "heads.gguf"
    write_random_heads(model, path, **changes)
    refused(path, model, match)


def test_what_heads_cannot_do_is_told(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "heads.gguf"
    write_random_heads(model, path, sees="root")
    with Heads(path, model) as heads:
        with pytest.raises(MedusaError, match="invalid head=3: this file has heads 0 to 2"):
            heads.logits(1, 3, STATE, [[270]])
        with pytest.raises(MedusaError, match="sees 1 tokens a column"):
            heads.logits(1, 0, STATE, [[270, 271]])
        with pytest.raises(MedusaError, match=r"float32 of shape \(64,\)"):
            heads.logits(1, 0, STATE[:10], [[270]])
        with pytest.raises(MedusaError, match="has no embedding"):
            heads.logits(1, 0, STATE, [[10**6]])
    with pytest.raises(MedusaError, match="closed"):
        heads.logits(1, 0, STATE, [[270]])


def test_heads_outlive_the_model_that_is_closed(tiny_model_path: Any, tmp_path: Path) -> None:
    path = tmp_path / "heads.gguf"
    model = Model(tiny_model_path("rope", dtype="f32", n_embd=64))
    write_random_heads(model, path, sees="root")
    heads = Heads(path, model)
    model.close()
    assert np.isfinite(heads.logits(1, 0, STATE, [[270]])).all()
    heads.close()
    heads.close()
